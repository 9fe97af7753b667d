"""The official nuScenes detection benchmark, by the unmodified nuscenes-devkit.

Importing this module does not import the devkit, which takes a second.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.formats.infos import CREATE
from nsmae_plugin.formats.nuscenes.scenes import scenes_of_samples
from nsmae_plugin.formats.nuscenes.splits import (
    EVAL_SETS,
    check_scenes,
    custom_splits,
    split_file,
)
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.reading import GIB, read_json

CONFIG = "detection_cvpr_2019"
MAX_BOXES = 500  # per sample; the benchmark refuses files with more
SUMMARY = "metrics_summary.json"
DETAILS = "metrics_details.json"
SHOWN = 3  # samples that an error message spells out


@dataclass(frozen=True)
class Split:
    """A split of a database on disk.

    Attributes:
        root: folder that holds ``samples/`` and the folder ``version`` of JSON tables.
        name: the devkit's.
        tokens: its samples that are evaluated: those that the database has, or whole scenes of
            them.
    """

    root: Path
    version: str
    name: str
    tokens: frozenset[str]

    @property
    def has_labels(self) -> bool:
        """True if there are annotations; those of v1.0-test are not public."""
        return self.version != "v1.0-test"

    def check_samples(self, tokens: Iterable[str], subject: str) -> None:
        """Compare ``tokens`` with the samples of the split.

        Args:
            subject: beginning of the message, such as "the info files hold".

        Raises:
            DataError: naming the first samples that are missing or too many.
        """
        given = set(tokens)
        missing, foreign = sorted(self.tokens - given), sorted(given - self.tokens)
        if missing:
            raise DataError(
                f"{subject} {len(self.tokens) - len(missing)} of the {len(self.tokens)} samples of "
                f"the split {self.name} of {self.root}, and the benchmark is defined on all; "
                f"missing: {', '.join(missing[:SHOWN])}{' ...' if missing[SHOWN:] else ''} "
                f"({CREATE}; or list the scenes of a part as a split of its own in splits.json "
                "beside the tables)"
            )
        if foreign:
            raise DataError(
                f"{subject} {len(foreign)} samples that are not in the split {self.name} of "
                f"{self.root}, first: {', '.join(foreign[:SHOWN])}; DATA_CONFIG.DATA_SPLIT.test "
                "names the split that is evaluated"
            )


def find(root: Path, version: str, split: str) -> Split:
    """The split of a database that ``DATA_SPLIT.test`` names.

    Args:
        split: ``train`` or ``val`` (of v1.0-mini: its own ones), one of the devkit's names, or a
            name in ``splits.json`` beside the tables. Anything of v1.0-test means its only split.

    Raises:
        ConfigError: the version has no such split.
        DataError: the database cannot be read, or has no samples of the split.
    """
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    names = EVAL_SETS.get(version, {})
    eval_set = "test" if version == "v1.0-test" else names.get(split, split)
    path, custom = split_file(root, version), custom_splits(root, version)
    if split in custom and eval_set in official:
        raise ConfigError(
            f"{path} names scenes of its own for {split!r}, but the devkit evaluates its own "
            f"list {eval_set!r}; add the scenes under another name, such as my_{split}, and set "
            f"DATA_CONFIG.DATA_SPLIT.test my_{split}"
        )
    if eval_set in names.values():
        scenes = official[eval_set]
    elif eval_set in custom:
        scenes = custom[eval_set]
    else:
        known = dict.fromkeys([*names, *names.values(), *custom])
        raise ConfigError(
            f"DATA_CONFIG.DATA_SPLIT.test: {version} has no split {split!r} that the devkit can "
            f"evaluate; known: {', '.join(known) or 'none'}. A split of your own goes into {path} "
            f'as {{"my_val": [scene names]}}'
        )
    scene_of = scenes_of_samples(root, version)
    if eval_set not in names.values():
        check_scenes(scenes, set(scene_of.values()), path)
    tokens = {token for token, scene in scene_of.items() if scene in scenes}
    if not tokens:
        raise DataError(f"{root / version} has no sample of the split {eval_set}")
    return Split(root, version, eval_set, frozenset(tokens))


def score(split: Split, results: Path, folder: Path) -> tuple[str, dict[str, float]]:
    """Evaluate a results file with the devkit.

    It writes ``metrics_summary.json`` and ``metrics_details.json`` into ``folder``.

    Returns:
        The devkit's table with the APs at each distance, and ``mAP``, ``NDS``, the five mean
        true-positive errors (``trans_err``, ...), ``AP/<class>``, and ``mAP_present``: the mean AP
        of the classes that the split has boxes of. A class without boxes has AP 0 however good the
        predictions are, so that ``mAP`` cannot reach 1 on a small split.

    Raises:
        DataError: the file holds other samples than the split, or breaks a rule of the benchmark.
    """
    tokens = _read_results(results)
    split.check_samples(tokens, f"{results} holds")
    if not any(tokens.values()):
        return _score_nothing(folder)
    with _devkit(f"evaluate {results}") as printed:
        from nuscenes import NuScenes
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.detection.evaluate import NuScenesEval

        database = NuScenes(split.version, str(split.root), verbose=False)
        _restrict(database, split.tokens)
        evaluation = NuScenesEval(
            database,
            config_factory(CONFIG),
            str(results),
            split.name,
            str(folder),
            verbose=False,
        )
        printed.truncate(printed.seek(0))
        evaluation.main(plot_examples=0, render_curves=False)
    with suppress(OSError):  # the devkit makes it and leaves it empty; older curves may be in it
        (folder / "plots").rmdir()
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    present = {box.detection_name for box in evaluation.gt_boxes.all}
    metrics = _metrics(summary, present)
    lines = [printed.getvalue().rstrip(), "", _distance_table(summary)]
    if len(present) < len(summary["mean_dist_aps"]):
        mean = f"{metrics['mAP_present']:.4f}"
        lines += ["", f"mAP of the {len(present)} classes that the split has: {mean}"]
    return "\n".join(lines), metrics


def _read_results(path: Path) -> dict[str, list[Any]]:
    remedy = 'it must read {"meta": {...}, "results": {sample token: [boxes]}}'
    content = read_json(path, "the results", remedy, most=16 * GIB)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not isinstance(content.get("meta"), dict):
        raise DataError(f"{path} is not a results file of nuScenes: {remedy}")
    wrong = [token for token, boxes in results.items() if not isinstance(boxes, list)]
    if wrong:
        raise DataError(f"{path} has no list of boxes for sample {brief(wrong[0])}: {remedy}")
    return results


def _restrict(database: Any, tokens: Collection[str]) -> None:
    """Take all other samples out of a database: the devkit evaluates those of a split it finds."""
    database.sample = [one for one in database.sample if one["token"] in tokens]
    database._token2ind["sample"] = {one["token"]: i for i, one in enumerate(database.sample)}


@contextmanager
def _devkit(action: str) -> Iterator[io.StringIO]:
    """Capture the devkit's output; turn its exceptions into DataErrors."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        try:
            yield printed
        except Exception as error:  # the devkit asserts, and raises plain Exceptions
            raise DataError(f"the nuscenes-devkit cannot {action}: {brief(error)}") from error


def _score_nothing(folder: Path) -> tuple[str, dict[str, float]]:
    """The result of the devkit's formulas without any box; its own filter refuses such a file."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.constants import TP_METRICS
    from nuscenes.eval.detection.data_classes import DetectionMetrics

    config = config_factory(CONFIG)
    metrics = DetectionMetrics(config)
    for name in config.class_names:
        for distance in config.dist_ths:
            metrics.add_label_ap(name, distance, 0.0)
        for error in TP_METRICS:
            metrics.add_label_tp(name, error, 1.0)
    metrics.add_runtime(0.0)
    summary = json.loads(json.dumps(metrics.serialize()))
    files.write_text(folder / SUMMARY, json.dumps(summary, indent=2))
    (folder / DETAILS).unlink(missing_ok=True)  # of an earlier evaluation
    return "not a single box was predicted: mAP 0, NDS 0", _metrics(summary, config.class_names)


def _metrics(summary: Mapping[str, Any], present: Collection[str]) -> dict[str, float]:
    aps = summary["mean_dist_aps"]
    return {
        "mAP": summary["mean_ap"],
        "mAP_present": sum(value for name, value in aps.items() if name in present) / len(present),
        "NDS": summary["nd_score"],
        **summary["tp_errors"],
        **{f"AP/{name}": value for name, value in aps.items()},
    }


def _distance_table(summary: Mapping[str, Any]) -> str:
    """AP of every class at each matching distance."""
    aps = summary["label_aps"]
    distances = list(next(iter(aps.values())))
    lines = ["AP within".ljust(20) + "".join(f"{distance} m".rjust(8) for distance in distances)]
    for name, values in aps.items():
        lines.append(name.ljust(20) + "".join(f"{values[one]:8.3f}" for one in distances))
    return "\n".join(lines)

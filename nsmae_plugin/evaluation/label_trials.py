"""The trials of a label-efficiency experiment: their settings, commands and records.

A trial fine-tunes one detector, from scratch or from pre-trained weights, on a fraction of the
labels with one seed, and evaluates it. It lives in a run folder of its own,
``<output_dir>/<group>/<config>/<tag>/<arm>_<fraction>_seed<seed>``, whose ``trial.json`` tells how
far it is and with what settings. A record is trusted only for the settings that it was made with.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsmae_plugin import __version__
from nsmae_plugin.config import load_config
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.training.run_log import run_folder

SCRATCH, PRETRAINED = ARMS = ("scratch", "pretrained")
RECORD = "trial.json"
EVAL_TAG = "label_efficiency"  # keeps evaluations by hand apart from those that count
SHOWN = 3  # differing settings that an error message spells out
TOOLS = Path(__file__).resolve().parents[2] / "tools"

TRAINING, TRAINED, FINISHED = "training", "trained", "finished"  # stages of a record
Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One fine-tuning: where it starts from, its share of the labels in (0, 1], its seed."""

    arm: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}_{self.fraction!r}_seed{self.seed}"


@dataclass
class Record:
    """What a trial folder knows about itself.

    Attributes:
        settings: everything that decides the trial's result, see :meth:`Experiment.settings`.
        stage: ``training`` (begun), ``trained`` (to be evaluated) or ``finished``.
        metrics: content of the evaluation's metrics file, once finished.
        seconds: wall time of ``train`` (all its parts together) and ``test``.
    """

    trial: Trial
    settings: Settings
    stage: str = TRAINING
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    version: str = __version__

    def save(self, folder: Path) -> None:
        """Write the record so that readers see the old file or the whole new one."""
        content = {**vars(self), "trial": vars(self.trial)}
        content["fingerprint"] = fingerprint(self.settings)
        temporary = folder / f".{RECORD}.tmp"
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(temporary, folder / RECORD)


def read_record(folder: Path) -> Record | None:
    """The record of a trial folder, None when it has none.

    Raises:
        DataError: for a record that is damaged, or whose settings do not match its fingerprint.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        expected = content.pop("fingerprint")
        record = Record(**{**content, "trial": Trial(**content["trial"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no record of a trial ({error}); remove {folder}") from error
    if fingerprint(record.settings) != expected:
        raise DataError(f"{path} was edited: its settings belong to another fingerprint")
    return record


def fingerprint(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Experiment:
    """Scratch against pre-trained over fractions of the labels and seeds.

    Args:
        weights: what the pre-trained arm starts from; None leaves that arm out.
        overrides: ``KEY VALUE`` pairs for the configuration, of training and evaluation.
        train_args, test_args: further words for ``tools/train.py`` and ``tools/test.py``.
        plumbing: words for both that change no result, such as ``--workers 2``.
    """

    cfg_file: Path
    output_dir: Path
    tag: str
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    weights: Path | None = None
    overrides: tuple[str, ...] = ()
    train_args: tuple[str, ...] = ()
    test_args: tuple[str, ...] = ()
    plumbing: tuple[str, ...] = ()
    _settings: dict[Trial, Settings] = field(default_factory=dict, init=False, repr=False)

    @property
    def folder(self) -> Path:
        return run_folder(self.output_dir, self.cfg_file, self.tag)

    def trial_folder(self, trial: Trial) -> Path:
        return self.folder / trial.name

    def trials(self, arms: tuple[str, ...] = ARMS) -> list[Trial]:
        """Seed by seed, so that the first comparisons are complete early."""
        arms = arms if self.weights else tuple(arm for arm in arms if arm != PRETRAINED)
        return [
            Trial(arm, fraction, seed)
            for seed in self.seeds
            for fraction in self.fractions
            for arm in arms
        ]

    def settings(self, trial: Trial) -> Settings:
        """Everything that decides the result of a trial, as plain JSON types.

        Weights count by content, so that a file may move; the configuration counts merged, so
        that an edit of any file that it is made of is noticed.

        Raises:
            ConfigError: for a configuration that is not valid.
        """
        if trial not in self._settings:
            config = load_config(self.cfg_file, self._train_overrides(trial))
            weights = self.weights if trial.arm == PRETRAINED else None
            self._settings[trial] = {
                "config": json.loads(json.dumps(config)),
                "seed": trial.seed,
                "weights_sha256": _sha256(weights) if weights else None,
                "train_args": list(self.train_args),
                "test_args": list(self.test_args),
            }
        return self._settings[trial]

    def _train_overrides(self, trial: Trial) -> list[str]:
        labels = {
            "DATA_CONFIG.LABEL_FRACTION": repr(trial.fraction),
            "DATA_CONFIG.LABEL_FRACTION_SEED": str(trial.seed),
        }
        return [*self.overrides, *(word for pair in labels.items() for word in pair)]

    def train_command(self, trial: Trial) -> list[str]:
        """Starts the training, or goes on with it where the trial's checkpoints end."""
        begun = any((self.trial_folder(trial) / "ckpt").glob("*.pth"))
        # A resumed run starts from its own checkpoint and refuses other weights.
        start = trial.arm == PRETRAINED and not begun
        weights = ["--pretrained_model", str(self.weights)] if start else []
        # One checkpoint is enough, and the only evaluation that counts comes after training.
        options = ["--max_ckpt_save_num", "1", "--eval_interval", "0"]
        words = ["--seed", str(trial.seed), *weights, *options, *self.train_args]
        return [*self._command("train.py", trial), *words, "--set", *self._train_overrides(trial)]

    def test_command(self, trial: Trial) -> list[str]:
        """Evaluates the newest checkpoint; the labels of the test split are never reduced."""
        overrides = ["--set", *self.overrides] if self.overrides else []
        words = ["--eval_tag", EVAL_TAG, *self.test_args, *overrides]
        return [*self._command("test.py", trial), *words]

    def _command(self, script: str, trial: Trial) -> list[str]:
        place = ["--extra_tag", f"{self.tag}/{trial.name}", "--output_dir", str(self.output_dir)]
        cfg = ["--cfg_file", str(self.cfg_file)]
        return [sys.executable, str(TOOLS / script), *cfg, *place, *self.plumbing]

    def stage(self, trial: Trial) -> str:
        """How far a trial is, in a word."""
        record = read_record(self.trial_folder(trial))
        return record.stage if record else "not begun"

    def finished(self) -> list[Record]:
        """Every finished trial in the folder, of this grid or not, made with these settings."""
        found = [record for record in self._records() if record.stage == FINISHED]
        return [record for record in found if not self.differences(record)]

    def outdated(self) -> dict[str, str]:
        """Name -> what differs, for every trial in the folder that does not belong here."""
        compared = {record.trial.name: self.differences(record) for record in self._records()}
        return {name: difference for name, difference in compared.items() if difference}

    def differences(self, record: Record) -> str:
        """First differences between a record's settings and this experiment's, '' for none."""
        if record.trial.arm == PRETRAINED and self.weights is None:
            return "no --pretrained_model is given to compare with"
        pairs = list(_differences(record.settings, self.settings(record.trial)))
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        return "; ".join(pairs[:SHOWN]) + more

    def check(self, trials: list[Trial]) -> None:
        """Raise ConfigError when settings are not valid, or a folder belongs to other ones."""
        for trial in trials:
            self.settings(trial)
            folder = self.trial_folder(trial)
            record = read_record(folder)
            if record:
                reason = self.differences(record)
            else:
                foreign = any((folder / "ckpt").glob("*.pth"))
                reason = f"it has checkpoints, but no {RECORD}" if foreign else ""
            if reason:
                raise ConfigError(
                    f"{folder} was made with other settings ({reason}); give another --extra_tag, "
                    "the settings of before, or remove the folder"
                )

    def _records(self) -> Iterator[Record]:
        for path in sorted(self.folder.glob(f"*/{RECORD}")):
            record = read_record(path.parent)
            if record:
                yield record


def _differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            name = f"{where}.{key}" if where else key
            yield from _differences(before.get(key), now.get(key), name)
    elif before != now:
        yield f"{where} {before} -> {now}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""A probe's folder: which networks, which settings, which trials have finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.experiments.fingerprints import fingerprint
from nsmae_plugin.experiments.probe.frames import ProbeData
from nsmae_plugin.experiments.probe.heads import RECIPES
from nsmae_plugin.experiments.probe.trials import LOG, Result, Trial, TrialLog
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.reading import read_json

FORMAT = 2  # raise it when trials give other results
STUDY = "study.json"


@dataclass(frozen=True)
class Probed:
    """A network of a probe.

    Attributes:
        features: digest of all that decides its features.
        origin: its weights, for the report.
        diagnostics: numbers by name, of the depth and of each branch.
        options: that decide the features, see :meth:`.extraction.ExtractOptions.settings`.
        untrained: slots of the encoders that the weights lack; all of them without weights.
    """

    features: str
    origin: str
    diagnostics: Mapping[str, Mapping[str, float]]
    options: Mapping[str, Any] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)


@dataclass
class Study:
    """What results in a folder belong to.

    Attributes:
        cfg_file: of the transfer network.
        labels: digest of the labels.
        label_fraction_by: ``frames`` or ``scenes``.
        split: that heads are scored on.
        frames: of training, and of the split.
        networks: by name; those of earlier starts in the same folder as well.
    """

    folder: Path
    cfg_file: str
    labels: str
    label_fraction_by: str
    split: str
    frames: tuple[int, int]
    networks: dict[str, Probed] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Study | None:
        """The study in a folder, None where there is none.

        Raises:
            DataError: its file is damaged.
        """
        path = folder / STUDY
        if not path.is_file():
            return None
        content = read_json(path, "the record of the probe", f"remove {path}")
        try:
            networks = {name: Probed(**one) for name, one in content.pop("networks").items()}
            return cls(folder=folder, networks=networks, **content)
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not the record of a probe ({brief(error)}); remove it"
            ) from error

    def save(self) -> None:
        content = asdict(self)
        del content["folder"]
        files.make_folder(self.folder)
        files.write_text(self.folder / STUDY, json.dumps(content, indent=1) + "\n")

    @property
    def log(self) -> TrialLog:
        return TrialLog(self.folder / LOG)

    def settings(self, trial: Trial) -> str:
        """Digest of everything but the trial itself that decides its result."""
        return fingerprint(
            {
                "format": FORMAT,
                "features": self.networks[trial.network].features,
                "labels": self.labels,
                "label_fraction_by": self.label_fraction_by,
                "recipe": asdict(RECIPES[trial.head]),
            }
        )

    def results(self, networks: Iterable[str]) -> tuple[list[Result], int]:
        """The results of some networks that were made with these settings, and the number of
        others.

        Results of trials that are no longer asked for count, too.
        """
        found: dict[Trial, Result] = {}
        others, wanted = 0, set(networks)
        for result in self.log.read():
            trial = result.trial
            if trial.network not in wanted:
                continue
            if trial.head in RECIPES and result.settings == self.settings(trial):
                found[trial] = result
            else:
                others += 1
        return list(found.values()), others


def labels_digest(splits: Sequence[ProbeData]) -> str:
    """Digest of the labels of some splits."""
    digest = hashlib.sha256()
    for labels in splits:
        words = [labels.tokens, labels.scenes, labels.class_names, labels.map_classes]
        rest = [sorted(labels.held_out), labels.grid, labels.map_grid]
        digest.update(repr((words, rest)).encode())
        for array in (*labels.boxes, labels.timestamps, labels.map_masks, labels.occupied):
            digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    return digest.hexdigest()

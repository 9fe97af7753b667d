"""The record of a trial of a label-efficiency experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsmae_plugin import __version__
from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.experiments.fingerprints import fingerprint
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.reading import read_json

RECORD = "trial.json"
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
    """The record in a trial folder.

    Attributes:
        settings: everything that decides the trial's result, see :meth:`Experiment.settings`.
        stage: ``training`` (begun), ``trained`` (to be evaluated) or ``finished``.
        metrics: content of the evaluation's metrics files, once finished.
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
        files.write_text(folder / RECORD, json.dumps(content, indent=1))


def read_record(folder: Path) -> Record | None:
    """The record of a trial folder, None when it has none.

    Raises:
        DataError: for a record that is damaged, or whose settings do not match its fingerprint.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_json(path, "the record", f"remove {folder}")
    try:
        expected = content.pop("fingerprint")
        record = Record(**{**content, "trial": Trial(**content["trial"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a record of a trial ({brief(error)}); remove {folder}"
        ) from error
    if fingerprint(record.settings) != expected:
        raise DataError(f"{path} was edited: its settings belong to another fingerprint")
    return record


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Differences of nested settings: dotted key, value before, value now."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            name = f"{where}.{key}" if where else key
            yield from differences(before.get(key), now.get(key), name)
    elif before != now:
        yield f"{where} {before} -> {now}"

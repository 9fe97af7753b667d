"""The trials of a label-efficiency experiment: their settings, commands and records.

A trial fine-tunes one detector, from scratch or from the weights of an arm, on a fraction of the
labels with one seed, and evaluates it. It lives in a run folder of its own,
``<output_dir>/<group>/<config>/<tag>/<arm>_<fraction>_seed<seed>``, whose ``trial.json`` says how
far it is and which settings it has. A record counts only for the settings that it was made with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.experiments.fingerprints import data_files, sha256
from nsmae_plugin.experiments.label_efficiency.arms import SCRATCH
from nsmae_plugin.experiments.label_efficiency.records import (
    FINISHED,
    RECORD,
    Record,
    Settings,
    Trial,
    differences,
    read_record,
)
from nsmae_plugin.training.checkpoint_manager import BEST
from nsmae_plugin.training.run_log import run_folder

EVAL_TAG = "label_efficiency"  # keeps evaluations by hand apart from those that count
SHOWN = 3  # differing settings that an error message spells out
NSMAE = ("-m", "nsmae_plugin.cli")


@dataclass(frozen=True)
class Experiment:
    """Scratch against other arms over fractions of the labels and seeds.

    Args:
        weights: what each of the other arms starts from.
        overrides: ``KEY VALUE`` pairs for the configuration, of training and evaluation.
        train_args, test_args: further words for ``nsmae train`` and ``nsmae test``.
        process_args: words for both that do not change the result, such as ``--workers 2``.
        processes: of one training, joined by torchrun when there are several.
    """

    cfg_file: Path
    output_dir: Path
    tag: str
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    weights: Mapping[str, Path] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    train_args: tuple[str, ...] = ()
    test_args: tuple[str, ...] = ()
    process_args: tuple[str, ...] = ()
    processes: int = 1
    _settings: dict[Trial, Settings] = field(default_factory=dict, init=False, repr=False)

    @property
    def folder(self) -> Path:
        return run_folder(self.output_dir, self.cfg_file, self.tag)

    def trial_folder(self, trial: Trial) -> Path:
        return self.folder / trial.name

    @property
    def arms(self) -> tuple[str, ...]:
        return (SCRATCH, *self.weights)

    def trials(self, arms: Sequence[str] | None = None) -> list[Trial]:
        """Seed by seed, so that the first comparisons are complete early; None: of all arms."""
        return [
            Trial(arm, fraction, seed)
            for seed in self.seeds
            for fraction in self.fractions
            for arm in arms or self.arms
        ]

    def settings(self, trial: Trial) -> Settings:
        """All settings that affect the result of a trial, as plain JSON types.

        Weights, info files and maps count by content, so that weights may move and another dataset
        in the same place is noticed; the configuration counts merged, so that an edit of any file
        that it is made of is noticed.

        Raises:
            ConfigError: for a configuration that is not valid.
        """
        if trial not in self._settings:
            config = load_config(self.cfg_file, self._train_overrides(trial))
            weights = self.weights.get(trial.arm)
            self._settings[trial] = {
                "config": json.loads(json.dumps(config)),
                "seed": trial.seed,
                "weights": sha256(weights) if weights else None,
                "infos": {str(path): sha256(path) for path in data_files(config.DATA_CONFIG)},
                "processes": self.processes,
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
        """Starts the training, or resumes it from the trial's newest checkpoint."""
        begun = any((self.trial_folder(trial) / "ckpt").glob("*.pth"))
        # A resumed run starts from its own checkpoint and refuses other weights.
        start = None if begun else self.weights.get(trial.arm)
        weights = ["--pretrained_model", str(start)] if start else []
        # One checkpoint is enough. With early stopping the validation part chooses it; else the
        # only evaluation is that of the test split after training.
        options = ["--max_ckpt_save_num", "1"]
        options += [] if self._stops_early(trial) else ["--eval_interval", "0"]
        words = ["--seed", str(trial.seed), *weights, *options, *self.train_args]
        return [*self._command("train", trial), *words, "--set", *self._train_overrides(trial)]

    def test_command(self, trial: Trial) -> list[str]:
        """Evaluates the newest checkpoint, with early stopping the best one.

        The labels of the test split are never reduced.
        """
        overrides = ["--set", *self.overrides] if self.overrides else []
        best = ["--ckpt", str(self.trial_folder(trial) / "ckpt" / BEST)]
        chosen = best if self._stops_early(trial) else []
        words = ["--eval_tag", EVAL_TAG, *chosen, *self.test_args, *overrides]
        return [*self._command("test", trial), *words]

    def _stops_early(self, trial: Trial) -> bool:
        config = self.settings(trial)["config"]
        return config["OPTIMIZATION"].get("EARLY_STOPPING") is not None

    def _command(self, command: str, trial: Trial) -> list[str]:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        torchrun += ["--nproc_per_node", str(self.processes)]
        several = self.processes > 1
        start = [sys.executable, *(torchrun if several else []), *NSMAE, command]
        launcher = ["--launcher", "pytorch"] if several else []
        place = ["--extra_tag", f"{self.tag}/{trial.name}", "--output_dir", str(self.output_dir)]
        cfg = ["--cfg_file", str(self.cfg_file)]
        return [*start, *cfg, *place, *launcher, *self.process_args]

    def stage(self, trial: Trial) -> str:
        """Status of a trial, in a word."""
        record = read_record(self.trial_folder(trial))
        return record.stage if record else "not begun"

    def finished(self) -> list[Record]:
        """Every finished trial in the folder, of this grid or not, made with these settings."""
        found = [record for record in self._records() if record.stage == FINISHED]
        return [record for record in found if not self.mismatch(record)]

    def outdated(self) -> dict[str, str]:
        """Name -> differences, for every trial in the folder with other settings."""
        compared = {record.trial.name: self.mismatch(record) for record in self._records()}
        return {name: difference for name, difference in compared.items() if difference}

    def mismatch(self, record: Record) -> str:
        """First differences between a record's settings and this experiment's, '' for none."""
        if record.trial.arm not in self.arms:
            return "no --pretrained_model is given to compare with"
        pairs = list(differences(record.settings, self.settings(record.trial)))
        more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        return "; ".join(pairs[:SHOWN]) + more

    def check(self, trials: list[Trial]) -> None:
        """Raise ConfigError when settings are not valid, or a folder belongs to other ones."""
        for trial in trials:
            self.settings(trial)
            folder = self.trial_folder(trial)
            record = read_record(folder)
            if record:
                reason = self.mismatch(record)
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

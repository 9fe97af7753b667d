"""The trials of a probe: what one is, how it runs, and the log of those that have finished."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.experiments.probe.heads import RECIPES, build_head, fit
from nsmae_plugin.experiments.probe.standardised import Standardised
from nsmae_plugin.experiments.probe.tasks import Task
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.reading import GIB, read_bytes

LOG = "trials.jsonl"
EVALUATION_BATCH = 16
LAST = 0.1  # share of the steps over which the loss is averaged for the record


@dataclass(frozen=True)
class Trial:
    """One head on the features of one branch of one network, trained on some frames.

    Attributes:
        head: a key of :data:`~nsmae_plugin.experiments.probe.heads.RECIPES`.
        task: its name.
        fraction: of the labels, in (0, 1].
        seed: of the labelled frames, of the head and of the order of the frames.
    """

    network: str
    branch: str
    head: str
    task: str
    fraction: float
    seed: int

    def generator(self) -> torch.Generator:
        """Random numbers that depend on neither network nor branch, so that trials pair."""
        words = f"{self.task}/{self.head}/{self.fraction!r}/{self.seed}"
        digest = hashlib.sha256(words.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Result:
    """A finished trial.

    Attributes:
        settings: digest of everything else that decides the result.
        metrics: of the task.
        loss: of training, mean of the last steps.
        seconds: processor time of this process, all threads together.
    """

    trial: Trial
    settings: str
    metrics: Mapping[str, float]
    loss: float
    seconds: float


def run_trial(
    trial: Trial,
    settings: str,
    task: Task,
    features: Standardised,
    labelled: Sequence[int],
    test_frames: int,
) -> Result:
    """Train a head on the labelled frames and score it on all test frames."""
    start = time.process_time()
    generator, recipe = trial.generator(), RECIPES[trial.head]
    head = build_head(recipe.width, features.channels, task.biases, generator)
    head.to(features.train(labelled[:1]).device)
    losses = fit(head, features.train, task.loss, labelled, recipe, generator)
    meter = task.meter()
    with torch.no_grad():
        for first in range(0, test_frames, EVALUATION_BATCH):
            frames = range(first, min(first + EVALUATION_BATCH, test_frames))
            meter.add(frames, head(features.test(frames)))
    last = losses[-max(1, round(LAST * len(losses))) :]
    seconds = time.process_time() - start
    return Result(trial, settings, meter.metrics(), sum(last) / len(last), seconds)


class TrialLog:
    """The results in a file, a line of JSON for each; a line counts once it is complete."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[Result]:
        """The results in the order in which they were written.

        Raises:
            DataError: a line is not a result.
        """
        if not self.path.is_file():
            return []
        content = read_bytes(self.path, "the results", f"remove {self.path}", GIB)
        lines = content.decode("utf-8", errors="replace").split("\n")
        return [self._result(line, row) for row, line in enumerate(lines[:-1], 1)]

    def _result(self, line: str, row: int) -> Result:
        try:
            content = json.loads(line)
            return Result(**{**content, "trial": Trial(**content["trial"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{self.path}:{row} is not a result ({brief(error)}); remove the line or the file"
            ) from error

    def repair(self) -> None:
        """Remove the incomplete last line that a killed process has left."""
        if self.path.is_file():
            content = read_bytes(self.path, "the results", f"remove {self.path}", GIB)
            if content and not content.endswith(b"\n"):
                files.write_bytes(self.path, content[: content.rfind(b"\n") + 1])

    def add(self, result: Result) -> None:
        files.append_text(self.path, json.dumps(asdict(result)) + "\n")

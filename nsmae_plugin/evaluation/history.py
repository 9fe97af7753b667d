"""The metrics of all evaluations of a run: TensorBoard, and ``metrics.jsonl`` with one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from nsmae_plugin import files


class History:
    """Metrics by checkpoint for one split and one tag of evaluations.

    Args:
        folder: ``eval`` folder of the run, shared by splits and tags; None writes nothing, for the
            ranks that do not log.
    """

    def __init__(self, folder: Path | None, split: str, eval_tag: str) -> None:
        self._folder, self._key = folder, {"split": split, "eval_tag": eval_tag}

    def add(self, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a checkpoint, in place of what an earlier evaluation found.

        A line of ``metrics.jsonl`` reads ``{"epoch", "step", "split", "eval_tag", ...metrics}``.
        """
        if self._folder is None:
            return
        name = f"tensorboard_{self._key['split']}_{self._key['eval_tag']}"
        # Files are named by the second: without the suffix, quick evaluations would share one and
        # the later would replace what the earlier wrote.
        suffix = f".step{step}"
        with SummaryWriter(logdir=str(self._folder / name), filename_suffix=suffix) as board:
            for metric, value in metrics.items():
                board.add_scalar(f"eval/{metric}", value, step)
        key = {"epoch": epoch, "step": step, **self._key}
        self._replace(key, {**key, **metrics})

    def _replace(self, key: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        assert self._folder is not None
        path = self._folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        others = [line for line in lines if not key.items() <= json.loads(line).items()]
        files.write_text(path, "\n".join([*others, json.dumps(record), ""]))

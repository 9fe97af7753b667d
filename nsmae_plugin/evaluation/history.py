"""Metrics of all evaluations of a run, in TensorBoard and in ``metrics.jsonl``, one per line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from nsmae_plugin.runtime import files
from nsmae_plugin.training import metrics_file


def record(
    folder: Path, split: str, eval_tag: str, epoch: int, step: int, metrics: Mapping[str, float]
) -> None:
    """Record the metrics of a checkpoint; they replace those of an earlier evaluation.

    A line of ``metrics.jsonl`` reads ``{"epoch", "step", "split", "eval_tag", ...metrics}``.

    Args:
        folder: ``eval`` folder of the run, shared by all splits and tags.
    """
    # TensorBoard names files by the second: without the suffix, quick evaluations would share
    # a file, and the later would overwrite the earlier.
    suffix, place = f".step{step}", folder / f"tensorboard_{split}_{eval_tag}"
    with SummaryWriter(logdir=str(place), filename_suffix=suffix) as board:
        for metric, value in metrics.items():
            board.add_scalar(f"eval/{metric}", value, step)
    key = {"epoch": epoch, "step": step, "split": split, "eval_tag": eval_tag}
    path = folder / "metrics.jsonl"
    # Several evaluations of a run may go on at the same time.
    with files.held(path.with_name(".metrics.lock"), f"{path} is locked", patience=60):
        metrics_file.rewrite(path, lambda one: not key.items() <= one.items(), [{**key, **metrics}])

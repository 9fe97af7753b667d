"""The checkpoints of a run: selection for resuming, and rotation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.training import checkpoint

LATEST = "latest_model.pth"
BEST = "checkpoint_best.pth"


def to_resume(folder: Path, ckpt: Path | None, pretrained: Path | None) -> Path | None:
    """Return the checkpoint to resume: the one given, else the newest of the folder, or None.

    Args:
        folder: where the run keeps its checkpoints.
        ckpt, pretrained: ``--ckpt`` and ``--pretrained_model``; a run that was started from these
            weights is resumed.

    Raises:
        ConfigError: when both a checkpoint and pre-trained weights would start the run, or ``ckpt``
            is behind the newest of the folder.
        CheckpointError: when ``ckpt`` does not exist.
    """
    if ckpt is not None and pretrained is not None:
        raise ConfigError(
            "--ckpt resumes a run and --pretrained_model starts one from weights: give one"
        )
    found = checkpoint.latest(folder)
    if found is None:
        return None if ckpt is None else checkpoint.find(ckpt)
    if pretrained is not None:
        if checkpoint.started_from(found) == str(pretrained.resolve()):
            return found  # the same command again, as when a job is requeued
        raise ConfigError(
            f"{folder} holds checkpoints of another run ({found.name}), so --pretrained_model "
            "would be overwritten by them; give another --extra_tag to start a new run, or --ckpt "
            "instead of --pretrained_model to resume"
        )
    return found if ckpt is None else _not_behind(checkpoint.find(ckpt), found)


def _not_behind(asked: Path, newest: Path) -> Path:
    """Return the given checkpoint if the folder of the run holds no later one."""
    position, last = checkpoint.peek(asked), checkpoint.peek(newest)
    if position and last and position < last:
        raise ConfigError(
            f"--ckpt {asked} is behind {newest}, and a run that goes on from it would mix its "
            "checkpoints with the later ones; move those away, or give another --extra_tag"
        )
    return asked


class CheckpointManager:
    """Writes the checkpoints of a run into ``folder`` and keeps the newest of them.

    Args:
        max_kept: how many ``checkpoint_epoch_*.pth`` stay.
        newest: the checkpoint that the run resumes, if there is one.
    """

    def __init__(self, folder: Path, max_kept: int, newest: Path | None = None) -> None:
        if max_kept < 1:
            raise ConfigError(f"--max_ckpt_save_num must be at least 1, not {max_kept}")
        self.folder, self.max_kept, self.newest = folder, max_kept, newest

    def save_epoch(self, content: Mapping[str, Any]) -> Path:
        """Write ``checkpoint_epoch_<epochs completed>.pth``, then remove the oldest epochs."""
        path = self._write(content, f"checkpoint_epoch_{content['epoch']}.pth")
        epochs = sorted(
            (int(match[1]), one)
            for one in self.folder.iterdir()
            if (match := checkpoint.EPOCH_NAME.fullmatch(one.name))
        )
        for _, old in epochs[: -self.max_kept]:
            old.unlink()
        return path

    def save_latest(self, content: Mapping[str, Any]) -> Path:
        """Write ``latest_model.pth``, replacing the one before."""
        return self._write(content, LATEST)

    def save_best(self, content: Mapping[str, Any]) -> Path:
        """Write ``checkpoint_best.pth``, replacing the one before."""
        return self._write(content, BEST)

    def _write(self, content: Mapping[str, Any], name: str) -> Path:
        checkpoint.write(content, self.folder / name)
        self.newest = self.folder / name
        return self.newest

"""The frames of a split: info files read, compared with what is going to be read, and with disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.info_checks import check_infos
from nsmae_plugin.formats.info_numbers import Infos, cameras_problem, check_numbers, files_of
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.missing_files import check_files


class Needs(NamedTuple):
    """The files of a frame that will be read.

    max_sweeps: the keyframe included. labels: boxes, where there are any; while training there
    must be.
    """

    lidar: bool
    cameras: bool
    labels: bool = False
    training: bool = False
    max_sweeps: int = 1


def read_frames(paths: Sequence[Path], root: Path, needs: Needs) -> list[dict[str, Any]]:
    """The frames of several info files, whoever made them.

    Args:
        root: folder of ``samples/`` and ``sweeps/``.

    Raises:
        DataError: a file is missing, damaged or of another layout; there is no frame at all; or a
            frame lacks something, has implausible numbers, or names a missing file.
        ConfigError: MAX_SWEEPS asks for more sweeps than a file lists.
    """
    frames: list[dict[str, Any]] = []
    for path in paths:
        part = read_infos(path)
        check_infos(
            part, path, needs.max_sweeps, needs.cameras, needs.labels, training=needs.training
        )
        check_frames(part, f"the info file {path}", root, needs)
        frames += part
    if not frames:
        names = ", ".join(map(str, paths))
        raise DataError(f"no sample in {names}; no scene of the database is in this split")
    return frames


def check_frames(frames: Infos, where: str, root: Path, needs: Needs) -> None:
    """Check that the numbers of frames are plausible and that their files exist.

    Args:
        where: how messages name the file that the frames come from.

    Raises:
        DataError: a number is implausible or a file is missing; the message names the frame.
    """
    check_numbers(frames, where, needs.lidar, needs.cameras, needs.labels)
    check_files(root, files_of(frames, needs.lidar, needs.cameras))


def check_batches(frames: Infos, batch_size: int) -> None:
    """Check that the frames can share batches: their cameras are stacked.

    Raises:
        DataError: naming a frame that lacks a camera.
    """
    problem = cameras_problem(frames) if batch_size > 1 else None
    if problem:
        raise DataError(
            f"{problem}, and a batch of {batch_size} samples needs the same in all: use a batch "
            "size of 1, leave the sample out, or make the info file anew without that camera"
        )

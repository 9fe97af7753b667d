"""Selection of training frames: validation part, label fractions, class-balanced resampling.

``VALIDATION_FRACTION`` of the scenes is held out for validation. Of the other frames,
``LABEL_FRACTION`` is used: every k-th frame or whole scenes. An epoch keeps the length that it has
with all their labels, so that every fraction takes the same number of steps.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.data import gt_sampling
from nsmae_plugin.errors import ConfigError, DataError

TOLERANCE = 0.1  # how far k · fraction may lie from 1

Frames = list[dict[str, Any]]


def training_frames(
    frames: Frames,
    settings: Any,
    class_names: Sequence[str],
    scenes: Callable[[], Mapping[str, str]],
    augmentor: Any,
    logger: logging.Logger,
) -> tuple[Frames, int]:
    """``LABEL_FRACTION`` of the frames outside the validation part, resampled by
    ``BALANCED_RESAMPLING``.

    Args:
        settings: the checked section ``DATA_CONFIG``.
        scenes: gives the name of the scene of every token; called for ``VALIDATION_FRACTION`` and
            ``LABEL_FRACTION_BY: scenes`` alone.
        augmentor: ``gt_sampling`` in it is limited to objects of those frames.

    Returns:
        The frames, and how many there would be with all labels outside the validation part.

    Raises:
        ConfigError: an invalid fraction.
        DataError: no box of the classes is left.
    """
    everything = frames
    frames, held_out = split_validation(frames, settings, scenes)
    if held_out:
        logger.info("%d of %d samples are held out for validation", len(held_out), len(everything))
    chosen = select_labelled(frames, settings, scenes)
    if len(chosen) < len(frames):
        logger.info("labels of %d of %d samples are used", len(chosen), len(frames))
    if not settings.USE_LABELS:
        return chosen, len(frames)
    shown = {str(name) for info in chosen for name in info["gt_names"]}
    absent = [name for name in class_names if name not in shown]
    if len(absent) == len(class_names):
        raise DataError(
            f"no box of {', '.join(class_names)} in {len(chosen)} of {len(frames)} samples; check "
            "CLASS_NAMES, INFO_PATH and LABEL_FRACTION"
        )
    if absent:
        logger.warning(
            "no box of %s in the %d samples of the training; check CLASS_NAMES if there should be",
            ", ".join(absent),
            len(chosen),
        )
    if len(chosen) < len(everything):
        gt_sampling.limit(augmentor, everything, chosen)
    gt_sampling.drop_empty_groups(augmentor, logger)
    if not settings.BALANCED_RESAMPLING:
        return chosen, len(frames)
    length = balanced_length(frames, class_names)
    return balanced_resampling(chosen, class_names, np.random.default_rng(0)), length


def split_validation(
    frames: Frames, settings: Any, scenes: Callable[[], Mapping[str, str]]
) -> tuple[Frames, Frames]:
    """The frames of a split for training and those for validation, which share no scene.

    The choice follows from ``VALIDATION_FRACTION``, ``VALIDATION_SEED`` and the names of the scenes
    alone: it is the same for every ``LABEL_FRACTION`` and every run.

    Raises:
        ConfigError: the fraction is less than half a scene, or leaves no scene for training.
        DataError: the scene of a frame is not known.
    """
    fraction = settings.VALIDATION_FRACTION
    if not fraction:
        return frames, []
    key = "VALIDATION_FRACTION"
    scene_of = scenes_of_frames(frames, scenes, key, "")
    chosen = set(whole_scenes(scene_of, fraction, settings.VALIDATION_SEED, key))
    held_out = [info for position, info in enumerate(frames) if position in chosen]
    rest = [info for position, info in enumerate(frames) if position not in chosen]
    if not rest:
        raise ConfigError(f"VALIDATION_FRACTION {fraction} leaves no scene for training; lower it")
    return rest, held_out


def evaluation_frames(
    frames: Frames, settings: Any, scenes: Callable[[], Mapping[str, str]]
) -> Frames:
    """All frames of a split, with ``EVALUATE_VALIDATION`` those held out for validation."""
    if not settings.EVALUATE_VALIDATION:
        return frames
    return split_validation(frames, settings, scenes)[1]


def select_labelled(
    frames: Frames, settings: Any, scenes: Callable[[], Mapping[str, str]]
) -> Frames:
    """The frames selected by ``LABEL_FRACTION``, ``_BY`` and ``_SEED``."""
    fraction, seed = settings.LABEL_FRACTION, settings.LABEL_FRACTION_SEED
    if fraction == 1:
        return frames
    by_scenes = settings.LABEL_FRACTION_BY == "scenes"
    names = scenes_of_frames(frames, scenes) if by_scenes else [""] * len(frames)
    timestamps = [info["timestamp"] for info in frames]
    chosen = labelled_positions(timestamps, names, fraction, settings.LABEL_FRACTION_BY, seed)
    return [frames[position] for position in chosen]


def labelled_positions(
    timestamps: Sequence[float], scenes: Sequence[str], fraction: float, by: str, seed: int
) -> list[int]:
    """Positions of the frames whose labels a fraction uses.

    Args:
        timestamps, scenes: time and name of the scene of each frame; scenes are only looked at for
            ``scenes``.
        fraction, by, seed: ``LABEL_FRACTION``, ``_BY`` (``frames`` or ``scenes``) and ``_SEED``.

    Raises:
        ConfigError: an invalid fraction.
    """
    if fraction == 1:
        return list(range(len(timestamps)))
    if by == "frames":
        return every_kth(timestamps, fraction, seed)
    return whole_scenes(scenes, fraction, seed)


def scenes_of_frames(
    frames: Frames,
    scenes: Callable[[], Mapping[str, str]],
    wanted_by: str = "LABEL_FRACTION_BY scenes",
    remark: str = " (frames does not)",
) -> list[str]:
    """The scene of each frame.

    Args:
        wanted_by, remark: the setting that needs them, for messages.

    Raises:
        DataError: a frame's scene is unknown.
    """
    try:
        scene_of = scenes()
    except DataError as error:
        raise DataError(f"{wanted_by} needs the scene of every frame{remark}: {error}") from error
    unknown = [info["token"] for info in frames if info["token"] not in scene_of]
    if unknown:
        raise DataError(
            f"no scene has the sample {unknown[0]} ({len(unknown)} such frames); info files and "
            "tables must be of the same database"
        )
    return [scene_of[info["token"]] for info in frames]


def every_kth(timestamps: Sequence[float], fraction: float, seed: int) -> list[int]:
    """In the order of time, every k-th frame from frame ``seed % k`` on; k = round(1 / fraction).

    With seed 0 this is the ``load_interval`` of mmdetection3d, by which the paper's numbers with
    1, 5 and 10 % of the labels were made.

    Raises:
        ConfigError: there are fewer than k frames, or every k-th frame is another fraction.
    """
    k = round(1 / fraction)
    if abs(k * fraction - 1) > TOLERANCE:
        raise ConfigError(
            f"LABEL_FRACTION {fraction} is not 1 / k: every {k}-th frame would be "
            f"{1 / k:.3g}; choose {1 / (k + 1):.3g} or {1 / k:.3g}, or LABEL_FRACTION_BY scenes"
        )
    if k > len(timestamps):
        raise _none(fraction, len(timestamps), "frames")
    return sorted(range(len(timestamps)), key=lambda position: timestamps[position])[seed % k :: k]


def whole_scenes(
    scene_of: Sequence[str], fraction: float, seed: int, key: str = "LABEL_FRACTION"
) -> list[int]:
    """All frames of ``round(fraction · scenes)`` scenes; more scenes with the same seed include
    those of a smaller fraction.

    Args:
        scene_of: name of the scene of each frame.
        key: of the fraction, for messages.

    Raises:
        ConfigError: the fraction is less than half a scene.
    """
    scenes = sorted(set(scene_of))
    wanted = round(fraction * len(scenes))
    if not wanted:
        raise _none(fraction, len(scenes), "scenes", key)
    order = np.random.default_rng(seed).permutation(len(scenes))
    chosen = {scenes[position] for position in order[:wanted]}
    return [position for position, scene in enumerate(scene_of) if scene in chosen]


def _none(fraction: float, count: int, mode: str, key: str = "LABEL_FRACTION") -> ConfigError:
    return ConfigError(
        f"{key} {fraction} of {count} {mode} selects none; raise it to at least "
        f"{1 / count:.3g}, or use an info file with more {mode}"
    )


def balanced_resampling(
    infos: Frames, class_names: Sequence[str], rng: np.random.Generator
) -> Frames:
    """Draw frames so that all classes appear about equally often (CBGS, arXiv 1908.09492).

    A frame counts once for every class that it shows; of each class's frames, with replacement, as
    many are drawn as the average over the classes, but at least one. Where OpenPCDet's rule works
    it is the same; OpenPCDet fails on a class that no frame shows.

    Raises:
        DataError: no frame shows any of the classes.
    """
    members = _frames_by_class(infos, class_names)
    share = _share(members)
    drawn = [rng.choice(positions, share) for positions in members if positions]
    if not drawn:
        raise DataError(f"no frame has a box of {', '.join(class_names)}; nothing to balance")
    return [infos[position] for position in np.concatenate(drawn)]


def balanced_length(infos: Frames, class_names: Sequence[str]) -> int:
    """Number of frames that :func:`balanced_resampling` draws."""
    members = _frames_by_class(infos, class_names)
    return _share(members) * sum(map(bool, members))


def _frames_by_class(infos: Frames, class_names: Sequence[str]) -> list[list[int]]:
    return [
        [position for position, info in enumerate(infos) if name in info["gt_names"]]
        for name in class_names
    ]


def _share(members: list[list[int]]) -> int:
    return max(1, sum(map(len, members)) // len(members))

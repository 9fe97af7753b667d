"""Training with a part of the labels: every k-th frame, or whole scenes.

Frames that are not selected are not used at all. An epoch keeps the length that it has with all
labels, so that every fraction takes the same number of steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nsmae_plugin.errors import ConfigError, DataError

TOLERANCE = 0.1  # how far k · fraction may lie from 1


def every_kth(frames: Sequence[dict[str, Any]], fraction: float, seed: int) -> list[dict[str, Any]]:
    """In the order of time, every k-th frame from frame ``seed % k`` on; k = round(1 / fraction).

    With seed 0 this is the ``load_interval`` of mmdetection3d, by which the paper's numbers with
    1, 5 and 10 % of the labels were made.

    Raises:
        ConfigError: there are fewer than k frames, or every k-th frame is another fraction.
    """
    k = round(1 / fraction)
    if abs(k * fraction - 1) > TOLERANCE:
        raise ConfigError(
            f"LABEL_FRACTION {fraction} is no k-th part: every {k}-th frame would be "
            f"{1 / k:.3g}; choose {1 / (k + 1):.3g} or {1 / k:.3g}, or LABEL_FRACTION_BY scenes"
        )
    if k > len(frames):
        raise _none(fraction, len(frames), "frames")
    return sorted(frames, key=lambda info: info["timestamp"])[seed % k :: k]


def whole_scenes(
    frames: Sequence[dict[str, Any]], scene_of: Mapping[str, str], fraction: float, seed: int
) -> list[dict[str, Any]]:
    """All frames of ``round(fraction · scenes)`` scenes; more scenes with the same seed include
    those of a smaller fraction.

    Args:
        scene_of: sample token → name of its scene.

    Raises:
        ConfigError: the fraction is less than half a scene.
        DataError: a frame is not in ``scene_of``.
    """
    unknown = [info["token"] for info in frames if info["token"] not in scene_of]
    if unknown:
        raise DataError(
            f"no scene has the sample {unknown[0]} ({len(unknown)} such frames); info files and "
            "tables must be of the same database"
        )
    scenes = sorted({scene_of[info["token"]] for info in frames})
    wanted = round(fraction * len(scenes))
    if not wanted:
        raise _none(fraction, len(scenes), "scenes")
    order = np.random.default_rng(seed).permutation(len(scenes))
    chosen = {scenes[position] for position in order[:wanted]}
    return [info for info in frames if scene_of[info["token"]] in chosen]


def _none(fraction: float, count: int, mode: str) -> ConfigError:
    return ConfigError(
        f"LABEL_FRACTION {fraction} of {count} {mode} selects none; raise it to at least "
        f"{1 / count:.3g}, or use an info file with more {mode}"
    )


def select(
    frames: list[dict[str, Any]], dataset_cfg: Any, scenes: Callable[[], Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The frames that ``LABEL_FRACTION``, ``_BY`` and ``_SEED`` leave of ``frames``.

    Args:
        scenes: gives token → name of the scene; called for whole scenes only.

    Raises:
        ConfigError, DataError: see the functions above; or the scenes are unknown.
    """
    fraction = dataset_cfg.get("LABEL_FRACTION", 1.0)
    seed = dataset_cfg.get("LABEL_FRACTION_SEED", 0)
    if fraction == 1:
        return frames
    if dataset_cfg.get("LABEL_FRACTION_BY", "frames") == "frames":
        return every_kth(frames, fraction, seed)
    try:
        scene_of = scenes()
    except DataError as error:
        raise DataError(
            f"LABEL_FRACTION_BY scenes needs the scene of every frame (frames does not): {error}"
        ) from error
    return whole_scenes(frames, scene_of, fraction, seed)

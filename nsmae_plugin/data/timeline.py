"""The order of frames in their scenes, for what looks at more than one of them."""

from collections.abc import Iterable, Mapping
from typing import Any


class Timeline:
    """Finds the frames before and after a frame of the same scene.

    Args:
        frames: with ``token`` and ``timestamp``.
        scene_of: token → name of the scene, of all frames.
    """

    def __init__(self, frames: Iterable[dict[str, Any]], scene_of: Mapping[str, str]):
        self._scenes: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        for info in sorted(frames, key=lambda one: one["timestamp"]):
            name = scene_of[info["token"]]
            scene = self._scenes.setdefault(name, [])
            self._places[info["token"]] = name, len(scene)
            scene.append(info)

    def neighbour(self, token: str, steps: int) -> dict[str, Any] | None:
        """The frame that many frames after (negative: before) ``token``; None beyond its scene."""
        name, position = self._places[token]
        scene, wanted = self._scenes[name], position + steps
        return scene[wanted] if 0 <= wanted < len(scene) else None

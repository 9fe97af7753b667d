"""The order of frames in their scenes, for targets that use several frames."""

from collections.abc import Iterable, Mapping
from typing import Any

from nsmae_plugin.errors import DataError


class Timeline:
    """Finds the frames of a scene, and those before and after a frame.

    Args:
        frames: with ``token`` and ``timestamp``.
        scene_of: token → name of the scene; frames of no scene are left out.
    """

    def __init__(self, frames: Iterable[dict[str, Any]], scene_of: Mapping[str, str]):
        self._scenes: dict[str, list[dict[str, Any]]] = {}
        self._places: dict[str, tuple[list[dict[str, Any]], int]] = {}
        known = (info for info in frames if info["token"] in scene_of)
        for info in sorted(known, key=lambda one: one["timestamp"]):
            scene = self._scenes.setdefault(scene_of[info["token"]], [])
            self._places[info["token"]] = scene, len(scene)
            scene.append(info)

    def frames(self, scene: str) -> list[dict[str, Any]]:
        """All frames of a scene, in the order of time.

        Raises:
            DataError: there is none; lists the scenes that are there.
        """
        if scene not in self._scenes:
            present = ", ".join(sorted(self._scenes)) or "no frame of any scene"
            raise DataError(
                f"no sample of the split belongs to the scene {scene!r}; it holds {present} "
                "(another --split?)"
            )
        return self._scenes[scene]

    def neighbour(self, token: str, steps: int) -> dict[str, Any] | None:
        """The frame ``steps`` frames after ``token`` (negative: before); None outside its scene."""
        scene, position = self._places.get(token, ([], 0))
        wanted = position + steps
        return scene[wanted] if 0 <= wanted < len(scene) else None

"""Which keyframes make up a scene, and where it was recorded; info files do not say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nsmae_plugin.errors import DataError


def scenes_of_samples(root: Path, version: str) -> dict[str, str]:
    """Token of every sample → name of its scene.

    Reads two small tables only: ``sample_data`` of the full data set takes a gigabyte.

    Args:
        root: folder that holds the folder ``version`` of JSON tables.

    Raises:
        DataError: a table is missing or damaged.
    """
    with _tables(root / version, "scene", "sample") as (scenes, samples):
        names = {scene["token"]: scene["name"] for scene in scenes}
        return {sample["token"]: names[sample["scene_token"]] for sample in samples}


def locations_of_samples(root: Path, version: str) -> dict[str, str]:
    """Token of every sample → location of its map, such as ``boston-seaport``.

    Args:
        root: folder that holds the folder ``version`` of JSON tables.

    Raises:
        DataError: a table is missing or damaged.
    """
    with _tables(root / version, "log", "scene", "sample") as (logs, scenes, samples):
        at_log = {log["token"]: log["location"] for log in logs}
        at_scene = {scene["token"]: at_log[scene["log_token"]] for scene in scenes}
        return {sample["token"]: at_scene[sample["scene_token"]] for sample in samples}


@contextmanager
def _tables(folder: Path, *names: str) -> Iterator[list[Any]]:
    """Tables of a folder; records that they do not hold are errors of the data."""
    tables = [_table(folder / f"{name}.json") for name in names]
    try:
        yield tables
    except (KeyError, TypeError) as error:
        *others, last = (f"{name}.json" for name in names)
        raise DataError(
            f"{', '.join(others)} and {last} in {folder} are no nuScenes tables, or do not belong "
            f"together: {error!r}"
        ) from error


def frames_of_scene(
    infos: Sequence[Mapping[str, Any]], scene: str, scenes: Mapping[str, str]
) -> list[int]:
    """Positions in ``infos`` of the keyframes of ``scene``, in the order of time.

    Args:
        scenes: as :func:`scenes_of_samples` gives them.

    Raises:
        DataError: no frame belongs to that scene; lists the scenes that are there.
    """
    members = [at for at, info in enumerate(infos) if scenes.get(info["token"]) == scene]
    if not members:
        present = sorted({scenes[one["token"]] for one in infos if one["token"] in scenes})
        raise DataError(
            f"no sample of the split belongs to the scene {scene!r}; it holds "
            f"{', '.join(present) or 'no scene of these tables'} (another --split?)"
        )
    return sorted(members, key=lambda at: infos[at]["timestamp"])


def _table(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read the table {path}: {error.strerror}; which samples make up a scene, and "
            "where it was recorded, is written in nuScenes' tables alone"
        ) from error
    except ValueError as error:
        raise DataError(f"the table {path} is no valid JSON: {error}") from error

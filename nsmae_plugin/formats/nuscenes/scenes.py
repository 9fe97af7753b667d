"""Scenes of nuScenes' samples and where they were recorded, which info files do not hold."""

from pathlib import Path

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.nuscenes.table_files import Record, read_table


def scenes_of_samples(root: Path, version: str) -> dict[str, str]:
    """Token of every sample → name of its scene.

    Reads two small tables only: ``sample_data`` of the full dataset takes a gigabyte.

    Args:
        root: folder that holds the folder ``version`` of JSON tables.

    Raises:
        DataError: a table is missing or damaged, or names a record that is not there.
    """
    folder = root / version
    scenes, samples = _read(folder, scene="name", sample="scene_token")
    return {
        token: _linked(sample, "scene_token", scenes, folder)["name"]
        for token, sample in samples.items()
    }


def locations_of_samples(root: Path, version: str) -> dict[str, str]:
    """Token of every sample → location of its map, such as ``boston-seaport``.

    Args:
        root: folder that holds the folder ``version`` of JSON tables.

    Raises:
        DataError: a table is missing or damaged, or names a record that is not there.
    """
    folder = root / version
    logs, scenes, samples = _read(folder, log="location", scene="log_token", sample="scene_token")
    at_scene = {
        token: _linked(scene, "log_token", logs, folder)["location"]
        for token, scene in scenes.items()
    }
    return {
        token: at_scene[_linked(sample, "scene_token", scenes, folder)["token"]]
        for token, sample in samples.items()
    }


def _read(folder: Path, **fields: str) -> list[dict[str, Record]]:
    """Tables of which the token and one field are needed."""
    remedy = (
        "which samples make up a scene, and where it was recorded, is written in nuScenes' tables "
        "alone"
    )
    return [read_table(folder, name, ("token", field), remedy) for name, field in fields.items()]


def _linked(record: Record, field: str, targets: dict[str, Record], folder: Path) -> Record:
    """The record that a field names."""
    if record[field] not in targets:
        raise DataError(
            f"the tables in {folder} do not belong together: {field} {brief(record[field])} of "
            f"record {brief(repr(record['token']))} names nothing"
        )
    return targets[record[field]]

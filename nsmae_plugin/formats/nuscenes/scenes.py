"""Scenes and locations of nuScenes' samples, which info files do not hold."""

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
    scenes, samples = _read(root / version, scene="name", sample="scene_token")
    found = _linked(samples, "scene_token", scenes, root / version)
    return {token: scene["name"] for token, scene in found.items()}


def locations_of_samples(root: Path, version: str) -> dict[str, str]:
    """Token of every sample → location of its map, such as ``boston-seaport``.

    Arguments and errors as :func:`scenes_of_samples`.
    """
    folder = root / version
    logs, scenes, samples = _read(folder, log="location", scene="log_token", sample="scene_token")
    log_of = _linked(scenes, "log_token", logs, folder)
    found = _linked(samples, "scene_token", scenes, folder)
    return {token: log_of[scene["token"]]["location"] for token, scene in found.items()}


def _read(folder: Path, **fields: str) -> list[dict[str, Record]]:
    """Tables of which the token and one field are needed."""
    remedy = (
        "which samples make up a scene, and where it was recorded, is written in nuScenes' tables "
        "alone"
    )
    return [read_table(folder, name, ("token", field), remedy) for name, field in fields.items()]


def _linked(
    records: dict[str, Record], field: str, targets: dict[str, Record], folder: Path
) -> dict[str, Record]:
    """Token of each record → the record that its field names."""
    for token, record in records.items():
        if record[field] not in targets:
            raise DataError(
                f"the tables in {folder} do not belong together: {field} {brief(record[field])} of "
                f"record {brief(repr(token))} names nothing"
            )
    return {token: targets[record[field]] for token, record in records.items()}

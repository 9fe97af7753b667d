"""Write info files in OpenPCDet's layout for a database in nuScenes' format."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tqdm import tqdm

from nsmae_plugin.errors import ConfigError, DataError, OutputError
from nsmae_plugin.formats.frames import check_frames
from nsmae_plugin.formats.gt_database import write_gt_database
from nsmae_plugin.formats.info_checks import Needs
from nsmae_plugin.formats.info_numbers import cameras_problem
from nsmae_plugin.formats.infos import read_infos, write_infos
from nsmae_plugin.formats.lidar_files import read_points
from nsmae_plugin.formats.lidar_layout import NUSCENES, LidarFiles
from nsmae_plugin.formats.nuscenes.annotations import describe, join
from nsmae_plugin.formats.nuscenes.info_builder import LIDAR, InfoBuilder, parallel
from nsmae_plugin.formats.nuscenes.splits import (
    check_scenes,
    custom_splits,
    scene_names,
    split_file,
)
from nsmae_plugin.formats.nuscenes.table_checks import check_calibration, check_times
from nsmae_plugin.formats.nuscenes.tables import NuScenesTables
from nsmae_plugin.runtime.files import output_errors

logger = logging.getLogger("create_infos")


def create_infos(
    data_path: Path,
    version: str = "v1.0-trainval",
    max_sweeps: int = 10,
    with_cam: bool = False,
    with_gt_database: bool = False,
    workers: int = 0,
    lidar_columns: Sequence[str] = NUSCENES.COLUMNS,
    lidar_dtype: str = NUSCENES.DTYPE,
    out_dir: Path | None = None,
) -> list[Path]:
    """Write the info files of all splits of ``version``; returns their paths.

    Nothing is written before all of them are complete.
    """
    layout = LidarFiles.of(
        {"COLUMNS": lidar_columns, "DTYPE": lidar_dtype}, "DATA_CONFIG.LIDAR_FILES"
    )
    root = data_path / version
    folder = out_dir or root
    names = scene_names(root, version)
    labels = "test" not in names
    if with_gt_database and not labels:
        raise ConfigError(f"{version} has no boxes; leave out --with_gt_database")
    tables = NuScenesTables(root, version, labels)
    custom = custom_splits(root, version)
    present = {scene["name"] for scene in tables.all("scene").values()}
    for split in names.keys() & custom.keys():
        check_scenes(custom[split], present, split_file(root, version))
    samples = _split_samples(tables, names)
    paths = {split: folder / f"nuscenes_infos_{max_sweeps}sweeps_{split}.pkl" for split in names}
    _check_output(samples, paths, root)
    _check_database(tables, [token for tokens in samples.values() for token in tokens], with_cam)
    _make_writable(folder)
    builder = InfoBuilder(tables, max_sweeps, with_cam, labels, layout)
    infos = {split: _build_split(builder, split, samples[split], workers) for split in names}
    for split, path in paths.items():
        write_infos(path, infos[split])
        logger.info("%s: %d samples", path, len(infos[split]))
        if not infos[split]:
            logger.warning("no sample belongs to %s; %s holds an empty list", split, path)
    if with_gt_database:
        database = write_gt_database(root, infos["train"], max_sweeps, workers, layout, out_dir)
        logger.info("%s", database)
    if out_dir is not None:
        logger.info(
            "to use them, write absolute paths into DATA_CONFIG.INFO_PATH: %s",
            ", ".join(str(path.resolve()) for path in paths.values()),
        )
    return list(paths.values())


def _split_samples(tables: NuScenesTables, names: dict[str, set[str]]) -> dict[str, list[str]]:
    """Split → tokens of its samples, in table order, of scenes whose LiDAR files are there."""
    split_of = {}
    for token, scene in tables.all("scene").items():
        first = tables.keyframes[scene["first_sample_token"]].get(LIDAR)
        if first is None:
            logger.warning("%s left out: its first sample has no %s", scene["name"], LIDAR)
            continue
        if not (tables.root / first["filename"]).exists():
            message = "%s left out: its LiDAR files are not there, first: %s"
            logger.warning(message, scene["name"], tables.root / first["filename"])
            continue
        split_of[token] = next((key for key in names if scene["name"] in names[key]), None)
        if split_of[token] is None:
            logger.warning("%s left out: it belongs to no split", scene["name"])
    return {
        split: [
            token
            for token, sample in tables.all("sample").items()
            if split_of.get(sample["scene_token"]) == split
        ]
        for split in names
    }


def _check_database(tables: NuScenesTables, samples: list[str], with_cam: bool) -> None:
    """Refuse implausible units and calibrations."""
    check_calibration(tables, samples, with_cam)
    scenes: dict[str, list[str]] = {}
    for token in samples:
        scenes.setdefault(tables.all("sample")[token]["scene_token"], []).append(token)
    for members in scenes.values():
        check_times(tables, members, LIDAR, with_cam)


def _check_output(samples: dict[str, list[str]], paths: dict[str, Path], root: Path) -> None:
    """Refuse to write empty info files.

    Raises:
        DataError: no split has a sample; or one has none and its info file holds some.
    """
    if not any(samples.values()):
        raise DataError(
            f"no sample of {root} belongs to {' or '.join(samples)}, nothing was written; check "
            f"the LiDAR files ({LIDAR}) of the scenes, --data_path and --version, and the scenes "
            "in splits.json"
        )
    for split, path in paths.items():
        if not samples[split] and path.exists() and read_infos(path):
            raise DataError(
                f"no sample belongs to {split}, but {path} holds some, and nothing was written; "
                "remove the file if it is out of date"
            )


def _make_writable(folder: Path) -> None:
    """Make the folder of the results, and check early that it is writable."""
    try:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
    except OutputError as error:
        raise OutputError(f"{error} with --out_dir") from error


def _build_split(
    builder: InfoBuilder, split: str, samples: list[str], workers: int
) -> list[dict[str, Any]]:
    """The checked infos of a split; logs statistics of its boxes."""
    built = parallel(builder.build, samples, workers)
    frames = list(tqdm(built, total=len(samples), desc=split))
    infos = [frame.info for frame in frames]
    needs = Needs(lidar=True, cameras=builder.with_cam, labels=builder.labels)
    check_frames(infos, split, builder.tables.root, needs, "correct the tables")
    for info in infos[:1]:  # detects files of another layout before training
        read_points(builder.tables.root / info["lidar_path"], info["token"], builder.layout)
    missing = cameras_problem(infos) if builder.with_cam else None
    if missing:
        logger.warning(
            "%s: %s; batches of more than one sample need the same in all", split, missing
        )
    if builder.labels and infos:
        news, warnings = describe(infos, join(frame.remarks for frame in frames))
        for line in news:
            logger.info("%s: %s", split, line)
        for line in warnings:
            logger.warning("%s: %s", split, line)
    return infos

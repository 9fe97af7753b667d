"""Write OpenPCDet-layout info files for a nuScenes-format database.

DATA_PATH/VERSION holds samples/, sweeps/ and, in a folder VERSION again, the JSON tables.
Writes DATA_PATH/VERSION/nuscenes_infos_{max_sweeps}sweeps_{train,val}.pkl (v1.0-test: _test.pkl),
and with --with_gt_database, for gt_sampling, gt_database_{max_sweeps}sweeps_withvelo/ and
nuscenes_dbinfos_{max_sweeps}sweeps_withvelo.pkl of the training split.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nsmae_plugin.data.gt_database import write_gt_database
from nsmae_plugin.data.info_builder import LIDAR, InfoBuilder, parallel
from nsmae_plugin.data.infos import write_infos
from nsmae_plugin.data.points import DTYPES, NUSCENES, LidarFiles, read_points
from nsmae_plugin.data.splits import scene_names
from nsmae_plugin.data.tables import NuScenesTables
from nsmae_plugin.errors import ConfigError, NSMAEError

logger = logging.getLogger("create_infos")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the versions")
    parser.add_argument("--version", default="v1.0-trainval")
    parser.add_argument(
        "--max_sweeps", type=int, default=10, help="sweeps per frame, the keyframe included"
    )
    parser.add_argument("--with_cam", action="store_true", help="add the cameras")
    parser.add_argument(
        "--with_gt_database", action="store_true", help="cut out the points of all training boxes"
    )
    parser.add_argument("--workers", type=int, default=0, help="additional processes")
    parser.add_argument(
        "--lidar_columns",
        nargs="+",
        metavar="NAME",
        default=list(NUSCENES.columns),
        help="what LiDAR files hold, as DATA_CONFIG.LIDAR_FILES.COLUMNS (default: nuScenes' five)",
    )
    parser.add_argument(
        "--lidar_dtype", default=NUSCENES.dtype, choices=DTYPES, help="as LIDAR_FILES.DTYPE"
    )
    arguments = parser.parse_args()
    if arguments.max_sweeps < 1:
        parser.error("--max_sweeps must be at least 1")
    return arguments


def split_samples(tables: NuScenesTables, names: dict[str, set[str]]) -> dict[str, list[str]]:
    """Split → tokens of its samples, in table order, of scenes whose LiDAR files are there."""
    split_of = {}
    for token, scene in tables.all("scene").items():
        first = tables.keyframes[scene["first_sample_token"]].get(LIDAR)
        if first is None or not (tables.root / first["filename"]).exists():
            logger.warning("%s left out: its LiDAR files are not there", scene["name"])
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


def create_infos(
    data_path: Path,
    version: str,
    max_sweeps: int,
    with_cam: bool,
    with_gt_database: bool = False,
    workers: int = 0,
    lidar_columns: Sequence[str] = NUSCENES.columns,
    lidar_dtype: str = NUSCENES.dtype,
) -> list[Path]:
    """Write the info files of all splits of ``version``; returns their paths."""
    layout = LidarFiles.from_config({"COLUMNS": lidar_columns, "DTYPE": lidar_dtype})
    root = data_path / version
    names = scene_names(root, version)
    labels = "test" not in names
    if with_gt_database and not labels:
        raise ConfigError(f"{version} has no boxes; leave out --with_gt_database")
    tables = NuScenesTables(root, version, labels)
    builder = InfoBuilder(tables, max_sweeps, with_cam, labels)
    paths = []
    for split, samples in split_samples(tables, names).items():
        path = root / f"nuscenes_infos_{max_sweeps}sweeps_{split}.pkl"
        if not samples:
            logger.warning("no sample belongs to %s; %s holds an empty list", split, path)
        built = parallel(builder.build, samples, workers)
        infos = list(tqdm(built, total=len(samples), desc=split))
        for info in infos[:1]:  # files of another layout are found here, and not while training
            read_points(root / info["lidar_path"], info["token"], layout)
        write_infos(path, infos)
        logger.info("%s: %d samples", path, len(samples))
        paths.append(path)
        if with_gt_database and split == "train":
            logger.info("%s", write_gt_database(root, infos, max_sweeps, workers, layout))
    return paths


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    arguments = parse_arguments()
    try:
        create_infos(**vars(arguments))
    except NSMAEError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

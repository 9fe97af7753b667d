"""Write OpenPCDet-layout info files for a nuScenes-format database.

DATA_PATH/VERSION holds samples/, sweeps/ and, in a folder VERSION again, the JSON tables.
Writes DATA_PATH/VERSION/nuscenes_infos_{max_sweeps}sweeps_{train,val}.pkl (v1.0-test: _test.pkl),
and with --with_gt_database, for gt_sampling, gt_database_{max_sweeps}sweeps_withvelo/ and
nuscenes_dbinfos_{max_sweeps}sweeps_withvelo.pkl of the training split. Tables, calibrations, times
and files are checked first; nothing is written unless all of them are plausible.
"""

import argparse
import logging
import sys
from pathlib import Path

from nsmae_plugin.formats.lidar_layout import DTYPES, NUSCENES
from nsmae_plugin.runs.create_infos import create_infos
from nsmae_plugin.runtime.command_line import errors_in_one_line


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
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
        "--out_dir",
        type=Path,
        help="folder to write to, for read-only data; default: that of the data",
    )
    parser.add_argument(
        "--lidar_columns",
        nargs="+",
        metavar="NAME",
        default=NUSCENES.COLUMNS,
        help="what LiDAR files hold, as DATA_CONFIG.LIDAR_FILES.COLUMNS (default: nuScenes' five)",
    )
    parser.add_argument(
        "--lidar_dtype", default=NUSCENES.DTYPE, choices=DTYPES, help="as LIDAR_FILES.DTYPE"
    )
    arguments = parser.parse_args(argv)
    if arguments.max_sweeps < 1:
        parser.error("--max_sweeps must be at least 1")
    return arguments


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    create_infos(**vars(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())

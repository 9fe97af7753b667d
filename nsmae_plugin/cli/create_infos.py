"""Write OpenPCDet-layout info files for a nuScenes-format database.

DATA_PATH/VERSION holds samples/, sweeps/ and, in a folder VERSION again, the JSON tables.
Writes DATA_PATH/VERSION/nuscenes_infos_{max_sweeps}sweeps_{train,val}.pkl (v1.0-test: _test.pkl),
and with --with_gt_database, for gt_sampling, gt_database_{max_sweeps}sweeps_withvelo/ and
nuscenes_dbinfos_{max_sweeps}sweeps_withvelo.pkl of the training split. Tables, calibrations, times
and files are checked first; nothing is written unless all of them are plausible.
"""

import logging
from pathlib import Path

from nsmae_plugin.formats.lidar_layout import DTYPES
from nsmae_plugin.runs.create_infos import create_infos
from nsmae_plugin.runtime.command_line import make_parser, positive


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--data_path", type=Path, required=True, help="folder of the versions")
    add("--version", help="default: v1.0-trainval")
    add("--max_sweeps", type=positive, help="per frame, the keyframe included; default: 10")
    add("--with_cam", action="store_true", help="add the cameras")
    add("--with_gt_database", action="store_true", help="cut out the points of all training boxes")
    add("--workers", type=int, help="additional processes")
    add("--out_dir", type=Path, help="folder to write to; default: that of the data")
    add(
        "--lidar_columns",
        nargs="+",
        metavar="NAME",
        help="what LiDAR files hold, as DATA_CONFIG.LIDAR_FILES.COLUMNS (default: nuScenes' five)",
    )
    add("--lidar_dtype", choices=DTYPES, help="as LIDAR_FILES.DTYPE")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    create_infos(**options)
    return 0

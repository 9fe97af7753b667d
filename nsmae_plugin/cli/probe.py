"""Compare networks by small heads on their frozen features, in minutes.

Their features are computed once for each network and kept in
``output/<group>/<config>/probe_cache``. Linear and shallow heads on them learn maps, object centres
and occupancy from a part of the labels, with twenty seeds, and networks are compared seed by seed
with a reference. ``table.md``, ``results.json`` and ``plot.png`` in
``output/<group>/<config>/<extra_tag>`` are written again while trials finish. Started again, the
tool runs what has no result yet: more seeds, fractions and networks are added to those of before.
"""

from pathlib import Path

from nsmae_plugin.experiments.probe.heads import RECIPES
from nsmae_plugin.experiments.probe.options import SCORED, TASKS, ProbeOptions
from nsmae_plugin.experiments.probe.run import run
from nsmae_plugin.runs.options import DEVICES, add_config, add_overrides
from nsmae_plugin.runtime.command_line import (
    fraction,
    make_parser,
    not_negative,
    positive,
)


def parse_options(arguments: list[str] | None = None) -> ProbeOptions:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config(parser)
    add(
        "--networks",
        nargs="+",
        metavar="NAME=WEIGHTS",
        help="checkpoint, folder of checkpoints or exported weights; or the word untrained, or "
        "untrained:SEED",
    )
    add(
        "--branches", nargs="+", help="lidar, camera, camera_pooled, fused; default: all but pooled"
    )
    add("--tasks", nargs="+", choices=TASKS, help="default: all that the data has labels for")
    add("--heads", nargs="+", choices=RECIPES, help="default: all")
    add("--fractions", type=fraction, nargs="+", help="default: 0.01 0.05 0.1 1.0")
    add("--label_fraction_by", choices=("scenes", "frames"), help="default: the configuration's")
    add("--split", choices=SCORED, help="that heads are scored on; default: test")
    add("--seeds", type=positive, help="number of seeds; default: 20")
    add("--reference", help="network that the others are compared with; default: the first")
    add("--metrics", nargs="+", metavar="TASK=METRIC", help="such as centers=AP@2m/car")
    add("--channels", type=positive, help="reduce features to so many principal components")
    add("--lidar_depth", action="store_true", help="the LiDAR's depth in place of the cameras'")
    add("--batch_size", type=positive, help="of the encoders; default: 4")
    add(
        "--statistics_batches",
        type=not_negative,
        help="batches of training frames that BatchNorm statistics are estimated on; default: 25; "
        "0 keeps those of the weights",
    )
    add("--workers", type=int, help="loader processes")
    add("--device", choices=DEVICES)
    add("--extra_tag", help="name of this probe")
    add("--output_dir", type=Path, help="root of the output directories")
    add("--dry_run", action="store_true", help="print the size of the probe, and run nothing")
    add("--report_only", action="store_true", help="write the table of what has finished so far")
    add_overrides(parser)
    return ProbeOptions(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    return run(parse_options(arguments))

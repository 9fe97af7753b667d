"""Fine-tune from scratch and from other weights on fractions of the labels, and compare.

Every trial is a run of ``nsmae train`` and one of ``nsmae test`` in a folder of its own,
``output/<group>/<config>/<extra_tag>/<arm>_<fraction>_seed<seed>``. Started again, the tool goes on
where it stopped: finished trials are kept, begun ones resume from their checkpoints. ``table.md``,
``results.json`` and ``plot.png`` in ``output/<group>/<config>/<extra_tag>`` are written again after
each trial. The exit status is 0 when every trial has finished.
"""

import shlex
from pathlib import Path

from nsmae_plugin.experiments.label_efficiency.arms import named_weights
from nsmae_plugin.experiments.label_efficiency.run import LabelEfficiencyOptions, run
from nsmae_plugin.runs.options import DEVICES, add_config, add_overrides
from nsmae_plugin.runtime.command_line import (
    fraction,
    make_parser,
    not_negative,
    positive,
)


def parse_options(arguments: list[str] | None = None) -> LabelEfficiencyOptions:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add_config(parser)
    add(
        "--pretrained_model",
        nargs="+",
        metavar="[NAME=]WEIGHTS",
        help="checkpoint, folder of checkpoints or exported weights of each arm beside scratch; "
        "without a name: pretrained",
    )
    add("--fractions", type=fraction, nargs="+", help="default: 0.01 0.05 0.1 1.0")
    add(
        "--seeds",
        type=not_negative,
        nargs="+",
        help="of labels and training; default: 0 1 2",
    )
    add("--only", metavar="NAME", help="run the trials of this arm alone, or of scratch")
    add("--metrics", nargs="+", help="default: mAP NDS of boxes, mIoU of maps; or dotted keys")
    add("--metrics_file", nargs="+", help="of `nsmae test`; default: where the metrics are")
    add("--jobs", type=positive, help="trials at once; they share the cores")
    add("--nproc_per_node", type=positive, help="processes (GPUs) of one training")
    add("--workers", type=int, help="loader processes per trial")
    add("--device", choices=DEVICES)
    add("--extra_tag", help="name of this experiment")
    add("--output_dir", type=Path, help="root of the output directories")
    add("--train_args", type=shlex.split, help='for `nsmae train`: "--use_amp ..."')
    add("--test_args", type=shlex.split, help='for `nsmae test`: "--batch_size 4 ..."')
    add("--dry_run", action="store_true", help="print the commands and how far each trial is")
    add("--report_only", action="store_true", help="write the table of what has finished so far")
    add_overrides(parser)
    options = vars(parser.parse_args(arguments))
    if "pretrained_model" in options:
        options["pretrained_model"] = named_weights(options["pretrained_model"])
    return LabelEfficiencyOptions(**options)


def main(arguments: list[str] | None = None) -> int:
    return run(parse_options(arguments))

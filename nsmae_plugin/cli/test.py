"""Evaluate the checkpoints of a network: boxes, maps, or what pre-training reconstructs.

Flags, their meaning and the output directory are OpenPCDet's. Results go to
``output/<group>/<config>/<extra_tag>/eval/epoch_N/<split>/<eval_tag>/``: ``result.txt`` and
``result.pkl``; of boxes ``results_nusc.json`` (to submit), ``metrics_summary.json`` and
``metrics_details.json``; of maps ``map_metrics.json`` with the IoU of every class; of pre-training
``reconstruction_metrics.json``; ``nsmae evaluate-pretrain`` adds an untrained network to compare.
``eval/metrics.jsonl`` and TensorBoard collect the metrics of all checkpoints.
"""

from pathlib import Path

from nsmae_plugin.runs.options import SPLITS, add_run_arguments
from nsmae_plugin.runs.test import TestOptions, test
from nsmae_plugin.runtime.command_line import make_parser, waiting_time


def parse_options(arguments: list[str] | None = None) -> TestOptions:
    parser = make_parser(__doc__)
    add_run_arguments(
        parser,
        ckpt="checkpoint or folder; default: the newest of the run",
        pretrained_model="gives the weights that the checkpoint lacks",
    )
    add = parser.add_argument
    add("--batch_size", type=int, help="of all processes together; default: the configuration's")
    add("--split", choices=SPLITS, help="of DATA_CONFIG.INFO_PATH; default: test")
    add("--eval_tag", help="name of this evaluation")
    add("--eval_all", action="store_true", help="every epoch of the run, also those to come")
    add("--ckpt_dir", type=Path, help="with --eval_all: folder of the checkpoints")
    add("--start_epoch", type=int, help="with --eval_all: leave out earlier epochs")
    add(
        "--max_waiting_mins",
        type=waiting_time,
        help="with --eval_all: stop when no checkpoint has appeared for so long",
    )
    add("--save_to_file", action="store_true", help="also a file per sample")
    add("--infer_time", action="store_true", help="measure the latency of the network")
    add("--results", type=Path, help="score this results file of nuScenes; runs no network")
    return TestOptions(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    test(parse_options(arguments))
    return 0

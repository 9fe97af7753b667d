"""Evaluate the checkpoints of a network: boxes, maps, or what pre-training reconstructs.

Flags, their meaning and the output directory are OpenPCDet's. Results go to
``output/<group>/<config>/<extra_tag>/eval/epoch_N/<split>/<eval_tag>/``: ``result.txt`` and
``result.pkl``; of boxes ``results_nusc.json`` (to submit), ``metrics_summary.json`` and
``metrics_details.json``; of maps ``map_metrics.json`` with the IoU of every class; of pre-training
``reconstruction_metrics.json``, which tools/evaluate_pretrain.py shows beside an untrained network.
``eval/metrics.jsonl`` and TensorBoard collect the metrics of all checkpoints.
"""

import argparse
import sys
from pathlib import Path

import nsmae_plugin  # (before torch: sets the OpenMP policy)

# isort: split
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import default_workers
from nsmae_plugin.runs import test
from nsmae_plugin.runs.prepare import SPLITS
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line, waiting_time


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cfg_file", type=Path, required=True, help="YAML configuration")
    add("--batch_size", type=int, help="of all processes together; default: the configuration's")
    add("--workers", type=int, default=default_workers(), help="loader processes per process")
    add("--extra_tag", default="default", help="name of the run")
    add("--output_dir", type=Path, default=Path("output"), help="root of the output directories")
    add("--ckpt", type=Path, help="checkpoint or folder; default: the newest of the run")
    add("--pretrained_model", type=Path, help="gives the weights that the checkpoint lacks")
    add("--split", choices=SPLITS, default="test", help="of DATA_CONFIG.INFO_PATH")
    add("--eval_tag", default="default", help="name of this evaluation")
    add("--eval_all", action="store_true", help="every epoch of the run, also those to come")
    add("--ckpt_dir", type=Path, help="with --eval_all: folder of the checkpoints")
    add("--start_epoch", type=int, default=0, help="with --eval_all: leave out earlier epochs")
    add(
        "--max_waiting_mins",
        type=waiting_time,
        default=30,
        help="with --eval_all: stop when no checkpoint has appeared for so long",
    )
    add("--save_to_file", action="store_true", help="also a file per sample")
    add("--infer_time", action="store_true", help="measure the latency of the network")
    add("--results", type=Path, help="score this results file of nuScenes; runs no network")
    add("--launcher", choices=distributed.LAUNCHERS, default="none")
    add("--tcp_port", type=int, default=18888, help="of rank 0, under slurm")
    add("--local_rank", type=int, help="accepted for old launchers; torchrun sets LOCAL_RANK")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--set", dest="overrides", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    return parser.parse_args(arguments)


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        run(args)
    finally:
        distributed.stop()
    return 0


def run(args: argparse.Namespace) -> None:
    """Evaluate what the arguments ask for."""
    config = load_config(args.cfg_file, args.overrides)
    if args.results:
        print(test.score_file(args, config, args.results))
        return
    world = distributed.start(args.launcher, args.device, args.tcp_port, args.local_rank)
    nsmae_plugin.register()
    tests = test.build(args, config, world)
    if args.eval_all:
        test.evaluate_all(tests)
    else:
        test.evaluate_one(tests)


if __name__ == "__main__":
    sys.exit(main())

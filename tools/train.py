"""Train a detector: NS-MAE pre-training, or any other detector of the active host.

Flags, their meaning and the output directory are OpenPCDet's:
``output/<group>/<config>/<extra_tag>/{ckpt,tensorboard,train_*.log}`` below the current directory.
A run that is started again goes on from its newest checkpoint.
"""

import argparse
import sys
from pathlib import Path

import nsmae_plugin  # (before torch: sets the OpenMP policy)

# isort: split
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import default_workers
from nsmae_plugin.runs.train import AMP_DTYPES, build, run_of_its_own
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line, positive
from nsmae_plugin.runtime.random_state import FIXED_SEED
from nsmae_plugin.training import engine


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cfg_file", type=Path, required=True, help="YAML configuration")
    add(
        "--batch_size",
        type=positive,
        help="of all processes together; default: the configuration's",
    )
    add("--epochs", type=positive, help="default: the configuration's")
    add("--max_steps", type=positive, help="stop after that many optimiser steps in all")
    add("--accumulate_steps", type=positive, help="batches per optimiser step")
    add(
        "--workers",
        type=int,
        default=default_workers(),
        help="loader processes per training process",
    )
    add("--extra_tag", default="default", help="name of this run")
    add("--output_dir", type=Path, default=Path("output"), help="root of the output directories")
    add("--ckpt", type=Path, help="checkpoint to resume; default: the newest of this run")
    add("--pretrained_model", type=Path, help="start from the weights of this file (.pth, export)")
    add("--partial_weights", action="store_true", help="accept encoders that match only in part")
    add("--launcher", choices=distributed.LAUNCHERS, default="none")
    add("--tcp_port", type=int, default=18888, help="of rank 0, under slurm")
    add("--local_rank", type=int, help="accepted for old launchers; torchrun sets LOCAL_RANK")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--sync_bn", action="store_true", help="synchronise BatchNorm over processes (CUDA)")
    add("--fix_random_seed", action="store_true", help=f"the same as --seed {FIXED_SEED}")
    add("--seed", type=int, help="default: a random one, which the log names")
    add("--use_amp", action="store_true", help="autocast to --amp_dtype")
    add("--amp_dtype", choices=tuple(AMP_DTYPES), default="bfloat16")
    add("--ckpt_save_interval", type=positive, default=1, help="epochs between checkpoints")
    add("--max_ckpt_save_num", type=positive, default=30, help="epoch checkpoints to keep")
    add("--ckpt_save_time_interval", type=float, default=300, help="seconds, for latest_model.pth")
    add("--ckpt_save_step_interval", type=positive, help="optimiser steps, for latest_model.pth")
    add(
        "--logger_iter_interval",
        type=positive,
        default=50,
        help="optimiser steps between log lines",
    )
    add("--eval_interval", type=int, default=1, help="epochs between evaluations, 0 for none")
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
    """Build everything that the arguments ask for and train."""
    config = load_config(args.cfg_file, args.overrides)
    world = distributed.start(args.launcher, args.device, args.tcp_port, args.local_rank)
    nsmae_plugin.register()
    with run_of_its_own(args):
        session, loader, sampler = build(args, config, world)
        try:
            engine.train(session, loader, sampler)
        finally:
            session.curves.close()


if __name__ == "__main__":
    sys.exit(main())

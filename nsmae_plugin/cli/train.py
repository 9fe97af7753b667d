"""Train a detector: NS-MAE pre-training, or any other detector of the active host.

Flags, their meaning and the output directory are OpenPCDet's:
``output/<group>/<config>/<extra_tag>/{ckpt,tensorboard,train_*.log}`` below the current directory.
A run that is started again goes on from its newest checkpoint.
"""

from nsmae_plugin.runs.options import add_run_arguments
from nsmae_plugin.runs.train import AMP_DTYPES, TrainOptions, train
from nsmae_plugin.runtime.command_line import (
    make_parser,
    not_negative,
    positive,
)
from nsmae_plugin.runtime.random_state import FIXED_SEED
from nsmae_plugin.training.loggers import LOGGERS


def parse_options(arguments: list[str] | None = None) -> TrainOptions:
    parser = make_parser(__doc__)
    add_run_arguments(
        parser,
        ckpt="checkpoint to resume; default: the newest of this run",
        pretrained_model="start from the weights of this file (.pth, export)",
    )
    add = parser.add_argument
    add(
        "--batch_size",
        type=positive,
        help="of all processes together; default: the configuration's",
    )
    add("--epochs", type=positive, help="default: the configuration's")
    add("--max_steps", type=positive, help="stop after that many optimiser steps in all")
    add("--accumulate_steps", type=positive, help="batches per optimiser step")
    add("--partial_weights", action="store_true", help="accept encoders that match only in part")
    add("--sync_bn", action="store_true", help="synchronise BatchNorm over processes (CUDA)")
    add("--fix_random_seed", action="store_true", help=f"the same as --seed {FIXED_SEED}")
    add("--seed", type=not_negative, help="default: a random one, which the log names")
    add("--use_amp", action="store_true", help="autocast to --amp_dtype")
    add("--amp_dtype", choices=tuple(AMP_DTYPES), help="default: bfloat16")
    add("--ckpt_save_interval", type=positive, help="epochs between checkpoints")
    add("--max_ckpt_save_num", type=positive, help="epoch checkpoints to keep")
    add("--ckpt_save_time_interval", type=float, help="seconds, for latest_model.pth")
    add("--ckpt_save_step_interval", type=positive, help="optimiser steps, for latest_model.pth")
    add("--logger_iter_interval", type=positive, help="optimiser steps between log lines")
    add("--eval_interval", type=not_negative, help="epochs between evaluations, 0 for none")
    add(
        "--logger",
        nargs="+",
        choices=tuple(LOGGERS),
        help="show curves and pictures in any of these; default: tensorboard",
    )
    return TrainOptions(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    train(parse_options(arguments))
    return 0

"""Measure the frustum path, training steps, prediction, loading, sparse convolutions and more.

Formulations are measured in turn, each in a process of its own: only the ratios within one run
mean anything on a machine that others use too.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

# For tools.benchmarks, which no installation has; processes that it starts are given this path.
PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import torch

from nsmae_plugin.errors import NSMAEError
from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import positive
from tools.benchmarks import commands, frustum
from tools.benchmarks.measure import MEMORY, MeasurementError, describe_device


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subcommands = parser.add_subparsers(dest="command", required=True)
    path = _add_command(subcommands, "frustum", commands.benchmark_frustum)
    whole = _add_command(subcommands, "step", commands.benchmark_step)
    predict = _add_command(subcommands, "inference", commands.benchmark_inference)
    load = _add_command(subcommands, "loader", commands.benchmark_loader)
    grow = _add_command(subcommands, "growth", commands.benchmark_growth)
    spread = _add_command(subcommands, "sparse", commands.benchmark_sparse)
    pull = _add_command(subcommands, "gradients", commands.benchmark_gradients)
    equal = _add_command(subcommands, "parity", commands.check_parity, device="cuda")
    for command in (path, whole, predict, load, grow, spread):
        command.add_argument("--repeats", type=int, default=3, help="timed steps in each process")
        command.add_argument(
            "--memory",
            choices=MEMORY,
            default="huge_pages",
            help="large tensors on pages of 2 MiB or 4 KiB; kept: freed memory stays in the "
            "process, as in tools/train.py",
        )
    for command in (path, whole, predict, load):
        command.add_argument("--rounds", type=int, default=3, help="processes per formulation")
    for command in (path, grow, equal):
        command.add_argument(
            "--size", choices=frustum.SIZES, default="full", help="full: six 256 x 704 cameras"
        )
    for command, name in (
        (whole, "nsmae_pretrain"),
        (predict, "bevfusion_det"),
        (load, "bevfusion_det"),
        (spread, "bevfusion_det"),
        (pull, "nsmae_pretrain"),
        (equal, "nsmae_pretrain"),
    ):
        command.add_argument("--cfg_file", type=Path, default=PROJECT / f"cfgs/{name}.yaml")
        command.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY VALUE")
    for command in (whole, predict):
        command.add_argument(
            "--only_factorised", action="store_true", help="do not compare, only measure"
        )
    whole.add_argument("--use_amp", action="store_true", help="in bfloat16, as training does")
    whole.add_argument(
        "--own_data",
        action="store_true",
        help="the first training frames of the configuration's dataset in place of made-up ones",
    )
    pull.add_argument("--steps", type=positive, default=1, help="of the training, from its first")
    spread.set_defaults(memory="kept")  # as in training
    load.set_defaults(memory="small_pages")  # as loading processes have them
    load.add_argument("--sweeps", type=int, help="LiDAR files of a sample, for MAX_SWEEPS")
    load.add_argument(
        "--only_ours", action="store_true", dest="only_factorised", help="do not compare"
    )
    grow.add_argument("--plot", type=Path, help="draw it into this file")
    return parser.parse_args(arguments)


def _add_command(
    subcommands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace, int], dict],
    device: str = "cpu",
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="samples, one or several")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    return parser


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    report = {}
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise MeasurementError("no CUDA device was found: this measurement needs one")
        device = describe_device(args.device)
        print(f"torch {torch.__version__}, {device}")
        for batch in args.batch:
            print(f"\nbatch {batch}")
            report[f"batch {batch}"] = args.run(args, batch)
        if args.json:
            content = {"device": device, "torch": torch.__version__, **report}
            files.write_text(args.json, json.dumps(content, indent=2))
    except NSMAEError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

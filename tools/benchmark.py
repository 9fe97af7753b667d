"""Measure the frustum path, a whole pre-training step, and CPU-CUDA parity.

Formulations are measured in turn, each in a process of its own: only the ratios within one run
mean anything on a machine that others use too.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import torch

from nsmae_plugin.benchmark import frustum
from nsmae_plugin.benchmark.measure import (
    MeasurementError,
    compare,
    describe_device,
    interleave,
    run_isolated,
)
from nsmae_plugin.errors import NSMAEError


def benchmark_frustum(args: argparse.Namespace) -> dict:
    """The frustum path, factorised against materialised: first values, then time and memory."""
    module = "nsmae_plugin.benchmark.frustum"
    options = ["--size", args.size, "--batch", str(args.batch), "--device", args.device]
    isolated = partial(run_isolated, module, huge_pages=not args.no_huge_pages)
    differences = isolated(["differences", *options])
    print("largest difference relative to the largest value, float64, factorised - materialised:")
    print("  " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    if max(differences.values()) > 1e-10:
        raise MeasurementError(f"the formulations disagree: {differences}")

    def measure(variant: str) -> dict[str, list[float]]:
        return isolated([variant, *options, "--repeats", str(args.repeats)])

    results = interleave(frustum.VARIANTS, measure, args.rounds)
    report = compare(results, slow="materialised", fast="factorised")
    print_comparison(report, frustum.VARIANTS)
    return {"differences": differences, **report}


def print_comparison(report: dict, variants: tuple[str, ...]) -> None:
    """Median (smallest - largest) of each variant, then the ratios."""
    print(f"{'':14}{'milliseconds':>30}{'MiB above the inputs':>30}")
    for variant in variants:
        cells = [_spread(report[variant]["seconds"], 1e3), _spread(report[variant]["mib"], 1.0)]
        print(f"{variant:14}" + "".join(f"{cell:>30}" for cell in cells))
    ratios = [report["seconds_ratio"], report["mib_ratio"]]
    cells = ["not measured" if ratio is None else f"{ratio:.1f}x" for ratio in ratios]
    print(f"{'ratio':14}" + "".join(f"{cell:>30}" for cell in cells))


def _spread(summary: dict[str, float] | None, scale: float) -> str:
    if summary is None:
        return "not measured"
    median, low, high = (scale * summary[key] for key in ("median", "min", "max"))
    return f"{median:.0f} ({low:.0f} - {high:.0f})"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_command(commands, "frustum", benchmark_frustum).add_argument(
        "--size", choices=frustum.SIZES, default="full", help="full: six 256x704 cameras, 118 bins"
    )
    return parser.parse_args(arguments)


def _add_command(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], dict]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    parser.add_argument("--batch", type=int, default=1, help="samples")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per formulation")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps in each process")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument(
        "--no_huge_pages", action="store_true", help="leave tensors on pages of 4 KiB"
    )
    return parser


def main() -> int:
    args = parse_arguments()
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise MeasurementError("no CUDA device was found: this measurement needs one")
        device = describe_device(args.device)
        print(f"torch {torch.__version__}, {device}, huge pages: {not args.no_huge_pages}")
        report = args.run(args)
    except NSMAEError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    if args.json:
        args.json.write_text(json.dumps({"device": device, **report}, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

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

from nsmae_plugin.benchmark import frustum, parity, step
from nsmae_plugin.benchmark.measure import (
    MeasurementError,
    compare,
    describe_device,
    interleave,
    run_isolated,
)
from nsmae_plugin.config import load_config
from nsmae_plugin.errors import NSMAEError

# Relative differences between the formulations: sums in float64, a whole step in float32.
FRUSTUM_TOLERANCE = 1e-10
STEP_TOLERANCE = 1e-3


def benchmark_frustum(args: argparse.Namespace, batch: int) -> dict:
    """The frustum path, factorised against materialised: first values, then time and memory."""
    options = ["--size", args.size, "--batch", str(batch), "--device", args.device]
    isolated = partial(
        run_isolated, "nsmae_plugin.benchmark.frustum", huge_pages=not args.no_huge_pages
    )
    differences = isolated(["differences", *options])
    print("largest difference relative to the largest value, float64:")
    print("  " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    if max(differences.values()) > FRUSTUM_TOLERANCE:
        raise MeasurementError(f"the formulations disagree: {differences}")

    def measure(variant: str) -> dict[str, list[float]]:
        return isolated([variant, *options, "--repeats", str(args.repeats)])

    results = interleave(frustum.VARIANTS, measure, args.rounds)
    report = compare(results, slow="materialised", fast="factorised")
    print_comparison(report, frustum.VARIANTS)
    return {"differences": differences, **report}


def benchmark_step(args: argparse.Namespace, batch: int) -> dict:
    """A whole pre-training step of a configuration, on made-up data, as is and materialised."""
    options = ["--cfg_file", str(args.cfg_file), "--batch", str(batch), "--device", args.device]
    options += ["--repeats", str(args.repeats), "--set", *args.overrides]
    details: dict[str, dict] = {}

    def measure(variant: str) -> dict[str, list[float]]:
        result = run_isolated(
            "nsmae_plugin.benchmark.step", [variant, *options], huge_pages=not args.no_huge_pages
        )
        details[variant] = result
        return {key: result[key] for key in ("seconds", "mib")}

    has_frustum = load_config(args.cfg_file, args.overrides).MODEL.get("PERSPECTIVE_HEAD")
    variants = step.VARIANTS if has_frustum and not args.only_factorised else step.VARIANTS[:1]
    results = interleave(variants, measure, args.rounds)
    report = compare(results, slow=variants[-1], fast="factorised")
    _check_first_steps(details)
    print(f"{details['factorised']['parameters'] / 1e6:.1f} M parameters")
    print_comparison(report, variants)
    report["stages"] = details["factorised"]["stages"]
    print_stages(report["stages"], report["factorised"]["seconds"]["median"])
    return {**report, **{key: details["factorised"][key] for key in ("parameters", "first_step")}}


def _check_first_steps(details: dict[str, dict]) -> None:
    """Equal weights and data: the variants must start with the same losses and gradients."""
    reference = details["factorised"]["first_step"]
    for variant, result in details.items():
        for name, value in result["first_step"].items():
            if abs(value - reference[name]) > STEP_TOLERANCE * max(1.0, abs(reference[name])):
                raise MeasurementError(
                    f"{name} of the first step is {value} {variant}, {reference[name]} factorised"
                )


def check_parity(args: argparse.Namespace, batch: int) -> dict:
    """Results and gradients of every operation and of a training step: CUDA against CPU."""
    device = torch.device(args.device)
    config = load_config(args.cfg_file, args.overrides)
    operations = parity.operation_differences(device, args.size)
    steps = parity.step_differences(config, device, batch)
    limits = {"operations": parity.OPERATION_TOLERANCE, "step": parity.STEP_TOLERANCE}
    report = {"operations": operations, "step": steps}
    failed = []
    for group, differences in report.items():
        print(f"{group}: relative L2 difference, at most {limits[group]:.0e}")
        for name, value in differences.items():
            print(f"  {name:34}{value:10.1e}")
            if not value <= limits[group]:
                failed.append(name)
    if failed:
        raise MeasurementError(f"{args.device} and CPU disagree on: {', '.join(failed)}")
    return report


def print_stages(stages: dict[str, float], step_seconds: float) -> None:
    """What masks, targets, depth maps and geometry take, and their share of the step."""
    parts = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in stages.items())
    share = sum(stages.values()) / step_seconds
    print(f"beside the network: {parts}; together {share:.1%} of the step")


def print_comparison(report: dict, variants: tuple[str, ...]) -> None:
    """Median (smallest - largest) of each variant, then the ratios."""
    print(f"{'':14}{'milliseconds':>30}{'MiB above what was there':>30}")
    for variant in variants:
        cells = [_spread(report[variant]["seconds"], 1e3), _spread(report[variant]["mib"], 1.0)]
        print(f"{variant:14}" + "".join(f"{cell:>30}" for cell in cells))
    if len(variants) == 1:
        return
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
    path = _add_command(commands, "frustum", benchmark_frustum)
    whole = _add_command(commands, "step", benchmark_step)
    equal = _add_command(commands, "parity", check_parity, device="cuda")
    for command in (path, whole):
        command.add_argument("--rounds", type=int, default=3, help="processes per formulation")
        command.add_argument("--repeats", type=int, default=3, help="timed steps in each process")
        command.add_argument(
            "--no_huge_pages", action="store_true", help="leave tensors on pages of 4 KiB"
        )
    for command in (path, equal):
        command.add_argument(
            "--size", choices=frustum.SIZES, default="full", help="full: six 256 x 704 cameras"
        )
    for command in (whole, equal):
        command.add_argument("--cfg_file", type=Path, default=Path("cfgs/nsmae_pretrain.yaml"))
        command.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY VALUE")
    whole.add_argument(
        "--only_factorised", action="store_true", help="do not compare, only measure the step"
    )
    return parser.parse_args(arguments)


def _add_command(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace, int], dict],
    device: str = "cpu",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    parser.set_defaults(run=run)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="samples, one or several")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    return parser


def main() -> int:
    args = parse_arguments()
    report = {}
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise MeasurementError("no CUDA device was found: this measurement needs one")
        device = describe_device(args.device)
        print(f"torch {torch.__version__}, {device}")
        for batch in args.batch:
            print(f"\nbatch {batch}")
            report[f"batch {batch}"] = args.run(args, batch)
    except NSMAEError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    if args.json:
        content = {"device": device, "torch": torch.__version__, **report}
        args.json.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The subcommands of ``tools/benchmark.py``: each measures, checks, prints, and returns numbers.

``args`` are the parsed arguments of the command line; ``batch`` is one of its ``--batch`` values.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nsmae_plugin.config.load import load_config
from nsmae_plugin.host import openpcdet_available
from tools.benchmarks import frustum, gradients, growth, inference, loader, parity, report, step
from tools.benchmarks.materialised import LIFTING
from tools.benchmarks.measure import (
    KEYS,
    MeasurementError,
    compare,
    interleave,
    run_isolated,
    summarize,
)

# Relative differences between the formulations: sums in float64, a whole step in float32.
FRUSTUM_TOLERANCE = 1e-10
STEP_TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1  # float32; bfloat16, whose numbers have 8 bits
SPARSE_TOLERANCE = 1e-2  # of gradients in float32 behind ReLUs that may open or close

Report = dict[str, Any]


def benchmark_frustum(args: argparse.Namespace, batch: int) -> Report:
    """The frustum path, factorised against materialised: first values, then time and memory.

    With a CUDA device the fused Triton kernels as well.
    """
    options = {"size": args.size, "batch": batch, "device": args.device}
    differences = run_isolated(frustum.largest_differences, options, memory=args.memory)
    print("largest difference relative to the largest value, float64:")
    print("  " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    if max(differences.values()) > FRUSTUM_TOLERANCE:
        raise MeasurementError(f"the formulations disagree: {differences}")

    def measure(variant: str) -> Report:
        timed = {"variant": variant, "repeats": args.repeats, **options}
        return run_isolated(frustum.measure, timed, memory=args.memory)

    variants = frustum.variants(torch.device(args.device))
    results = interleave(variants, measure, args.rounds)
    measured = compare(results, slow="materialised", fast="factorised")
    report.print_comparison(measured, variants)
    return {"differences": differences, **measured}


def benchmark_step(args: argparse.Namespace, batch: int) -> Report:
    """A whole training step of a configuration, and its modules one by one.

    As is, with the published frustum, and with OpenPCDet's own modules where it is installed.
    """
    vtransform = load_config(args.cfg_file, args.overrides).MODEL.get("VTRANSFORM")
    lifts = vtransform is not None and vtransform.NAME in LIFTING
    variants = _variants(args, step.VARIANTS, {"materialised": lifts})
    options = {"device": args.device, "use_amp": args.use_amp, "own_data": args.own_data}
    results, details = _measure(args, step.measure_variant, variants, batch, **options)
    slow = "materialised" if "materialised" in variants else variants[-1]
    measured = compare(results, slow=slow, fast="factorised")
    own = {name: one for name, one in details.items() if name != "openpcdet"}
    check_first_steps(own, HALF_TOLERANCE if args.use_amp else STEP_TOLERANCE)
    mine = details["factorised"]
    print(f"{mine['parameters'] / 1e6:.1f} M parameters")
    report.print_comparison(measured, variants)
    report.print_rate(measured, variants, batch)
    modules = {name: one["modules"] for name, one in details.items()}
    report.print_modules(modules)
    report.print_stages(mine["stages"], measured["factorised"]["seconds"]["median"])
    kept = {key: mine[key] for key in ("parameters", "first_step", "stages")}
    return {**measured, **kept, "modules": modules}


def _variants(
    args: argparse.Namespace, names: Sequence[str], possible: dict[str, bool]
) -> tuple[str, ...]:
    if args.only_factorised:
        return tuple(names[:1])
    possible = {**possible, "openpcdet": openpcdet_available()}
    return tuple(name for name in names if possible.get(name, True))


def _measure(
    args: argparse.Namespace,
    function: Callable[..., Report],
    variants: Sequence[str],
    batch: int,
    **options: Any,
) -> tuple[Report, Report]:
    """Seconds and MiB of all rounds of the variants, and what the last round returned.

    OpenPCDet's modules run on its host; ours on the built-in one unless NSMAE_HOST names another.
    """
    own = os.environ.get("NSMAE_HOST", "builtin")
    options |= {"batch": batch, "repeats": args.repeats}
    options |= {"cfg_file": args.cfg_file, "overrides": args.overrides}
    details: Report = {}

    def measure(variant: str) -> Report:
        host = "openpcdet" if variant == "openpcdet" else own
        arguments = {"variant": variant, **options}
        result = run_isolated(function, arguments, memory=args.memory, host=host)
        details[variant] = result
        return {key: result[key] for key in KEYS}

    return interleave(variants, measure, args.rounds), details


def check_first_steps(details: dict[str, Report], tolerance: float) -> None:
    """Equal weights and data: the variants must start with the same losses and gradients."""
    reference = details["factorised"]["first_step"]
    for variant, result in details.items():
        for name, value in result["first_step"].items():
            if abs(value - reference[name]) > tolerance * max(1.0, abs(reference[name])):
                raise MeasurementError(
                    f"{name} of the first step is {value} {variant}, {reference[name]} factorised"
                )


def benchmark_inference(args: argparse.Namespace, batch: int) -> Report:
    """Latency and memory of prediction, against OpenPCDet's modules at equal weights and features.

    For networks that predict boxes or a map.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = {"device": args.device, "folder": folder}
        variants = _variants(args, inference.VARIANTS, {})
        results, _ = _measure(args, inference.measure, variants, batch, **place)
        agreement = inference.agreement(Path(folder), variants)
    measured = compare(results, slow=variants[-1], fast="factorised")
    report.print_comparison(measured, variants)
    report.print_rate(measured, variants, batch)
    for name, one in agreement.items():
        print(f"{name}: median difference {one['median']:.1e}, {one['share']:.1%} agree")
    inference.check(agreement)
    return {**measured, "agreement": agreement}


def benchmark_loader(args: argparse.Namespace, batch: int) -> Report:
    """Samples per second of one core, by stage, against OpenPCDet's dataset on the same files.

    Its info files must be there (tools/create_infos.py --with_cam).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core is measured; read when NumPy loads
    variants = _variants(args, loader.VARIANTS, {})
    results, details = _measure(args, loader.measure, variants, batch, sweeps=args.sweeps)
    measured = compare(results, slow=variants[-1], fast="ours")
    loader.check_same({name: one["loaded"] for name, one in details.items()})
    stages = {name: one["stages"] for name, one in details.items()}
    report.print_loader(measured, stages)
    return {**measured, "stages": stages}


def benchmark_growth(args: argparse.Namespace, batch: int) -> Report:
    """Time and memory of the frustum path and the targets against each dimension, as a plot."""
    options = {"size": args.size, "batch": batch, "device": args.device, "repeats": args.repeats}
    series: Report = {}
    for axis, values in growth.AXES[args.size].items():
        rows = []
        for value in values:
            point = {"axis": axis, "value": value, **options}
            result = run_isolated(growth.measure, point, memory=args.memory)
            rows.append({"value": value, **result})
        series[axis] = {"rows": rows, "exponents": growth.exponents(rows)}
        growth.print_series(axis, series[axis])
    if args.plot:
        growth.save_plot(series, args.plot)
        print(f"saved {args.plot}")
    return series


def benchmark_gradients(args: argparse.Namespace, batch: int) -> Report:
    """Norms of the gradient by slot in the first steps of a training, and how much is below eps."""
    config = load_config(args.cfg_file, args.overrides)
    tables = gradients.measure_steps(config, batch, args.steps, torch.device(args.device))
    for number, table in enumerate(tables, start=1):
        gradients.print_table(number, table)
    return {"steps": tables}


def benchmark_sparse(args: argparse.Namespace, batch: int) -> Report:
    """The sparse backbone and a training step on one thread of a CPU, against spconv's own path."""
    from tools.benchmarks import sparse  # imports spconv, which not every platform has

    options = {"batch": batch, "repeats": args.repeats, "device": args.device}
    options |= {"cfg_file": args.cfg_file, "overrides": args.overrides}
    own = os.environ.get("NSMAE_HOST", "builtin")
    measured = run_isolated(sparse.measure, options, memory=args.memory, host=own)
    variants = {
        name: {key: summarize(one) if isinstance(one, list) else one for key, one in found.items()}
        for name, found in measured["variants"].items()
    }
    summary = {**measured, "rate": summarize(measured["rate"]), "variants": variants}
    report.print_sparse(summary)
    if variants["ours"]["difference"] > SPARSE_TOLERANCE:
        raise MeasurementError("the sparse convolutions disagree with spconv's")
    return summary


def check_parity(args: argparse.Namespace, batch: int) -> Report:
    """Results and gradients of every operation and of a training step: CUDA against CPU."""
    device = torch.device(args.device)
    config = load_config(args.cfg_file, args.overrides)
    operations = parity.operation_differences(device, args.size)
    steps = parity.step_differences(config, device, batch)
    failed = report.print_differences("operations", operations, parity.OPERATION_TOLERANCE)
    failed += report.print_differences("step", steps, parity.STEP_TOLERANCE)
    if failed:
        raise MeasurementError(f"{args.device} and CPU disagree on: {', '.join(failed)}")
    return {"operations": operations, "step": steps}

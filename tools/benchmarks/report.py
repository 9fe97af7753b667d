"""Printed tables of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.benchmarks.measure import KEYS, ratio


def print_comparison(report: dict[str, Any], variants: Sequence[str]) -> None:
    """Median (smallest - largest) of each variant, and the ratios of the others to the first."""
    print(f"{'':14}{'milliseconds':>30}{'MiB above what was there':>30}{'compared':>24}")
    first = variants[0]
    for variant in variants:
        cells = [_spread(report[variant]["seconds"], 1e3), _spread(report[variant]["mib"], 1.0)]
        line = f"{variant:14}" + "".join(f"{cell:>30}" for cell in cells)
        if variant != first:
            ratios = [ratio(report, key, variant, first) for key in KEYS]
            words = ["?" if one is None else f"{one:.2f}x" for one in ratios]
            line += f"{f'{words[0]} time, {words[1]} MiB':>24}"
        print(line)


def _spread(summary: dict[str, float] | None, scale: float) -> str:
    if summary is None:
        return "not measured"
    median, low, high = (scale * summary[key] for key in ("median", "min", "max"))
    return f"{median:.0f} ({low:.0f} - {high:.0f})"


def print_rate(report: dict[str, Any], variants: Sequence[str], batch: int) -> None:
    """Samples per second of each variant."""
    rates = [f"{name} {batch / report[name]['seconds']['median']:.3g}" for name in variants]
    print(f"samples per second: {', '.join(rates)}")


def print_modules(modules: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """A row per module; forward and backward in milliseconds, and MiB kept, of each variant."""
    variants = list(modules)
    _print_row("", [f"{name}: forward, backward ms, MiB" for name in variants], 42)
    for name in dict.fromkeys(name for table in modules.values() for name in table):
        _print_row(name, [_module(modules[variant].get(name)) for variant in variants], 42)


def _print_row(title: str, cells: Sequence[str], width: int = 24) -> None:
    print(f"{title:24}" + "".join(f"{cell:>{width}}" for cell in cells))


def _module(row: dict[str, float | None] | None) -> str:
    if row is None:
        return "-"
    seconds = [row["forward"], row["backward"]]
    times = "".join("         -" if one is None else f"{1e3 * one:10.1f}" for one in seconds)
    return f"{times}{row['mib']:10.1f}"


def print_loader(report: dict[str, Any], stages: dict[str, dict[str, float]]) -> None:
    """A row per stage, milliseconds of the processor per sample, then samples per second."""
    variants = list(stages)
    _print_row("ms per sample", variants)
    for name in dict.fromkeys(name for table in stages.values() for name in table):
        _print_row(name, [f"{1e3 * stages[one].get(name, 0.0):.1f}" for one in variants])
    seconds = [report[variant]["seconds"] for variant in variants]
    _print_row("whole sample", [_spread(one, 1e3) for one in seconds])
    _print_row("samples per second", [f"{1 / one['median']:.1f}" for one in seconds])
    if len(variants) > 1:
        print(f"{variants[0]} / {variants[1]}: {report['seconds_ratio']:.2f}x")


def print_stages(stages: dict[str, float], step_seconds: float) -> None:
    """What masks, targets, depth maps and geometry take, and their share of the step."""
    if not stages:
        return
    parts = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in stages.items())
    share = sum(stages.values()) / step_seconds
    print(f"beside the network: {parts}; together {share:.1%} of the step")


def print_sparse(report: dict[str, Any]) -> None:
    """A row per variant: milliseconds, and ratios to the arithmetic and to the first variant."""
    arithmetic = report["gflop"] / report["rate"]["median"]
    print(
        f"{report['voxels']} voxels, {report['gflop']:.1f} GFLOP; a large product runs at "
        f"{report['rate']['median']:.0f} GFLOP/s: {1e3 * arithmetic:.0f} ms"
    )
    titles = ["forward ms", "backward ms", "of arithmetic", "peak MiB", "difference", "step ms"]
    _print_row("", [*titles, "step ratio"], 20)
    variants = report["variants"]
    first = next(iter(variants.values()))["step"]["median"]
    for name, one in variants.items():
        passes = one["forward"]["median"] + one["backward"]["median"]
        cells = [_spread(one[key], 1e3) for key in ("forward", "backward")]
        cells += [f"{passes / arithmetic:.2f}", _spread(one["mib"], 1.0)]
        cells += [f"{one['difference']:.1e}", _spread(one["step"], 1e3)]
        _print_row(name, [*cells, f"{one['step']['median'] / first:.2f}"], 20)


def print_differences(group: str, differences: dict[str, float], limit: float) -> list[str]:
    """Relative L2 differences; returns the names of those above the limit, or NaN."""
    print(f"{group}: relative L2 difference, at most {limit:.0e}")
    for name, value in differences.items():
        print(f"  {name:34}{value:10.1e}")
    return [name for name, value in differences.items() if not value <= limit]

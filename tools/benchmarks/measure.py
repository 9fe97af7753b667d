"""Seconds and peak memory, each measured in a process of its own.

``python -m tools.benchmarks.measure MODULE FUNCTION ARGUMENTS`` is such a process, see
:func:`run_isolated`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import torch

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import NSMAEError
from nsmae_plugin.runtime.command_line import PREFIX, errors_in_one_line
from nsmae_plugin.runtime.memory import SETTINGS, release_freed_memory

MIB = 2.0**20
KEYS = ("seconds", "mib")
PROJECT = Path(__file__).resolve().parents[2]


#: Where large tensors lie (Linux), by what is in the environment when torch loads. Much of the time
#: of a formulation that allocates much is that of new pages: with pages of 2 MiB it is less, and
#: where freed memory is kept, as tools/train.py does on a CPU, nothing.
MEMORY = {
    "huge_pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "small_pages": {"THP_MEM_ALLOC_ENABLE": "0"},
    "kept": {
        "THP_MEM_ALLOC_ENABLE": "0",
        **{variable: str(value) for variable, (_, value) in SETTINGS.items()},
    },
}


class MeasurementError(NSMAEError):
    """A measurement that failed or is impossible on this machine."""


def measure_calls(
    step: Callable[[], Any], device: torch.device, repeats: int, first_calls: int = 1
) -> dict[str, list[float]]:
    """Run ``step`` a first time for its peak memory, then ``repeats`` times for its duration.

    The memory is that above what is held before: resident pages on a CPU, allocated bytes on a
    GPU. The first calls also warm up.

    Args:
        first_calls: several when the first leave something behind, as the moments of an optimiser.

    Returns:
        ``seconds`` of every timed call; ``mib``, one value, or none where it cannot be read.
    """
    before = _reset_peak(device)
    for _ in range(first_calls):
        step()
    peak = _peak(device)
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "mib": [] if peak is None else [(peak - before) / MIB]}


def _reset_peak(device: torch.device) -> float:
    """Bytes held now; the peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    release_freed_memory()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # resets VmHWM, see proc(5)
    except OSError:
        return 0.0
    return _peak(device) or 0.0


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
    except OSError:
        return None
    return 1024.0 * int(line.split()[1])


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run_isolated(
    function: Callable[..., dict[str, Any]],
    arguments: dict[str, Any],
    *,
    memory: str,
    host: str | None = None,
) -> dict[str, Any]:
    """Call a function of the benchmark in a fresh process.

    Args:
        function: of a module; returns what JSON holds.
        arguments: keyword arguments, as JSON holds them. The function gets ``device`` as a
            torch.device, and ``cfg_file`` and ``overrides`` as the ``config`` that they describe.
        memory: one of MEMORY.
        host: 'builtin' or 'openpcdet'; None leaves NSMAE_HOST as it is.

    Raises:
        MeasurementError: with what the process wrote to stderr; where the plugin refused to go on,
            with its line alone.
    """
    environment = dict(os.environ)
    paths = [str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)  # also where the package is not installed
    if host is not None:
        environment["NSMAE_HOST"] = host
    environment |= MEMORY[memory]
    call = [function.__module__, function.__name__, json.dumps(arguments, default=str)]
    command = [sys.executable, "-m", __name__, *call]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = done.stderr.strip()
        last = errors.rpartition("\n")[2]
        if last.startswith(PREFIX):
            raise MeasurementError(last.removeprefix(PREFIX))
        raise MeasurementError(f"{' '.join(command)} failed:\n{errors[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interleave(
    variants: Sequence[str], measure: Callable[[str], dict[str, list[float]]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Measure the variants in turn, ``rounds`` times, so that other work slows each alike."""
    results: dict[str, dict[str, list[float]]] = {
        variant: {"seconds": [], "mib": []} for variant in variants
    }
    for _ in range(rounds):
        for variant in variants:
            for key, values in measure(variant).items():
                results[variant][key] += values
    return results


def summarize(values: Sequence[float]) -> dict[str, float] | None:
    """Median, smallest and largest; None for an empty list."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(results: dict[str, dict[str, list[float]]], slow: str, fast: str) -> dict[str, Any]:
    """Summaries of all variants and the ratios ``slow / fast`` of the medians of two of them."""
    report: dict[str, Any] = {
        variant: {key: summarize(values) for key, values in result.items()}
        for variant, result in results.items()
    }
    return {**report, **{f"{key}_ratio": ratio(report, key, slow, fast) for key in KEYS}}


def ratio(report: dict[str, Any], key: str, slow: str, fast: str) -> float | None:
    """Ratio of the medians of two variants; None if one was not measured."""
    pair = report[slow][key], report[fast][key]
    return pair[0]["median"] / pair[1]["median"] if all(pair) else None


def describe_device(device: str) -> str:
    """Name of the GPU, or number of threads of the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


@errors_in_one_line
def main() -> int:
    module, name, text = sys.argv[1:]
    arguments = json.loads(text)
    if "device" in arguments:
        arguments["device"] = torch.device(arguments["device"])
    if "cfg_file" in arguments:
        path, overrides = (arguments.pop(key) for key in ("cfg_file", "overrides"))
        arguments["config"] = load_config(Path(path), overrides)
    print(json.dumps(getattr(import_module(module), name)(**arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

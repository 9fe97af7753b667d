"""All kinds of input, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import (
    calibration,
    checkpoints,
    clouds,
    command_lines,
    configurations,
    images,
    maps,
    pickles,
    results,
    tables,
)
from tests.fuzz.harness import Draw

KINDS: dict[str, Callable[[Path], Draw]] = {
    "info pickles": pickles.info_pickles,
    "databases": pickles.databases,
    "infos": pickles.infos,
    "clouds": clouds.clouds,
    "images": images.images,
    "calibration": calibration.calibration,
    "tables": tables.tables,
    "splits": tables.splits,
    "maps": maps.maps,
    "results": results.results,
    "records": results.records,
    "checkpoints": checkpoints.checkpoints,
    "command_lines": command_lines.command_lines,
    "configurations": configurations.configurations,
}

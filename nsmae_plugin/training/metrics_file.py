"""``metrics.jsonl``: one JSON object per line, robust against interrupted writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nsmae_plugin.runtime import files
from nsmae_plugin.runtime.command_line import RUN_LOGGER
from nsmae_plugin.runtime.reading import GIB, read_bytes

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Add one record."""
    files.append_text(path, json.dumps(record) + "\n")


def rewrite(
    path: Path, keep: Callable[[Record], bool], more: Iterable[Record] = ()
) -> list[Record]:
    """Filter the records and add others; returns the new content.

    Lines that are no records, but for a last one that was not finished, are left out with a
    warning, and the file as it was stays beside the new one.
    """
    content = b""
    if path.exists():
        content = read_bytes(path, "the metrics", "move it away", GIB)
    *lines, _unfinished = content.decode("utf-8", errors="replace").split("\n")
    records = [_parsed(line) for line in lines]
    damaged = records.count(None)
    if damaged:
        copy = path.with_name(f"{path.name}.damaged")
        files.write_bytes(copy, content)
        message = "%d lines of %s are no records and left out; the file as it was is %s"
        logging.getLogger(RUN_LOGGER).warning(message, damaged, path, copy)
    kept = [*(one for one in records if one is not None and keep(one)), *more]
    if content or kept:
        files.write_text(path, "".join(json.dumps(one) + "\n" for one in kept))
    return kept


def _parsed(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None

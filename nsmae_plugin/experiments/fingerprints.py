"""Digests of settings and files, by which an experiment knows what its results were made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def fingerprint(settings: Any) -> str:
    """Digest of settings made of plain JSON types."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Digest of a file, read once as long as it stays the same."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@cache
def _digest(path: Path, changed_ns: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def data_files(data: Mapping[str, Any]) -> list[Path]:
    """The existing info files and vector maps that a nuScenes dataset reads."""
    root = Path(data.get("DATA_PATH", "")) / data.get("VERSION", "")
    names = [name for split in (data.get("INFO_PATH") or {}).values() for name in split]
    maps = sorted(root.glob("maps/expansion/*.json")) if data.get("MAP_CONFIG") else []
    return [root / name for name in names if (root / name).is_file()] + maps

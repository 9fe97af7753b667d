"""Safe reading of ``torch.save`` files: no code is executed, damage is detected."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsmae_plugin.errors import CheckpointError

logger = logging.getLogger(__name__)

#: Below this release a made-up file runs code although it is read with ``weights_only=True``
#: (CVE-2025-32434 before 2.6, CVE-2026-24747 before 2.10).
SAFE_TORCH = (2, 10)
# OpenPCDet's optimiser leaves NumPy scalars in its state; they are plain numbers, and harmless.
_SAFE_GLOBALS: list[Any] = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype(np.float64))]


def unsafe_torch(version: str = torch.__version__) -> str | None:
    """A warning when this torch runs code from made-up files, else None."""
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if release >= SAFE_TORCH:
        return None
    return (
        f"torch {version} can run code that is hidden in a .pth file (CVE-2025-32434, "
        "CVE-2026-24747): load only files that you trust, use .safetensors files, which cannot "
        f"hold code, or install torch>={SAFE_TORCH[0]}.{SAFE_TORCH[1]}"
    )


def load(path: Path, mmap: bool = False) -> Any:
    """Content of a file of ``torch.save``, on the CPU; plain containers and tensors only.

    Args:
        mmap: map the tensors into memory instead of reading them, where the file allows it; their
            checksums are not compared then.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or holds other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    warning = unsafe_torch()
    if warning:
        logger.warning("%s: %s", path, warning)
    mmap = mmap and zipfile.is_zipfile(path)
    if not mmap:
        _check_sums(path)
    # Leaving the context takes its types off torch's list, also those that stood there before.
    allowed = torch.serialization.get_safe_globals()
    missing = [kind for kind in _SAFE_GLOBALS if kind not in allowed]
    try:
        with torch.serialization.safe_globals(missing):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # exceptions of unpickling have no common base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch advises to execute it
            reason = "it holds something else than tensors and plain containers"
        raise CheckpointError(
            f"cannot read the checkpoint {path}, it may be truncated ({reason[:200]}); move it "
            "away to go on from the one before it"
        ) from error


def _check_sums(path: Path) -> None:
    """Compare the checksums of a zip archive, which torch writes and does not read.

    Files in the layout from before torch 1.6 are no archives and have none.

    Raises:
        CheckpointError: a part of the archive is not what was written.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # exceptions of reading have no common base class
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(
            f"the checkpoint {path} is damaged: its checksums do not match ({damaged}); copy it "
            "again, or go on from the one before it"
        )

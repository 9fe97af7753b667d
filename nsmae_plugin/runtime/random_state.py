"""Seeding, saving and restoring of all random generators.

Saved states hold plain numbers, lists and tensors only, so that a checkpoint with them can be read
by ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# OpenPCDet's --fix_random_seed.
FIXED_SEED = 666


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices); another rank draws other numbers."""
    words = np.random.SeedSequence((seed, rank)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002 (OpenPCDet's modules draw from the global state)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def get_random_state() -> dict[str, Any]:
    """States of Python's, NumPy's, torch's CPU and the current CUDA device's generators."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    return {
        "python": [version, list(words), next_gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_random_state` returned."""
    version, words, next_gauss = state["python"]
    random.setstate((version, tuple(words), next_gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Run the body and restore the state of all generators."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)

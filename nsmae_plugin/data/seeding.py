"""Random states of their own for a piece of code."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*stream: int) -> Iterator[None]:
    """Seed ``random``, NumPy's global state and torch's CPU generator; restore them at the end.

    Args:
        stream: non-negative integers; other numbers, or another order, give other states.
    """
    words = np.random.SeedSequence(stream).generate_state(4)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(words.tobytes())
        np.random.seed(words)  # noqa: NPY002 (OpenPCDet's augmentors draw from it)
        torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002

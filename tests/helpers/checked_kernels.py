"""Launches in Triton's interpreter where every access outside the kernel's tensors is an error.

On a GPU it would read what happens to be there, or end the process, even where the program makes no
use of it; results alone do not tell.
"""

from functools import partial, partialmethod

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder


def check_accesses(monkeypatch, modules):
    """Until the test ends, check the launches of the kernel modules."""
    ranges: list[tuple[int, int]] = []  # first address, and first behind, of the launch's tensors

    def checked_launch(launch, kernel, grid, arguments, **options):
        ranges[:] = [_addresses(value) for value in arguments if torch.is_tensor(value)]
        launch(kernel, grid, arguments, **options)

    def checked_access(builder, access, place_of_mask, pointers, *arguments):
        addresses = pointers.data[arguments[place_of_mask].data]
        inside = np.zeros(addresses.shape, dtype=bool)
        for first, behind in ranges:
            inside |= (first <= addresses) & (addresses < behind)
        assert inside.all(), "an access out of bounds"
        return access(builder, pointers, *arguments)

    for module in modules:
        monkeypatch.setattr(module, "launch", partial(checked_launch, module.launch))
    for name, place_of_mask in (("create_masked_load", 0), ("create_masked_store", 1)):
        access = getattr(InterpreterBuilder, name)
        checked = partialmethod(checked_access, access, place_of_mask)
        monkeypatch.setattr(InterpreterBuilder, name, checked)


def _addresses(tensor):
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in steps) if tensor.numel() else 0
    return tensor.data_ptr(), tensor.data_ptr() + extent * tensor.element_size()

"""Modules that compute in float32 whatever the rest of the network is cast to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

#: spconv has no bfloat16 kernels; heads compare and decode positions of a hundred metres to
#: centimetres, for which bfloat16 has too few digits.
FLOAT32_SLOTS = ("backbone_3d", "dense_head")
HALVES = (torch.float16, torch.bfloat16)

Batch = dict[str, Any]


def keep_float32(model: nn.Module) -> nn.Module:
    """Let the slots in :data:`FLOAT32_SLOTS` ignore autocast; for any detector of either host.

    Half-precision tensors reach them as float32. Without autocast nothing changes. Names and values
    of the parameters stay.

    Returns:
        The same model.
    """
    for slot in FLOAT32_SLOTS:
        module = getattr(model, slot, None)
        if module is not None:
            module.forward = partial(_in_float32, module, module.forward)
    return model


def _in_float32(module: nn.Module, forward: Callable[[Batch], Batch], batch_dict: Batch) -> Batch:
    batch_dict = {
        key: value.float() if torch.is_tensor(value) and value.dtype in HALVES else value
        for key, value in batch_dict.items()
    }
    with torch.autocast(next(module.parameters()).device.type, enabled=False):
        return forward(batch_dict)

"""How numbers are kept while training in half precision: in which modules, and in which order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

#: spconv has no bfloat16 kernels; heads compare and decode positions of a hundred metres to
#: centimetres, for which bfloat16 has too few digits.
FLOAT32_SLOTS = ("backbone_3d", "dense_head")
HALVES = (torch.float16, torch.bfloat16)
#: What convolves maps.
CONVOLVING_SLOTS = ("neck", "vtransform", "fuser", "backbone_2d", "bev_head", "map_head")

Batch = dict[str, Any]


def fit_precision(model: nn.Module, amp_dtype: torch.dtype | None) -> nn.Module:
    """Make a model ready for training under autocast to ``amp_dtype``, or in float32 for None.

    Returns:
        The same model.
    """
    keep_float32(model)
    return model if amp_dtype is None else use_channels_last(model)


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


def use_channels_last(model: nn.Module) -> nn.Module:
    """Let the slots in :data:`CONVOLVING_SLOTS` keep their maps channels-last.

    So the matrix units of CPUs and GPUs take bfloat16 without reordering: on a CPU with AMX the
    convolutions of a step take 0.55 to 0.9 of the time (docs/PERFORMANCE.md). Values change by
    rounding alone. The slots in :data:`FLOAT32_SLOTS` still get contiguous maps, as they would
    otherwise; call :func:`keep_float32` as well.

    Returns:
        The same model.
    """
    for slot in CONVOLVING_SLOTS:
        module = getattr(model, slot, None)
        if module is not None:
            module.to(memory_format=torch.channels_last)
    return model


def _in_float32(module: nn.Module, forward: Callable[[Batch], Batch], batch_dict: Batch) -> Batch:
    batch_dict = {key: _plain(value) for key, value in batch_dict.items()}
    with torch.autocast(next(module.parameters()).device.type, enabled=False):
        return forward(batch_dict)


def _plain(value: Any) -> Any:
    """Maps contiguous, because OpenPCDet's heads take views of them; halves as float32."""
    if not torch.is_tensor(value):
        return value
    if value.dtype in HALVES:
        return value.to(torch.float32, memory_format=torch.contiguous_format)
    return value.contiguous() if value.dim() == 4 else value

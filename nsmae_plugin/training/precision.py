"""Mixed precision: modules that stay in float32, and the channels-last format."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from nsmae_plugin.ops.sparse_conv_cpu import bfloat16_products

#: spconv has no bfloat16 kernels, and on a CPU ours keep their sums in float32; heads compare and
#: decode positions of a hundred metres to centimetres, for which bfloat16 has too few digits.
FLOAT32_SLOTS = ("backbone_3d", "dense_head")
#: What convolves maps.
CONVOLVING_SLOTS = ("neck", "vtransform", "fuser", "backbone_2d", "bev_head", "map_head")

Batch = dict[str, Any]


def fit_precision(model: nn.Module, amp_dtype: torch.dtype | None) -> nn.Module:
    """Make a model of either host ready for training under autocast to ``amp_dtype``; return it.

    The slots in :data:`FLOAT32_SLOTS` ignore autocast: hooks switch it off and give them float32.
    Names and values of the parameters stay. Sparse convolutions on a CPU with instructions for
    bfloat16 still multiply in it.

    The slots in :data:`CONVOLVING_SLOTS` keep their maps channels-last, so that the matrix units of
    CPUs and GPUs take bfloat16 without reordering: on a CPU with AMX the convolutions of a step
    take 0.55 to 0.9 of the time (docs/PERFORMANCE.md). Values change by rounding alone.

    Args:
        amp_dtype: None for a training in float32, which leaves the order of maps as it is.
    """
    for slot in FLOAT32_SLOTS:
        module = getattr(model, slot, None)
        if module is not None:
            _leave_autocast(module)
    for slot in CONVOLVING_SLOTS if amp_dtype is not None else ():
        module = getattr(model, slot, None)
        if module is not None:
            module.to(memory_format=torch.channels_last)
    return model


def _leave_autocast(module: nn.Module) -> None:
    """Let a module that maps ``batch_dict`` to ``batch_dict`` compute in float32."""
    contexts = ExitStack()

    def enter(module: nn.Module, inputs: tuple[Batch]) -> tuple[Batch]:
        (batch_dict,) = inputs
        batch_dict = {key: _plain(value) for key, value in batch_dict.items()}
        device = next(module.parameters()).device.type
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        contexts.enter_context(bfloat16_products(half == torch.bfloat16))
        contexts.enter_context(torch.autocast(device, enabled=False))
        return (batch_dict,)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(lambda *_: contexts.close(), always_call=True)


def _plain(value: Any) -> Any:
    """Maps contiguous, because OpenPCDet's heads take views of them; halves as float32."""
    if not torch.is_tensor(value):
        return value
    if value.dtype in (torch.float16, torch.bfloat16):
        return value.to(torch.float32, memory_format=torch.contiguous_format)
    return value.contiguous() if value.dim() == 4 else value

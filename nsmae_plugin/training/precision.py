"""How numbers are kept while training in half precision: in which modules, and in which order."""

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

    Hooks around their forward pass switch autocast off and turn half-precision tensors into
    float32. Without autocast nothing changes. Names and values of the parameters stay.

    Returns:
        The same model.
    """
    for slot in FLOAT32_SLOTS:
        module = getattr(model, slot, None)
        if module is not None:
            without_autocast = _WithoutAutocast()
            module.register_forward_pre_hook(without_autocast.enter)
            module.register_forward_hook(without_autocast.leave, always_call=True)
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


class _WithoutAutocast:
    """Forward hooks of a module that maps ``batch_dict`` to ``batch_dict``."""

    def __init__(self) -> None:
        self._contexts: list[torch.autocast] = []

    def enter(self, module: nn.Module, inputs: tuple[Batch]) -> tuple[Batch]:
        (batch_dict,) = inputs
        batch_dict = {key: _plain(value) for key, value in batch_dict.items()}
        context = torch.autocast(next(module.parameters()).device.type, enabled=False)
        context.__enter__()
        self._contexts.append(context)
        return (batch_dict,)

    def leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        if self._contexts:  # none where the hook above failed
            self._contexts.pop().__exit__(None, None, None)


def _plain(value: Any) -> Any:
    """Maps contiguous, because OpenPCDet's heads take views of them; halves as float32."""
    if not torch.is_tensor(value):
        return value
    if value.dtype in HALVES:
        return value.to(torch.float32, memory_format=torch.contiguous_format)
    return value.contiguous() if value.dim() == 4 else value

"""Running OpenPCDet where torch has no CUDA device.

Its code calls CUDA by name. With a device nothing here is applied; without one each of these calls
could only fail, so no working program changes its behaviour.

``Tensor.cuda()``
    Heads and losses call it on constants and on whole batches. It returns a *copy*, as a transfer
    would: heads edit the result in place, and must not edit the target that it came from.
``Module.cuda()``
    Scripts call it on the model; the parameters stay where they are.
``torch.cuda.FloatTensor``, ``torch.cuda.IntTensor``
    The utilities of IoU and of PointNet++ allocate outputs with these legacy constructors; the CPU
    ones of the same type take their place.
spconv
    Its convolutions on the CPU take other paths: see :mod:`nsmae_plugin.ops.spconv_cpu`.
"""

from typing import Any

import torch
from torch import nn

from nsmae_plugin.ops import spconv_cpu


def _copy_instead_of_transfer(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return tensor.clone()


def _stay(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    return module


def apply() -> bool:
    """Apply the substitutions when CUDA is not available; returns whether they were."""
    if torch.cuda.is_available():
        return False
    torch.Tensor.cuda = _copy_instead_of_transfer  # type: ignore[method-assign,assignment]
    nn.Module.cuda = _stay  # type: ignore[method-assign,assignment]
    for name in ("FloatTensor", "IntTensor"):
        setattr(torch.cuda, name, getattr(torch, name))
    spconv_cpu.apply()
    return True

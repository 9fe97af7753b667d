"""Starting a kernel on the device of its tensors."""

from __future__ import annotations

from typing import Any

import torch
import triton

from nsmae_plugin.errors import ConfigError


def launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], warps: int, **constants: Any
) -> None:
    """Run ``kernel`` on ``grid`` programs of ``warps`` warps each.

    Args:
        arguments: of the kernel in its order; the first is a tensor and names the device.
        constants: the kernel's compile-time constants.

    Raises:
        ConfigError: the tensors are not on a CUDA device, and the kernels were not defined for
            Triton's interpreter (TRITON_INTERPRET=1, for tests).
    """
    device = arguments[0].device
    if device.type != "cuda" and isinstance(kernel, triton.JITFunction):
        raise ConfigError(
            f"the Triton kernels need tensors on a CUDA device, not on {device}: set "
            "MODEL.VTRANSFORM.KERNELS to 'torch', or move the network to a CUDA device"
        )
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, num_warps=warps, **constants)

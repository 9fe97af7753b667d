"""Fused Triton kernels for the frustum path, for CUDA devices.

The PyTorch formulations in :mod:`nsmae_plugin.models` are the default and the reference; these
compute the same in one kernel for each direction. ``MODEL.VTRANSFORM.KERNELS: triton`` switches
them on. Triton comes with CUDA builds of PyTorch for Linux; it is imported only when the kernels
are used.
"""

from __future__ import annotations

from importlib.util import find_spec

from nsmae_plugin.errors import ConfigError

KERNELS = ("torch", "triton")


def triton_installed() -> bool:
    """Whether the package is there; a device that can run its kernels may still be missing."""
    return find_spec("triton") is not None


def check_kernels(kernels: str, key: str) -> str:
    """The value of the configuration key ``key``, if it can be used.

    Raises:
        ConfigError: neither 'torch' nor 'triton', or 'triton' where Triton is not installed.
    """
    if kernels not in KERNELS:
        raise ConfigError(f"{key} {kernels!r} is not one of {KERNELS}")
    if kernels == "triton" and not triton_installed():
        raise ConfigError(
            f"{key} is 'triton', but Triton is not installed: install a CUDA build of PyTorch, "
            f"which brings it, or set {key} to 'torch'"
        )
    return kernels

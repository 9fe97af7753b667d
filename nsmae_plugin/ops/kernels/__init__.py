"""Fused Triton kernels for the frustum path, for CUDA devices.

The PyTorch formulations in :mod:`nsmae_plugin.models` are the default and the reference; these
compute the same in one kernel for each direction. ``MODEL.VTRANSFORM.KERNELS: triton`` switches
them on. Triton comes with CUDA builds of PyTorch for Linux; it is imported only when the kernels
are used.
"""

from __future__ import annotations

from importlib.util import find_spec

from nsmae_plugin.errors import ConfigError


def triton_installed() -> bool:
    """True if Triton is installed; a device that runs its kernels may still be missing."""
    return find_spec("triton") is not None


def require_triton(kernels: str, key: str) -> None:
    """Check that the kernels that a key of the configuration asks for are installed.

    Raises:
        ConfigError: 'triton' where Triton is not installed.
    """
    if kernels == "triton" and not triton_installed():
        raise ConfigError(
            f"{key} is 'triton', but Triton is not installed: install a CUDA build of PyTorch, "
            f"which brings it, or set {key} to 'torch'"
        )

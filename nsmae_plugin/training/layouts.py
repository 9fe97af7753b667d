"""Conversion of weights from the names and layouts of other programs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from torch import Tensor, nn

logger = logging.getLogger(__name__)

WRAPPER = "module."  # that DataParallel and DistributedDataParallel put in front of every name

# Layout of a sparse convolution's weight -> the order of its axes in which it becomes
# (C_out, kz, ky, kx, C_in), the one of spconv since 2.2.
OLD_LAYOUTS = {
    "spconv 1 (kz, ky, kx, C_in, C_out)": (-1, *range(-5, -2), -2),
    "spconv 2.0 and 2.1 (kz, ky, kx, C_out, C_in)": (-2, *range(-5, -2), -1),
}


def without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefix ``module.``, when all its names have it."""
    if not all(name.startswith(WRAPPER) for name in state):
        return dict(state)
    return {name.removeprefix(WRAPPER): value for name, value in state.items()}


def current_spconv(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the weights of sparse 3D convolutions in the layout of spconv 2.2 and later.

    An old layout is recognised by the shapes of ``model``; it must explain all weights that do not
    fit as they are. Otherwise the state is returned unchanged, as one of another architecture.
    """
    shapes = {
        f"{name}.weight": module.weight.shape
        for name, module in model.named_modules()
        if _is_sparse_convolution(module) and module.weight.dim() == 5
    }
    weights = {name: state[name] for name in shapes if name in state and state[name].dim() == 5}
    if all(value.shape == shapes[name] for name, value in weights.items()):
        return dict(state)
    for layout, axes in OLD_LAYOUTS.items():
        moved = {name: value.permute(axes) for name, value in weights.items()}
        if all(value.shape == shapes[name] for name, value in moved.items()):
            logger.warning("%d sparse convolutions converted from %s", len(moved), layout)
            return {**state, **{name: value.contiguous() for name, value in moved.items()}}
    return dict(state)


def _is_sparse_convolution(module: nn.Module) -> bool:
    # Networks of cameras alone have none, and need no spconv.
    spconv = sys.modules.get("spconv.pytorch.conv")
    return spconv is not None and isinstance(module, spconv.SparseConvolution)

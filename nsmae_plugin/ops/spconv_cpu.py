"""What spconv 2.3 needs to train and infer on a CPU."""

from functools import wraps
from typing import Any

import torch

_APPLIED = "_nsmae_cpu"


def apply() -> None:
    """Repair spconv's CPU path; a no-op where CUDA is available. Idempotent.

    * The backward of a sparse convolution asks for the current CUDA stream even when every tensor
      is on the CPU, where the value is not used.
    * Inference with a bias asserts, because only the CUDA kernels fuse the addition; the bias is
      added afterwards instead.
    """
    from spconv.pytorch import conv, ops

    if torch.cuda.is_available() or hasattr(ops, _APPLIED):
        return
    setattr(ops, _APPLIED, True)
    ops.get_current_stream = lambda: 0
    conv.SparseConvolution._conv_forward = _with_bias_added_after(
        conv.SparseConvolution._conv_forward
    )


def _with_bias_added_after(forward: Any) -> Any:
    @wraps(forward)
    def conv_forward(
        module: Any, training: bool, x: Any, weight: Any, bias: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if training or bias is None:
            return forward(module, training, x, weight, bias, *args, **kwargs)
        out = forward(module, training, x, weight, None, *args, **kwargs)
        return out.replace_feature(out.features + bias)

    return conv_forward

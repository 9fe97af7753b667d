"""Repairs of spconv 2.3 for training and inference on the CPU."""

import warnings
from functools import wraps
from typing import Any

import torch

_APPLIED = "_nsmae_cpu"


def apply() -> None:
    """Repair spconv's CPU path; what runs on a GPU is left as it is. Idempotent.

    * The backward of a sparse convolution asks for the current CUDA stream even when every tensor
      is on the CPU, where the value is not used. Without a CUDA device the answer becomes 0.
    * Inference with a bias asserts, because only the CUDA kernels fuse the addition; on the CPU the
      bias is added afterwards.
    * A CUDA build of spconv picks the implicit-GEMM algorithm when a layer is built, which asserts
      on CPU tensors; they take the native algorithm, for which the weights have the same layout.
    * Adding rows to the output shares its two row pointers between all threads of the loop: with
      more than one thread, rows get lost or land elsewhere, at random. torch adds them instead.
    * ``SparseConvTensor.dense`` indexes with a list, on which torch comments at every step.
    """
    from spconv.pytorch import conv, ops

    if hasattr(ops, _APPLIED):
        return
    setattr(ops, _APPLIED, True)
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning, "spconv")
    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0
    ops.SpconvOps.scatter_add_cpu = staticmethod(_scatter_add)
    conv.SparseConvolution._conv_forward = _cpu_aware(conv.SparseConvolution._conv_forward)


def _scatter_add(out: Any, rows: Any, indices: Any) -> None:
    """``out[indices] += rows``, in place, for spconv's own tensors; as many rows as indices."""
    target, added, places = (torch.from_numpy(one.numpy_view()) for one in (out, rows, indices))
    # With int64 indices torch takes a third of the time that it takes with int32.
    target.index_add_(0, places.long(), added[: len(places)])


def _cpu_aware(forward: Any) -> Any:
    from spconv.core import ConvAlgo

    @wraps(forward)
    def conv_forward(
        module: Any, training: bool, x: Any, weight: Any, bias: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if x.features.is_cuda:
            return forward(module, training, x, weight, bias, *args, **kwargs)
        chosen, module.algo = module.algo, ConvAlgo.Native
        try:
            fused = bias if training else None
            out = forward(module, training, x, weight, fused, *args, **kwargs)
        finally:
            module.algo = chosen
        if training or bias is None:
            return out
        return out.replace_feature(out.features + bias)

    return conv_forward

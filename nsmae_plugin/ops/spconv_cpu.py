"""spconv 2.3 on the CPU: training and inference, with faster convolutions."""

import warnings
from functools import wraps
from typing import Any

from nsmae_plugin.ops.sparse_conv_cpu import read_pairs, sparse_conv

_APPLIED = "_nsmae_cpu"

#: spconv's functions, and whether they convolve inversely and on a submanifold.
CONVOLUTIONS = {
    "indice_conv": (False, False),
    "indice_inverse_conv": (True, False),
    "indice_subm_conv": (False, True),
}


def apply() -> None:
    """Let spconv's convolutions run on CPU tensors; on a GPU they are left as they are. Idempotent.

    * :mod:`nsmae_plugin.ops.sparse_conv_cpu` convolves, with weights and rulebooks of spconv. Its
      own path is slower; it asks for a CUDA stream in the backward pass, cannot add a bias in
      inference, and loses rows with more than one thread.
    * A CUDA build of spconv picks the implicit-GEMM algorithm when a layer is built, which asserts
      on CPU tensors; they take the native algorithm, for which the weights have the same layout.
    * ``SparseConvTensor.dense`` indexes with a list, on which torch comments at every step.
    """
    from spconv.pytorch import conv, functional

    if hasattr(functional, _APPLIED):
        return
    setattr(functional, _APPLIED, True)
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning, "spconv")
    for name, (inverse, submanifold) in CONVOLUTIONS.items():
        original = getattr(functional, name)
        setattr(functional, name, _convolve_on_cpu(original, inverse, submanifold))
    conv.SparseConvolution._conv_forward = _native_on_cpu(conv.SparseConvolution._conv_forward)


def _convolve_on_cpu(original: Any, inverse: bool, submanifold: bool) -> Any:
    from cumm.tensorview.gemm import Activation

    @wraps(original)
    def convolve(features: Any, weight: Any, rows: Any, counts: Any, size: int, *rest: Any) -> Any:
        _algo, _timer, bias, *_, activation = rest
        fused = activation != Activation.None_  # spconv refuses it on the CPU
        if features.is_cuda or fused or not features.is_floating_point():
            return original(features, weight, rows, counts, size, *rest)
        pairs = read_pairs(rows, counts, inverse, submanifold)
        return sparse_conv(features, weight, bias, pairs, size)

    return convolve


def _native_on_cpu(forward: Any) -> Any:
    from spconv.core import ConvAlgo

    @wraps(forward)
    def conv_forward(module: Any, training: bool, x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.features.is_cuda:
            return forward(module, training, x, *args, **kwargs)
        chosen, module.algo = module.algo, ConvAlgo.Native
        try:
            return forward(module, training, x, *args, **kwargs)
        finally:
            module.algo = chosen

    return conv_forward

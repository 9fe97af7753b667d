"""spconv 2.3 on the CPU: training and inference, with faster convolutions."""

import warnings
from functools import wraps
from typing import Any

from nsmae_plugin.ops import rulebook_cpu
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
    from spconv.pytorch import conv, functional, ops

    if hasattr(functional, _APPLIED):
        return
    setattr(functional, _APPLIED, True)
    warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning, "spconv")
    for name, (inverse, submanifold) in CONVOLUTIONS.items():
        original = getattr(functional, name)
        setattr(functional, name, _convolve_on_cpu(original, inverse, submanifold))
    ops.get_indice_pairs = _find_pairs_on_cpu(ops.get_indice_pairs)
    conv.SparseConvolution._conv_forward = _native_on_cpu(conv.SparseConvolution._conv_forward)


def _find_pairs_on_cpu(original: Any) -> Any:
    from spconv.pytorch import ops

    @wraps(original)
    def find(
        cells: Any,
        batch_size: int,
        shape: Any,
        algo: Any,
        size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        out_padding: Any,
        subm: bool = False,
        transposed: bool = False,
        bound: int = -1,
    ) -> Any:
        kernel = rulebook_cpu.Kernel(size, stride, padding, dilation)
        if not (cells.is_cuda or transposed or len(cells) == 0):
            if subm:
                return rulebook_cpu.submanifold(cells, shape, kernel)
            out_shape = ops.get_conv_output_size(shape, *kernel)
            if min(out_shape) > 0:
                return rulebook_cpu.strided(cells, shape, out_shape, kernel)
        return original(
            cells, batch_size, shape, algo, *kernel, out_padding, subm, transposed, bound
        )

    return find


def _convolve_on_cpu(original: Any, inverse: bool, submanifold: bool) -> Any:
    from cumm.tensorview.gemm import Activation

    @wraps(original)
    def convolve(features: Any, weight: Any, rows: Any, counts: Any, size: int, *rest: Any) -> Any:
        _algo, _timer, bias, *_, activation = rest
        fused = activation != Activation.None_  # spconv refuses it on the CPU
        if features.is_cuda or fused or not features.is_floating_point():
            return original(features, weight, rows, counts, size, *rest)
        channels = max(weight.shape[0], weight.shape[-1])
        pairs = read_pairs(rows, counts, channels, inverse, submanifold)
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

"""The sparse backbone and a training step on one thread of a CPU, against spconv's own path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from spconv.pytorch import functional, ops
from spconv.pytorch.conv import SparseConvolution
from torch import Tensor, nn

from nsmae_plugin import host
from nsmae_plugin.ops import spconv_cpu
from nsmae_plugin.ops.sparse_conv_cpu import bfloat16_products, multiplies_bfloat16
from tools.benchmarks.inputs import made_up_batch
from tools.benchmarks.measure import MeasurementError, measure_calls
from tools.benchmarks.step import build_model, make_step

WARM_UP = 3  # repeats that are not timed
DROPPED = 0.1  # of the voxels, at most: as no batch has as many as another
MATRIX = 1024  # rows and columns of the product whose rate is the machine's

spconv_cpu.apply()


def measure(config: Any, batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Processor time of passes through the backbone and of training steps, in turn.

    Returns:
        ``voxels``; ``gflop`` of forward and backward pass; ``rate``, GFLOP/s of a large product of
        float32; by variant ``forward``, ``backward`` and ``step``, seconds of every repeat, ``mib``
        at the peak of the two passes above what was held before, and ``difference``, the larger
        of output and gradients to spconv's, relative to their norm.

    Raises:
        MeasurementError: the network has no sparse backbone.
    """
    torch.set_num_threads(1)
    data = host.to_device(made_up_batch(config, batch), device)
    model = build_model(config)
    backbone, inputs = _backbone(model, data)
    whole = dict(data)
    step = make_step(model, config, data, device)
    variants = _variants()
    found = {}
    for name, context in variants.items():
        with context():
            found[name] = _gradients(backbone, inputs)
    results: dict[str, dict[str, Any]] = {}
    for name, context in variants.items():
        differences = map(_difference, found[name], found["spconv"])
        results[name] = {"forward": [], "backward": [], "step": [], "difference": max(differences)}
        with context():
            measured = measure_calls(lambda: _passes(backbone, inputs), device, 0)
        results[name]["mib"] = measured["mib"]
    rates = []
    for number in range(WARM_UP + repeats):
        some = _some_voxels(inputs, number)
        data.update(_some_voxels(whole, number))
        rates.append(_rate())
        for name, context in variants.items():
            with context():
                forward, backward = _passes(backbone, some)
                results[name]["forward"].append(forward)
                results[name]["backward"].append(backward)
                results[name]["step"].append(_seconds(step))
    for one in results.values():
        for key in ("forward", "backward", "step"):
            del one[key][:WARM_UP]
    return {
        "voxels": len(inputs["voxel_coords"]),
        "gflop": _flop(backbone, inputs) / 1e9,
        "rate": rates,
        "variants": results,
    }


def _variants() -> dict[str, Callable[[], Any]]:
    """Contexts by name; the first is the reference."""
    variants: dict[str, Callable[[], Any]] = {"spconv": spconv_alone, "ours": nullcontext}
    if multiplies_bfloat16():
        variants["bfloat16"] = lambda: bfloat16_products(True)
    return variants


def _backbone(model: Any, data: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The sparse backbone of a detector, and what it reads of a batch."""
    backbone = getattr(model, "backbone_3d", None)
    if backbone is None:
        raise MeasurementError("the network has no sparse backbone: name another --cfg_file")
    seen: dict[str, Any] = {}
    keys = ("voxel_features", "voxel_coords", "batch_size")
    handle = backbone.register_forward_pre_hook(
        lambda _, args: seen.update({key: args[0][key] for key in keys})
    )
    with torch.no_grad():
        model(dict(data))
    handle.remove()
    return backbone, seen


def _some_voxels(batch: dict[str, Any], number: int) -> dict[str, Any]:
    """What a batch has of voxels, without some of them; another choice for every number."""
    generator = torch.Generator().manual_seed(number)
    kept = torch.rand(len(batch["voxel_coords"]), generator=generator)
    kept = kept > DROPPED * torch.rand(1, generator=generator)
    return {
        key: value[kept] if len(value) == len(kept) else value
        for key, value in batch.items()
        if key.startswith("voxel")
    } | {"batch_size": batch["batch_size"]}


def _passes(backbone: nn.Module, inputs: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a forward and a backward pass."""
    backbone.zero_grad(set_to_none=True)
    out: list[Tensor] = []
    forward = _seconds(lambda: out.append(_features(backbone, inputs)))
    slopes = torch.full_like(out[0], 1e-3)
    return forward, _seconds(lambda: out.pop().backward(slopes))


def _features(backbone: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return backbone(dict(inputs))["encoded_spconv_tensor"].features


def _seconds(call: Callable[[], Any]) -> float:
    """Processor time, to which what other programs do counts less."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _rate() -> float:
    """GFLOP/s of a large product of float32, as torch makes it."""
    left, right = torch.randn(2, MATRIX, MATRIX).unbind()
    return 2e-9 * MATRIX**3 / _seconds(lambda: left @ right)


def _gradients(backbone: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """The dense output, and all gradients of a sum with fixed weights in one row."""
    backbone.zero_grad(set_to_none=True)
    out = backbone(dict(inputs))["encoded_spconv_tensor"].dense()
    generator = torch.Generator().manual_seed(0)
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    return [out.detach(), torch.cat([one.grad.flatten() for one in backbone.parameters()])]


def _difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def _flop(backbone: nn.Module, inputs: dict[str, Any]) -> int:
    """Additions and multiplications of all convolutions, forward and backward."""
    total = 0

    def count(conv: SparseConvolution, args: tuple[Any, ...], out: Any) -> None:
        nonlocal total
        pairs = out.indice_dict[conv.indice_key].indice_pair_num.tolist()
        number = sum(pairs)
        if conv.subm:
            number = 2 * sum(pairs[: len(pairs) // 2]) + len(out.features)
        passes = 2 + args[0].features.requires_grad  # by the weights always
        total += passes * 2 * number * conv.in_channels * conv.out_channels

    convs = [one for one in backbone.modules() if isinstance(one, SparseConvolution)]
    handles = [conv.register_forward_hook(count) for conv in convs]
    _features(backbone, inputs)
    for handle in handles:
        handle.remove()
    return total


@contextmanager
def spconv_alone() -> Iterator[None]:
    """Convolve by spconv's own functions, repaired for training with several threads.

    Its loop that adds rows to the output shares two row pointers between all threads, so that rows
    get lost; torch adds them instead.
    """
    ours = {name: getattr(functional, name) for name in spconv_cpu.CONVOLUTIONS}
    add, stream = ops.SpconvOps.scatter_add_cpu, ops.get_current_stream
    find = ops.get_indice_pairs
    ops.get_indice_pairs = find.__wrapped__
    for name, function in ours.items():
        setattr(functional, name, function.__wrapped__)
    ops.SpconvOps.scatter_add_cpu = staticmethod(_scatter_add)
    ops.get_current_stream = lambda: 0  # asked for on a CPU as well, and not used
    try:
        yield
    finally:
        for name, function in ours.items():
            setattr(functional, name, function)
        ops.get_indice_pairs = find
        ops.SpconvOps.scatter_add_cpu, ops.get_current_stream = staticmethod(add), stream


def _scatter_add(out: Any, rows: Any, indices: Any) -> None:
    """``out[indices] += rows``, in place, for spconv's own tensors; as many rows as indices."""
    target, added, places = (torch.from_numpy(one.numpy_view()) for one in (out, rows, indices))
    # With int64 indices torch takes a third of the time that it takes with int32.
    target.index_add_(0, places.long(), added[: len(places)])

"""Compile every launch of the kernels for GPUs that need not be there; prints JSON.

A process of its own, because kernels that were defined for Triton's interpreter cannot be compiled.
The launches are those of forward and backward passes on the CPU, caught where they would start.
"""

import json
import os
import re
import subprocess
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # read where the kernels are defined

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nsmae_plugin.ops.bev_pool import bev_pool
from nsmae_plugin.ops.frustum_render import render_frustum
from nsmae_plugin.ops.kernels import pooling, rendering
from nsmae_plugin.ops.pooling_plan import build_plan

CAPABILITIES = (80, 90)  # A100, H100
TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32"}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compile_launch(kernel, grid, arguments, warps, **constants):
    """In the place of ``launch``: nothing runs, and the machine code for each GPU is measured."""
    named = dict(zip(kernel.arg_names, arguments, strict=False))
    # As a launch does: 1 is built in, so that neighbours in memory are known to be neighbours ...
    ones = {name: 1 for name, value in named.items() if not torch.is_tensor(value) and value == 1}
    types = {n: TYPES[v.dtype] if torch.is_tensor(v) else "i32" for n, v in named.items()}
    signature = {**types, **dict.fromkeys([*ones, *constants], "constexpr")}
    # ... and what is divisible by 16 is known to be so.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, value in enumerate(arguments)
        if torch.is_tensor(value) or value % 16 == 0
    }
    source = ASTSource(kernel, signature, {**ones, **constants}, aligned)
    for capability in CAPABILITIES:
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target, options={"num_warps": warps})
        row = {
            "kernel": kernel.__name__,
            "capability": capability,
            "type": TYPES[arguments[0].dtype],
        }
        print(json.dumps({**row, **resources(compiled.asm["cubin"])}))


def resources(cubin):
    """Registers, and bytes of memory per thread for what does not fit into them."""
    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(cubin)
    command = [CUOBJDUMP, "-res-usage", path]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        "registers": int(re.search(r"REG:(\d+)", listing)[1]),
        "spilled": int(re.search(r"STACK:(\d+)", listing)[1]),
    }


def pool(dtype, channels):
    depth = torch.rand(4, 3, dtype=dtype, requires_grad=True)
    context = torch.rand(4, channels, dtype=dtype, requires_grad=True)
    plan = build_plan(torch.arange(12, dtype=torch.int32).view(4, 3) % 5, 5)
    bev_pool(depth, context, plan, "triton").sum().backward()


def render(dtype, bins):
    logits = torch.randn(1, bins, 32, 88, dtype=dtype, requires_grad=True)
    raw = torch.randn(1, 4, 32, 88, dtype=dtype, requires_grad=True)
    edges = torch.arange(bins + 1, dtype=dtype)
    rendered = render_frustum(logits, raw, edges[:-1] + 0.5, edges, 0.0, "triton")
    sum(part.sum() for part in rendered).backward()


if __name__ == "__main__":
    pooling.launch = rendering.launch = compile_launch
    for dtype, channels, bins in ((torch.float32, 80, 118), (torch.float64, 16, 16)):
        pool(dtype, channels)
        render(dtype, bins)

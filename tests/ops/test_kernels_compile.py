"""Every kernel compiles to machine code for GPUs, whether or not one is there."""

import json
from pathlib import Path

import pytest

from tests.helpers.programs import run_python

KERNELS = ("_pool", "_pool_backward", "_render", "_render_backward")


def test_kernels_compile_for_gpus_and_keep_to_their_registers(tmp_path):
    """float32 at the sizes of the configurations; float64, for checks, need not be fast."""
    pytest.importorskip("triton", minversion="3.7", reason="older compilers are called otherwise")
    nvidia = pytest.importorskip("triton.backends.nvidia", reason="Triton for NVIDIA is not there")
    tools = Path(nvidia.__file__).parent / "bin"
    if not all((tools / name).exists() for name in ("ptxas", "cuobjdump")):
        pytest.skip("this build of Triton brings no ptxas and cuobjdump")
    done = run_python("-m", "tests.helpers.compile_kernels", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = {
        (kernel, capability, type_)
        for kernel in KERNELS
        for capability in (80, 90)
        for type_ in ("*fp32", "*fp64")
    }
    assert {(row["kernel"], row["capability"], row["type"]) for row in rows} == expected
    spilled = [row for row in rows if row["type"] == "*fp32" and row["spilled"]]
    assert not spilled

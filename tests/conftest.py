"""Fixtures shared by the whole suite."""

import nsmae_plugin  # noqa: F401  (sets the OpenMP policy before torch loads)

# isort: split
import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from nsmae_plugin.formats.infos import read_infos, write_infos
from tests.helpers.stock_scripts import copy_openpcdet
from tools import create_infos, make_synthetic_nuscenes

# In the reasons of tests that are skipped for want of a host.
ANOTHER_HOST = re.compile("OPENPCDET_ROOT is not set|needs NSMAE_HOST=[a-z]+")

# Without a GPU Triton's kernels run in its interpreter. It must be chosen before they are defined,
# Triton's own among them, and other packages may import those at any time: so here, for all tests.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    """CPU always; CUDA as well where it is available."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def kernel_device(device, monkeypatch) -> torch.device:
    """Where Triton's kernels run: CUDA, or without it the CPU, in the interpreter."""
    pytest.importorskip("triton")
    if device.type == "cuda":
        return device
    if torch.cuda.is_available():
        pytest.skip("with a CUDA device the kernels are compiled, and not for the CPU")
    pytest.importorskip("triton", minversion="3.7", reason="older interpreters do less")
    from nsmae_plugin.ops.kernels import pooling, rendering
    from tests.helpers.checked_kernels import check_accesses

    check_accesses(monkeypatch, (pooling, rendering))
    return device


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Path:
    """The working directory of a process that no launcher started."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    """Data root of a tiny synthetic ``v1.0-mini`` with info files: 2 train scenes, 1 val scene."""
    root = tmp_path_factory.mktemp("nuscenes")
    options = ["--scenes", "3", "--keyframes", "3", "--image_size", "96", "160", "--seed", "0"]
    infos = ["--version", "v1.0-mini", "--max_sweeps", "3", "--with_cam"]
    assert make_synthetic_nuscenes.main(["--out", str(root), *options, "--quiet"]) == 0
    assert create_infos.main(["--data_path", str(root), *infos]) == 0
    return root


@pytest.fixture(scope="session")
def data(synthetic_root) -> Path:
    """The same root with a training split of three frames, ``three_frames.pkl``, beside the other.

    Three steps are the fewest that OpenPCDet's one-cycle schedule takes.
    """
    folder = synthetic_root / "v1.0-mini"
    infos = read_infos(folder / "nuscenes_infos_3sweeps_train.pkl")
    write_infos(folder / "three_frames.pkl", infos[:3])
    return synthetic_root


@pytest.fixture(scope="session")
def real_root() -> Path:
    """Data root of a real nuScenes keyframe, or skip."""
    root = os.environ.get("NSMAE_REAL_NUSCENES")
    if not root:
        pytest.skip("NSMAE_REAL_NUSCENES is not set")
    return Path(root)


@pytest.fixture(scope="session")
def openpcdet_root() -> Path:
    """Root of an OpenPCDet source checkout, or skip."""
    root = os.environ.get("OPENPCDET_ROOT")
    if not root:
        pytest.skip("OPENPCDET_ROOT is not set")
    return Path(root)


@pytest.fixture(scope="session")
def openpcdet_host(openpcdet_root) -> Path:
    """Root of the OpenPCDet that the tests run on, or skip."""
    from nsmae_plugin import host

    if host.NAME != "openpcdet":
        pytest.skip("needs NSMAE_HOST=openpcdet")
    return openpcdet_root


@pytest.fixture(scope="session")
def openpcdet_copy(openpcdet_root, tmp_path_factory) -> Path:
    """Root of a copy of OpenPCDet, without any build, that its scripts may write into."""
    return copy_openpcdet(openpcdet_root, tmp_path_factory.mktemp("OpenPCDet").resolve())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter) -> None:
    """Say which host the tests ran on, and which of the other's were skipped."""
    from nsmae_plugin import host

    reports = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    counts = Counter(found[0] for found in map(ANOTHER_HOST.search, reasons) if found is not None)
    terminalreporter.write_line(f"host: {host.NAME}")
    for reason, count in sorted(counts.items()):
        terminalreporter.write_line(f"skipped: {count} tests of another host ({reason})")

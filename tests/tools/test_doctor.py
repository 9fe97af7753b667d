"""What the doctor finds, shows and returns."""

import json
import os
from types import SimpleNamespace

import pytest

import nsmae_plugin
from nsmae_plugin import doctor
from tests.helpers.programs import run_python


def run(*arguments, prelude="", **environment):
    """Run the doctor in a fresh interpreter, after ``prelude``."""
    code = f"{prelude}\nimport sys\nfrom nsmae_plugin import doctor\nsys.exit(doctor.main())"
    hosts = ("NSMAE_HOST", "OPENPCDET_ROOT")
    return run_python("-W", "ignore", "-c", code, *arguments, without=hosts, **environment)


def test_a_healthy_builtin_host_is_ready():
    outcome = run("--json", NSMAE_HOST="builtin")
    assert outcome.returncode == 0, outcome.stdout
    found = json.loads(outcome.stdout)
    assert found["active"] == "builtin"
    assert found["problems"] == []
    assert found["versions"]["nsmae_plugin"] == nsmae_plugin.__version__
    assert found["versions"]["torch"]
    assert found["devices"]["cpu"].startswith(f"{os.cpu_count()} cores")
    assert set(found["checks"].values()) == {"ok"}
    assert found["extensions"] == {}
    assert any("OPENPCDET_ROOT" in advice for advice in found["advice"])


@pytest.mark.openpcdet
def test_an_uncompiled_openpcdet_is_described(openpcdet_root):
    outcome = run(OPENPCDET_ROOT=str(openpcdet_root))
    assert outcome.returncode == 0, outcome.stdout
    lines = [line.split(maxsplit=1) for line in outcome.stdout.splitlines() if line]
    table = {line[0]: line[1] for line in lines if len(line) == 2}
    assert table["active"] == "openpcdet"
    assert table["pcdet"].endswith("pcdet")
    assert table["iou3d_nms_cuda"] in ("compiled", "torch-native")
    assert table["pointnet2_stack_cuda"] in ("compiled", "refuses to run")
    assert outcome.stdout.rstrip().endswith("The openpcdet host is ready.")


def test_a_host_that_cannot_be_imported_is_a_failure(tmp_path):
    outcome = run(OPENPCDET_ROOT=str(tmp_path))
    assert outcome.returncode == 1
    assert "holds no pcdet/__init__.py" in outcome.stdout
    assert outcome.stdout.rstrip().endswith("The active host cannot run.")


@pytest.mark.parametrize("module", ["torch", "spconv"])
def test_a_missing_requirement_is_a_failure_with_the_command(module):
    prelude = f"import sys; sys.modules[{module!r}] = None"
    outcome = run(prelude=prelude, NSMAE_HOST="builtin")
    assert outcome.returncode == 1, outcome.stderr
    assert f"{module} is not installed: pip install {doctor.REQUIRED[module]}" in outcome.stdout


def test_a_broken_requirement_is_told_from_a_missing_one(monkeypatch):
    def fail(module):
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    found = doctor.Diagnosis()
    assert not doctor._importable("spconv", found)
    assert "spconv is installed but broken (OSError: libcudart.so.12" in found.problems[0]


def test_a_failing_kernel_is_a_problem(monkeypatch):
    def fail(device):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(doctor, "_sparse_convolution", fail)
    found = doctor.Diagnosis(devices={"cpu": "2 cores"})
    doctor._try_sparse_convolution(found)
    assert "no kernel image" in next(iter(found.checks.values()))
    assert "spconv fails on cpu" in found.problems[0]


def test_busy_waiting_threads_are_advised_against():
    found = doctor.Diagnosis(devices={"cpu": "2 cores"}, omp_wait_policy="ACTIVE")
    doctor._advise(found)
    assert any("OMP_WAIT_POLICY=PASSIVE" in advice for advice in found.advice)


def install(monkeypatch, *names):
    """Let the doctor find these distributions, and no others."""
    wheels = [SimpleNamespace(metadata={"Name": name}, version="2.3.8") for name in names]
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: wheels)


def test_two_builds_of_spconv_are_a_problem(monkeypatch):
    found = doctor.Diagnosis()
    install(monkeypatch, "spconv_cu126", "cumm", "cumm-cu126", "spconv-like")
    doctor._look_for_two_builds(found)
    assert found.problems == []
    install(monkeypatch, "spconv_cu126", "spconv")
    doctor._look_for_two_builds(found)
    assert found.problems == [
        "spconv and spconv-cu126 overwrite each other's files: "
        "pip uninstall spconv spconv-cu126, then install the one for this machine"
    ]


def test_the_spconv_wheel_for_cuda_is_recognised(monkeypatch):
    install(monkeypatch, "spconv-cu120", "SharedArray", "nuscenes_devkit")
    versions = doctor._versions()
    assert versions["spconv"] == "2.3.8 cu120"
    assert versions["nuscenes-devkit"] == "2.3.8"
    assert versions["torchvision"] is None
    assert "SharedArray" not in versions


def test_empty_sections_are_not_shown():
    text = doctor.render(doctor.Diagnosis(active="builtin"))
    assert "extensions" not in text
    assert "Problems" not in text
    assert text.endswith("The builtin host is ready.")

"""Label-efficiency experiments with stubs in place of ``nsmae train`` and ``nsmae test``."""

import json
from pathlib import Path

import torch
import yaml
from matplotlib.figure import Figure

from nsmae_plugin.experiments.label_efficiency import summary, trials
from tests.helpers import stub_tools, toys
from tests.helpers.paths import REPOSITORY
from tools import label_efficiency

SMALL = ("--fractions", "0.1", "--seeds", "0")
SEEDS = ("--fractions", "0.1", "--seeds", "0", "1")
WHOLE = ("--fractions", "0.1", "1.0", "--seeds", "0", "1")


def make_workspace(folder, monkeypatch):
    """A working directory with a configuration, weights, and stubs in place of the tools."""
    monkeypatch.chdir(folder)
    for name in ("OMP_NUM_THREADS", "STUB_FAIL", "STUB_INTERRUPT", "STUB_HANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(trials, "NSMAE", stub_tools.NSMAE)
    monkeypatch.setattr(summary, "draw", lambda comparisons: Figure())  # takes long
    write_config()
    torch.save({"epoch": 9, "it": 9, "model_state": {}}, "weights.pth")
    return folder


def write_config(model=(), **optimization):
    """The configuration of the toys, with info files and further sections of ``model``."""
    data = {"VERSION": "v1", "INFO_PATH": {"train": ["infos.pkl"]}, "USE_LABELS": True}
    path = toys.write_config(".", **optimization)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["DATA_CONFIG"].update(data)
    config["MODEL"].update({key: {"NAME": "Toy"} for key in model})
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("v1").mkdir(exist_ok=True)
    Path("v1/infos.pkl").write_text("infos")


def words(*more, grid=SMALL):
    start = ("--pretrained_model", "weights.pth") if "--only" not in more else ()
    return ["--cfg_file", "cfgs/group/toy.yaml", *grid, *start, *more]


def experiment(*more, **options):
    return label_efficiency.main(words(*more, **options))


def folder(workspace, name=""):
    return workspace / "output/group/toy/label_efficiency" / name


def calls(workspace):
    path = workspace / "calls.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def results(workspace):
    return json.loads((folder(workspace) / "results.json").read_text(encoding="utf-8"))

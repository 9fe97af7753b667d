"""A reader gets from the script to the loss in five calls; docs/DATA_FLOW.md lists them."""

import re
import sys
from pathlib import Path

import pytest

from nsmae_plugin.cli import train
from nsmae_plugin.detectors.nsmae import NSMAE
from tests.helpers.paths import REPOSITORY, TINY
from tests.runs.test_visualize import SMALL


class Reached(Exception):
    """NSMAE.compare was called."""


def own_calls():
    """Names of the project's functions on the stack, from the function after ``main`` inwards."""
    frame, names = sys._getframe(2), []
    while frame.f_code is not train.main.__code__:
        if Path(frame.f_code.co_filename).is_relative_to(REPOSITORY / "nsmae_plugin"):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[::-1]


def test_five_calls_lead_from_the_script_to_the_loss(synthetic_root, tmp_path, monkeypatch):
    def compare(*_arguments):
        calls.extend([*own_calls(), "compare"])
        raise Reached

    calls = []
    monkeypatch.setattr(NSMAE, "compare", compare)
    monkeypatch.chdir(tmp_path)
    words = ["--cfg_file", str(TINY / "nsmae_pretrain_lidar.yaml"), "--workers", "0"]
    words += ["--batch_size", "1", "--eval_interval", "0"]
    overrides = ["--set", "DATA_CONFIG.DATA_PATH", str(synthetic_root), *SMALL]
    with pytest.raises(Reached):
        train.main([*words, *overrides])

    assert calls == ["train", "train", "update_weights", "forward", "compare"]
    page = (REPOSITORY / "docs/DATA_FLOW.md").read_text()
    rows = re.findall(r"^\| `[\w./]+` \| `(?:\w+\.)?(\w+)\(", page, re.MULTILINE)
    assert rows == calls

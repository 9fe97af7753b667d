"""What a run writes can be read back, and a resumed run does not write it twice."""

import json
import logging
from pathlib import Path

import pytest
from easydict import EasyDict

from nsmae_plugin.config import load as configuration
from nsmae_plugin.training import run_log
from nsmae_plugin.training.run_log import Curves
from tests.helpers.paths import TINY


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("cfgs/tiny/lidar.yaml", "out/tiny/lidar/a"),
        ("cfgs/nsmae.yaml", "out/nsmae/a"),
        ("/x/cfgs/old/cfgs/deep/er/nsmae.yaml", "out/deep/er/nsmae/a"),
        ("elsewhere/nsmae.yaml", "out/nsmae/a"),
    ],
)
def test_the_output_folder_follows_the_place_below_cfgs(file, folder):
    assert run_log.run_folder(Path("out"), Path(file), "a") == Path(folder)


def test_the_first_process_writes_the_log_and_the_others_add_errors(tmp_path, capsys):
    file = tmp_path / "run.log"
    run_log.create_logger(file, rank=0).info("first")
    logger = run_log.create_logger(file, rank=1)
    logger.info("quiet")
    logger.warning("loud")
    assert file.read_text(encoding="utf-8").endswith("INFO  first\n")
    printed = capsys.readouterr().out
    assert "loud" in printed
    assert "quiet" not in printed
    assert len(logger.handlers) == 2
    logger.error("broken")
    assert file.read_text(encoding="utf-8").endswith("INFO  first\n") is False
    assert "loud" not in file.read_text(encoding="utf-8")
    assert isinstance(logger, logging.Logger)


def test_the_written_configuration_is_the_merged_one(tmp_path):
    path = TINY / "nsmae_pretrain.yaml"
    merged = configuration.load_config(path, ["OPTIMIZATION.LR", "0.5"])
    run_log.write_config(merged, tmp_path / "config.yaml")
    assert configuration.load_config(tmp_path / "config.yaml") == merged
    assert "_BASE_CONFIG_" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_tuples_and_nested_sections_are_written_as_plain_yaml(tmp_path):
    run_log.write_config(EasyDict(A={"B": (1, [2.5, {"C": None}])}), tmp_path / "a.yaml")
    assert "python" not in (tmp_path / "a.yaml").read_text(encoding="utf-8")


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_resumed_run_replaces_what_was_written_after_its_checkpoint(tmp_path):
    curves = Curves(tmp_path)
    for step in (1, 2, 3, 4):
        curves.record("train", 0, step, {"loss": 1.0})
    curves.close()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 0, "st')  # killed while writing
    curves = Curves(tmp_path, step=2)
    assert steps(tmp_path) == [1, 2]
    curves.record("test", 1, 3, {"loss": 2.0})
    curves.close()
    assert steps(tmp_path) == [1, 2, 3]
    last = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last) == {"epoch": 1, "step": 3, "split": "test", "loss": 2.0}


def test_a_damaged_file_of_records_is_put_aside_and_does_not_block(tmp_path, caplog):
    good = '{"epoch": 1, "step": 5, "split": "test", "error": 1.0}\n'
    lines = [good.encode(), b"\xff\xfe\x00\n", b"[1]\n", b"{}\n", good.encode(), b'{"st']
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    curves = Curves(tmp_path, step=5)
    curves.close()
    assert curves.evaluated
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == 2 * good
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == b"".join(lines)
    (message,) = [one.getMessage() for one in caplog.records]
    assert message.startswith("3 lines of ")
    assert Curves(tmp_path, step=4).evaluated is None


def test_other_processes_write_no_curves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    curves = Curves(None)
    curves.scalars("train", {"loss": 1.0}, 1)
    curves.record("train", 0, 1, {"loss": 1.0})
    curves.close()
    assert list(tmp_path.iterdir()) == []


def test_scalars_reach_tensorboard(tmp_path):
    curves = Curves(tmp_path)
    curves.scalars("train", {"loss": 1.0}, 1)
    curves.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()

"""Curves of a run: what is read, what is drawn, what is refused."""

import json
from pathlib import Path

import pytest

from nsmae_plugin.errors import DataError
from nsmae_plugin.visualization.curves import draw_curves, metric_names, read_metrics, unit
from tools import plot_curves


def run_records(epochs: int = 5) -> list[dict]:
    records = []
    for step in range(epochs * 4):
        loss = 0.08 / (1 + step)
        records.append({"epoch": step // 4, "step": step, "split": "train", "loss_rgb": loss})
        if step % 4 == 3:
            held_out = {"loss_rgb": loss + 0.01, "rgb_psnr_masked": 10.0 + step, "samples": 6}
            baselines = {"baseline_mean_rgb_mse": 0.05, "baseline_mean_rgb_psnr_masked": 13.0}
            records.append(
                {"epoch": step // 4, "step": step, "split": "test", **held_out, **baselines}
            )
    return records


def write(path: Path, records: list[dict], ending: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + ending)
    return path


def test_records_are_read_in_order(tmp_path):
    records = run_records()
    assert read_metrics(write(tmp_path / "metrics.jsonl", records)) == records


def test_a_line_still_being_written_is_left_out(tmp_path):
    path = write(tmp_path / "metrics.jsonl", run_records(), ending='\n{"epoch": 5, "st')
    assert read_metrics(path) == run_records()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no metrics"),
        ("{oops}\n", r"jsonl:1 is not JSON"),
        ("[" * 9999 + "\n", r"jsonl:1 is not JSON"),
        ('{"loss": 1}\n', "'step'"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*absent\.jsonl"):
        read_metrics(tmp_path / "absent.jsonl")


def test_baselines_and_counts_are_no_panels_of_their_own():
    assert metric_names(run_records()) == ["loss_rgb", "rgb_psnr_masked"]


def test_panel_holds_training_held_out_and_the_mean_predictor():
    panel, psnr = draw_curves(run_records()).axes
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert set(lines) == {"training", "held out", "predicting the mean"}
    assert list(lines["training"].get_xdata()) == list(range(20))
    assert list(lines["held out"].get_xdata()) == [3, 7, 11, 15, 19]
    assert list(lines["predicting the mean"].get_ydata()) == [0.05, 0.05]
    assert psnr.get_ylabel() == "dB"


def test_metrics_can_be_chosen_and_unknown_ones_are_refused():
    figure = draw_curves(run_records(), ["rgb_psnr_masked"])
    assert [axes.get_title() for axes in figure.axes] == ["rgb_psnr_masked"]
    with pytest.raises(DataError, match="loss_rgb"):
        draw_curves(run_records(), ["loss_rbg"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss_bev_depth", "m"),
        ("depth_mae_hidden", "m"),
        ("loss_rgb", "squared error"),
        ("weighted_depth", "weighted loss"),
        ("opacity", ""),
    ],
)
def test_units(name, expected):
    assert unit(name) == expected


def test_tool_writes_beside_the_metrics(tmp_path, capsys):
    path = write(tmp_path / "metrics.jsonl", run_records())
    assert plot_curves.main([str(path)]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert plot_curves.main([str(tmp_path / "absent.jsonl")]) == 1
    assert "absent.jsonl" in capsys.readouterr().err

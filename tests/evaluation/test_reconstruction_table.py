"""The table of reconstruction metrics, and the data that it is measured on."""

from types import SimpleNamespace

import pytest
from easydict import EasyDict

from nsmae_plugin.errors import DataError
from nsmae_plugin.evaluation.reconstruction import format_table
from nsmae_plugin.models.bev_head import BEVRenderHead
from nsmae_plugin.models.perspective_head import PerspectiveRenderHead
from nsmae_plugin.runs.loaded_model import LoadedModel, data_of_split


def test_table_has_a_row_per_measured_metric_and_a_column_per_predictor():
    trained = {
        "rgb_psnr_masked": 18.25,
        "depth_mae_hidden": 2.5,
        "opacity": 0.95,
        "bev_depth_mae": 1.5,
        "baseline_mean_rgb_psnr_masked": 13.0,
        "baseline_mean_depth_mae_hidden": 9.0,
        "baseline_median_depth_mae_hidden": 8.0,
        "baseline_mean_depth": 20.0,
        "baseline_mean_bev_depth_mae": 3.0,
    }
    untrained = {"rgb_psnr_masked": 12.0, "depth_mae_hidden": 30.0, "opacity": 0.9}
    heads = [PerspectiveRenderHead, BEVRenderHead]
    lines = format_table({"trained": trained, "untrained": untrained}, heads).splitlines()
    cells = [[part.strip() for part in line.split("  ") if part.strip()] for line in lines]
    assert cells == [
        ["trained", "untrained", "mean predictor", "median predictor"],
        ["colour PSNR, hidden patches (dB)", "18.25", "12", "13", "–"],
        ["camera depth error, hidden LiDAR (m)", "2.5", "30", "9", "8"],
        ["BEV depth error, all voxels (m)", "1.5", "–", "3", "–"],
        ["mean opacity, camera", "0.95", "0.9", "–", "–"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_training_scenes_can_be_read_as_evaluation_data():
    config = EasyDict(
        DATA_SPLIT={"train": "train", "test": "val"},
        INFO_PATH={"train": ["a.pkl"], "test": ["b.pkl"]},
    )
    chosen = data_of_split(config, "train")
    assert chosen.DATA_SPLIT.test == "train"
    assert chosen.INFO_PATH.test == ["a.pkl"]
    assert data_of_split(config, "test") == config
    assert config.INFO_PATH.test == ["b.pkl"]


class TwoSamples:
    infos = [{"token": "first"}, {"token": "second"}]  # noqa: RUF012

    def __len__(self):
        return 2


@pytest.fixture
def loaded() -> LoadedModel:
    return LoadedModel(model=None, dataset=TwoSamples(), loader=SimpleNamespace(), origin="")


def test_a_sample_is_found_by_its_token(loaded):
    assert loaded.index_of("second") == 1
    with pytest.raises(DataError, match=r"'third'.*2 samples.*'first'"):
        loaded.index_of("third")


@pytest.mark.parametrize("index", [-1, 2])
def test_a_sample_outside_the_split_is_refused(loaded, index):
    with pytest.raises(DataError, match=rf"no sample {index}.*0 to 1"):
        loaded.batch_of(index)

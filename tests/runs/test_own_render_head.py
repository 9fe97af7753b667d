"""A user's own render head in the tools: metrics, table and picture, by registration alone."""

import json

import torch
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.models.render_head import Panel, RenderHead
from nsmae_plugin.models.scores import MeanTotal, mean_record
from tests.helpers.paths import TINY
from tests.runs.test_visualize import SMALL
from tools import evaluate_pretrain, visualize


class OccupancyHead(RenderHead):
    """Whether a cell of the BEV grid is occupied: half everywhere, until it is trained."""

    slot, terms = "occupancy_head", ("occupancy",)
    rows = {"occupancy_error": "occupancy error"}  # noqa: RUF012

    def __init__(self, model_cfg, encoders):
        super().__init__(model_cfg, encoders)
        self.reads = tuple(encoders.bev_channels)
        self.projection = nn.Conv2d(encoders.bev_channels["spatial_features"], 1, 1)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, batch_dict):
        logits = self.projection(batch_dict["spatial_features"])[:, 0]
        return batch_dict | {"rendered_occupancy": logits.sigmoid()}

    def targets(self, batch_dict):
        return {"target_occupancy": torch.ones(batch_dict["batch_size"], 1, 1)}

    def losses(self, batch_dict):
        error = batch_dict["rendered_occupancy"] - batch_dict["target_occupancy"]
        return {"occupancy": error.square().mean()}

    @classmethod
    def record(cls, sample):
        error = (sample["rendered_occupancy"] - sample["target_occupancy"]).abs()
        return {"occupancy_error": mean_record(error)}

    @classmethod
    def totals(cls):
        return {"occupancy_error": MeanTotal("occupancy_error")}

    @classmethod
    def panels(cls, sample):
        return [Panel("occupancy", "rendered", sample["rendered_occupancy"].numpy(), "occupancy")]


def trains_a_step(config):
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).train()
    batch = host.to_device(dataset.collate_batch([dataset[0], dataset[1]]), "cpu")
    result, terms, _ = model(batch)
    result["loss"].backward()
    assert terms["weighted_occupancy"] == 3 * terms["loss_occupancy"] == 0.75
    assert model.occupancy_head.projection.bias.grad.item() < 0  # towards occupied


def test_an_own_head_is_trained_measured_and_drawn(synthetic_root, tmp_path, capsys):
    nsmae_plugin.register()
    host.register("render_head", "OccupancyHead", OccupancyHead)
    content = f"""
_BASE_CONFIG_: {TINY / "nsmae_pretrain_lidar.yaml"}
MODEL:
    RENDER_HEADS: [{{NAME: OccupancyHead}}, {{NAME: BEVRenderHead}}]
    LOSS_CONFIG: {{LOSS_WEIGHTS: {{occupancy_weight: 3.0, bev_depth_weight: 5.0e-2}}}}
"""
    (tmp_path / "own.yaml").write_text(content)
    overrides = ["DATA_CONFIG.DATA_PATH", str(synthetic_root), *SMALL]
    trains_a_step(load_config(tmp_path / "own.yaml", overrides))
    options = ["--device", "cpu", "--cfg_file", str(tmp_path / "own.yaml")]
    overrides = ["--set", *overrides]

    assert evaluate_pretrain.main([*options, "--json", *overrides]) == 0
    metrics = json.loads(capsys.readouterr().out)["untrained"]
    assert metrics["occupancy_error"] == 0.5
    assert metrics["loss_occupancy"] == 0.25
    assert metrics["weighted_occupancy"] == 0.75
    assert metrics["bev_depth_mae"] > 0
    assert evaluate_pretrain.main([*options, *overrides]) == 0
    assert "occupancy error" in capsys.readouterr().out

    pictures = tmp_path / "pictures"
    assert visualize.main([*options, "--output_dir", str(pictures), *overrides]) == 0
    assert {path.name for path in pictures.iterdir()} == {
        "occupancy.png",
        "bev.png",
        "overview.png",
    }

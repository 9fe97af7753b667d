"""A user's own render head in the tools: metrics, table and picture, by registration alone."""

import json

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from tests.helpers.occupancy_head import OccupancyHead
from tests.helpers.paths import TINY
from tests.runs.test_visualize import SMALL
from tools import evaluate_pretrain, visualize


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
    written = {path.name for path in pictures.iterdir()}
    assert written == {"occupancy.png", "bev.png", "overview.png"}

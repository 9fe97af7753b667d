"""Reconstruction metrics against hand-computed numbers, and their invariances."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.errors import ConfigError, DataError, NonFiniteError
from nsmae_plugin.evaluation.reconstruction import (
    ReconstructionMeter,
    ReconstructionScorer,
    evaluate,
    measure,
)
from nsmae_plugin.models.render_head import RenderHead
from nsmae_plugin.models.scores import MeanTotal, cells_of_patches, psnr
from tests.helpers.process_group import run_in_processes

# Typed decimals, float32 inputs.
NEAR = 1e-6


@pytest.fixture(scope="module", autouse=True)
def registered():
    nsmae_plugin.register()


def camera_sample() -> dict:
    """One camera with 1×2 cells, the left one in a hidden patch.

    Depth: a target at 10 m in the left cell, of which no LiDAR was seen, and one at 20 m.
    """
    target = torch.tensor([[0.0, 1.0], [0.2, 0.6], [0.5, 0.5]]).reshape(1, 3, 1, 2)
    error = torch.tensor([[0.1, 0.0], [0.2, 0.3], [0.0, 0.1]]).reshape(1, 3, 1, 2)
    left = torch.tensor([True, False]).reshape(1, 1, 2)
    return {
        "render_heads": ["PerspectiveRenderHead"],
        "rendered_rgb": target + error,
        "target_rgb": target,
        "target_rgb_mask": torch.ones_like(left),
        "image_patch_mask": left,
        "rendered_depth": torch.tensor([13.0, 19.0]).reshape(1, 1, 2),
        "target_depth": torch.tensor([10.0, 20.0]).reshape(1, 1, 2),
        "target_depth_mask": torch.ones_like(left),
        "target_depth_hidden": left,
        "rendered_opacity": torch.tensor([0.5, 1.0]).reshape(1, 1, 2),
    }


def bev_sample() -> dict:
    """A hidden cell at 10 m, visible ones at 20 and 60 m, and one without a target."""
    return {
        "render_heads": ["BEVRenderHead"],
        "rendered_bev_depth": torch.tensor([[13.0, 19.0, 55.0, 7.0]]),
        "target_bev_depth": torch.tensor([[10.0, 20.0, 60.0, 999.0]]),
        "target_bev_mask": torch.tensor([[True, True, True, False]]),
        "target_bev_hidden": torch.tensor([[True, False, False, False]]),
        "rendered_bev_opacity": torch.tensor([[0.5, 1.0, 1.0, 0.1]]),
    }


def metrics_of(*samples: dict, device: torch.device | str = "cpu") -> dict[str, float]:
    meter = ReconstructionMeter()
    for sample in samples:
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in sample.items()}
        meter.add(measure(moved, "a frame"))
    return meter.compute()


def test_psnr_of_a_hundredth_is_twenty_decibels():
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.0) == math.inf


def test_colour_errors_are_split_by_patch(device):
    metrics = metrics_of(camera_sample(), device=device)
    # Hidden cell: (0.01 + 0.04 + 0) / 3; visible cell: (0 + 0.09 + 0.01) / 3.
    assert metrics["rgb_mse_masked"] == pytest.approx(0.05 / 3, abs=NEAR)
    assert metrics["rgb_mse_visible"] == pytest.approx(0.10 / 3, abs=NEAR)
    assert metrics["rgb_mse"] == pytest.approx(0.15 / 6, abs=NEAR)
    assert metrics["rgb_psnr_visible"] == pytest.approx(-10 * math.log10(0.1 / 3), abs=1e-4)


def test_mean_colour_baseline_is_taken_per_channel():
    metrics = metrics_of(camera_sample())
    # Means 0.5, 0.4, 0.5; squared deviations 0.25, 0.04, 0 in either cell.
    assert metrics["baseline_mean_rgb_mse"] == pytest.approx(0.29 / 3, abs=NEAR)
    assert metrics["baseline_mean_rgb_mse_masked"] == pytest.approx(0.29 / 3, abs=NEAR)
    assert metrics["baseline_mean_rgb_psnr_visible"] == pytest.approx(
        -10 * math.log10(0.29 / 3), abs=1e-4
    )


def test_cells_that_the_image_does_not_fill_count_in_no_metric():
    """Of the two cells the visible, right one is black padding: what remains is the hidden one."""
    sample = camera_sample()
    sample["target_rgb_mask"] = torch.tensor([True, False]).reshape(1, 1, 2)
    metrics = metrics_of(sample)
    assert metrics["rgb_mse"] == pytest.approx((0.01 + 0.04) / 3, abs=NEAR)
    assert metrics["rgb_mse_masked"] == metrics["rgb_mse"]
    assert "rgb_mse_visible" not in metrics


def test_depth_of_the_cameras_is_split_by_visible_lidar():
    metrics = metrics_of(camera_sample())
    assert metrics["depth_mae_hidden"] == pytest.approx(3.0)
    assert metrics["depth_mae_visible"] == pytest.approx(1.0)
    assert metrics["depth_mae"] == pytest.approx(2.0)
    assert metrics["opacity"] == pytest.approx(0.75)
    assert not any("bev" in name for name in metrics)


def test_depth_from_above_is_split_by_visible_voxel_and_ignores_cells_without_target(device):
    metrics = metrics_of(bev_sample(), device=device)
    assert metrics["bev_depth_mae_hidden"] == pytest.approx(3.0)
    assert metrics["bev_depth_mae_visible"] == pytest.approx((1 + 5) / 2)
    assert metrics["bev_depth_mae"] == pytest.approx((3 + 1 + 5) / 3)
    assert metrics["bev_opacity"] == pytest.approx(2.6 / 4)
    assert not any(name.startswith(("rgb", "depth", "opacity")) for name in metrics)


def test_depth_baselines_are_the_mean_and_the_median_of_the_targets():
    metrics = metrics_of(bev_sample())
    assert metrics["baseline_mean_bev_depth"] == pytest.approx(30.0)
    assert metrics["baseline_median_bev_depth"] == pytest.approx(20.0)
    assert metrics["baseline_mean_bev_depth_mae"] == pytest.approx((20 + 10 + 30) / 3)
    assert metrics["baseline_mean_bev_depth_mae_hidden"] == pytest.approx(20.0)
    assert metrics["baseline_median_bev_depth_mae"] == pytest.approx((10 + 0 + 40) / 3)
    assert metrics["baseline_median_bev_depth_mae_visible"] == pytest.approx(20.0)


def test_constant_error_matches_the_direct_computation_on_many_depths():
    generator = torch.Generator().manual_seed(0)
    shape = (96, 28)
    target = 1 + 59 * torch.rand(shape, generator=generator)
    sample = bev_sample() | {
        "rendered_bev_depth": torch.full(shape, 30.0),
        "target_bev_depth": target,
        "target_bev_mask": torch.rand(shape, generator=generator) < 0.7,
        "target_bev_hidden": torch.rand(shape, generator=generator) < 0.5,
    }
    metrics = metrics_of(sample)
    values = target[sample["target_bev_mask"]].double()
    # One bin of 1 mm at most is inexact.
    assert metrics["baseline_median_bev_depth"] == pytest.approx(float(values.median()), abs=1e-3)
    for kind, constant in (("mean", values.mean()), ("median", values.median())):
        expected = float((values - constant).abs().mean())
        assert metrics[f"baseline_{kind}_bev_depth_mae"] == pytest.approx(expected, abs=1e-3)


def one_target() -> dict:
    """Only the first of the four cells has a target."""
    return bev_sample() | {"target_bev_mask": torch.tensor([[True, False, False, False]])}


def test_every_cell_counts_once_whatever_sample_it_is_in():
    # A mean of the means of samples would give (3 + 3) / 2 here: one has 1 target cell, one has 3.
    assert metrics_of(one_target(), bev_sample())["bev_depth_mae"] == pytest.approx(
        (3 + 3 + 1 + 5) / 4
    )


def test_loss_terms_weigh_as_many_cells_as_they_average():
    small, large = one_target(), bev_sample()
    small["loss_terms"] = {"loss_bev_depth": 3.0, "weighted_bev_depth": 0.03}
    large["rendered_bev_depth"] = large["rendered_bev_depth"] + 1
    large["loss_terms"] = {"loss_bev_depth": (4 + 0 + 4) / 3, "weighted_bev_depth": 0.08 / 3}
    metrics = metrics_of(small, large)
    assert metrics["loss_bev_depth"] == pytest.approx(metrics["bev_depth_mae"])
    assert metrics["weighted_bev_depth"] == pytest.approx(metrics["bev_depth_mae"] / 100)


def test_loss_of_a_sample_without_targets_is_left_out():
    empty = bev_sample() | {"loss_terms": {"loss_bev_depth": 0.0}}
    empty["target_bev_mask"] = torch.zeros(1, 4, dtype=torch.bool)
    full = bev_sample() | {"loss_terms": {"loss_bev_depth": 3.0}}
    assert metrics_of(empty, full)["loss_bev_depth"] == pytest.approx(3.0)
    assert "bev_depth_mae" not in metrics_of(empty)


class OwnHead(RenderHead):
    """A user's own head, which measures one number per sample."""

    rows = {"brightness": "mean brightness"}  # noqa: RUF012

    @classmethod
    def record(cls, sample):
        return {"brightness": (float(sample["rendered_mine"].mean()), 1.0)}

    @classmethod
    def totals(cls):
        return {"brightness": MeanTotal("brightness")}


def test_a_registered_head_is_measured_and_has_its_row_in_the_table(tmp_path):
    host.register("render_head", "MeasuredHead", OwnHead)
    samples = [bev_sample() | {"rendered_mine": torch.full((2,), value)} for value in (0.25, 0.75)]
    for sample in samples:
        sample["render_heads"] = ["BEVRenderHead", "MeasuredHead"]
    scorer = ReconstructionScorer()
    assert scorer.predicted(samples[0])
    records = scorer.measure({"frame_id": np.array(["a", "b"])}, samples)
    text, metrics = scorer.score(records, tmp_path)
    assert metrics["brightness"] == pytest.approx(0.5)
    assert metrics["bev_depth_mae"] == pytest.approx(3.0)
    last = text.splitlines()[-1].split("  ")
    assert [part.strip() for part in last if part] == ["mean brightness", "0.5", "–", "–"]


@pytest.mark.parametrize(
    ("patch", "cell"), [((2, 4), (2, 4)), ((1, 2), (2, 4)), ((4, 8), (2, 4)), ((2, 4), (4, 8))]
)
def test_patches_and_cells_of_any_ratio(patch, cell):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 3, *patch, generator=generator) < 0.5
    hidden, visible = cells_of_patches(mask, cell)
    # Reference: paint the mask on a pixel grid that both divide, then look into each cell.
    height, width = 8, 16
    painted = mask.repeat_interleave(height // patch[0], -2).repeat_interleave(
        width // patch[1], -1
    )
    blocks = painted.reshape(2, 3, cell[0], height // cell[0], cell[1], width // cell[1])
    assert torch.equal(hidden, blocks.all(-1).all(-2))
    assert torch.equal(visible, ~blocks.any(-1).any(-2))


class Renderer(nn.Module):
    """Stands for the detector: offers what the batch holds as rendering."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, batch):
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        rendered = {**batch, "rendered_bev_depth": batch["target_bev_depth"] + 1}
        rendered["rendered_bev_opacity"] = torch.ones_like(batch["target_bev_depth"])
        tensors = {k: v for k, v in rendered.items() if isinstance(v, torch.Tensor)}
        samples = [{k: v[i] for k, v in tensors.items()} for i in range(batch["batch_size"])]
        return [{**one, "render_heads": ["BEVRenderHead"]} for one in samples], {}


def bev_loader() -> list[dict]:
    mask = np.ones((1, 2, 2), dtype=bool)
    depth = np.ones((1, 2, 2), dtype=np.float32)
    return [
        {
            "batch_size": 1,
            "frame_id": np.array(["a"]),
            "target_bev_depth": depth * scale,
            "target_bev_mask": mask,
            "target_bev_hidden": mask,
        }
        for scale in (1, 3)
    ]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_runs_in_inference_mode_and_restores_the_mode(training):
    model = Renderer().train(training)
    metrics = evaluate(model, bev_loader(), "cpu")
    assert metrics["bev_depth_mae_hidden"] == pytest.approx(1.0)
    assert metrics["baseline_mean_bev_depth"] == pytest.approx(2.0)
    assert metrics["samples"] == 2
    assert model.modes == [(False, True)] * 2
    assert model.training is training


def test_mode_is_restored_after_an_error():
    model = Renderer().train()
    with pytest.raises(KeyError):
        evaluate(model, [{"batch_size": 1}], "cpu")
    assert model.training


def test_an_empty_loader_is_an_error():
    with pytest.raises(DataError, match="no batch"):
        evaluate(Renderer(), [], "cpu")


def test_a_network_that_renders_nothing_is_an_error():
    with pytest.raises(ConfigError, match="renders nothing: it has no MODEL"):
        measure({"pred_boxes": torch.zeros(0, 7)}, "frame")


def test_a_rendering_that_is_not_finite_names_its_frame():
    sample = bev_sample()
    sample["rendered_bev_depth"][..., 0] = math.nan
    with pytest.raises(
        NonFiniteError, match=r"rendered_bev_depth is NaN or infinite in frame scene/7"
    ):
        measure(sample, "scene/7")


def evaluate_shards(world):
    """The third process has no sample at all; one rendering of the second is NaN."""
    nsmae_plugin.register()
    joined = evaluate(Renderer(), bev_loader()[world.rank : world.rank + 1], "cpu")
    broken = bev_loader()[world.rank : world.rank + 1]
    if world.rank == 1:
        broken[0]["target_bev_depth"][:] = math.nan
    with pytest.raises(NonFiniteError) as caught:
        evaluate(Renderer(), broken, "cpu")
    return {"joined": joined, "message": str(caught.value)}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return run_in_processes(evaluate_shards, tmp_path_factory.mktemp("processes"), count=3)


def test_processes_join_their_sums(three):
    alone = evaluate(Renderer(), bev_loader(), "cpu")
    for one in three:
        assert one["joined"] == pytest.approx(alone)


def test_a_broken_rendering_in_one_process_stops_all_with_its_frame(three):
    for one in three:
        assert one["message"].startswith("rendered_bev_depth is NaN or infinite in frame a:")

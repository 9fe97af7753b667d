"""The render heads: what they read, write and learn; the mathematics has tests of its own."""

import pytest
import torch

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.models.render_head import masked_mean
from nsmae_plugin.ops.compositing import bin_centres, composite
from nsmae_plugin.ops.frustum_render import render_frustum
from tests.helpers.heads import bev_head, perspective_head

EDGES = 0.5 + torch.arange(13.0)  # of the bins of 1 m at 1, 2, … 12 m


def frustum_batch(samples=2, cameras=3, channels=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (samples * cameras, 4, 5)
    images, height, width = shape
    return {
        "batch_size": samples,
        "depth_logits": torch.randn(images, 12, height, width, generator=generator),
        "depth_context": torch.randn(images, channels, height, width, generator=generator),
    }


def bev_batch(channels, samples=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(samples, count, 6, 7, generator=generator)
        for key, count in channels.items()
    }


@pytest.mark.parametrize("cameras", [1, 3, 6])
def test_perspective_head_renders_any_number_of_cameras(cameras, device):
    head = perspective_head().to(device)
    batch = {
        key: value.to(device) if torch.is_tensor(value) else value
        for key, value in frustum_batch(cameras=cameras).items()
    }
    result = head(dict(batch))
    assert result["rendered_rgb"].shape == (2, cameras, 3, 4, 5)
    assert result["rendered_depth"].shape == result["rendered_opacity"].shape == (2, cameras, 4, 5)
    assert (result["rendered_depth"] >= 1).all()
    assert (result["rendered_depth"] <= 12.5).all()
    assert ((result["rendered_rgb"] >= 0) & (result["rendered_rgb"] <= 1)).all()


def test_perspective_head_renders_the_same_with_the_fused_kernels(kernel_device):
    batch = {
        key: value.to(kernel_device) if torch.is_tensor(value) else value
        for key, value in frustum_batch().items()
    }
    fused, expected = (
        perspective_head(kernels=name).to(kernel_device)(dict(batch))
        for name in ("triton", "torch")
    )
    for key in ("rendered_rgb", "rendered_depth", "rendered_opacity"):
        torch.testing.assert_close(fused[key], expected[key], rtol=1e-5, atol=1e-6)


def test_perspective_head_projects_each_pixel_and_keeps_the_order_of_images():
    head, batch = perspective_head(), frustum_batch()
    raw = torch.einsum("kc,nchw->nkhw", head.projection.weight[:, :, 0, 0], batch["depth_context"])
    rgb, depth, opacity = render_frustum(
        batch["depth_logits"], raw, bin_centres(EDGES), EDGES, head.density_bias
    )
    result = head(dict(batch))
    torch.testing.assert_close(result["rendered_rgb"][1, 2], rgb[5])
    torch.testing.assert_close(result["rendered_depth"][1, 0], depth[3])
    torch.testing.assert_close(result["rendered_opacity"][0, 1], opacity[1])


@pytest.mark.parametrize("row", range(4))
def test_density_and_colours_come_from_rows_of_their_own(row):
    # In the released code a reshape let "density" be all four channels of the last bins.
    head, batch = perspective_head(), frustum_batch()
    before = head(dict(batch))
    with torch.no_grad():
        head.projection.weight[row] += 1
    after = head(dict(batch))
    changed = (after["rendered_rgb"] != before["rendered_rgb"]).any(-1).any(-1).any(0).any(0)
    if row < 3:
        assert changed.tolist() == [channel == row for channel in range(3)]
        assert torch.equal(after["rendered_depth"], before["rendered_depth"])
    else:
        assert changed.all()
        assert not torch.equal(after["rendered_depth"], before["rendered_depth"])


def test_checkpoints_hold_weights_and_no_geometry():
    # Grids kept as parameters overwrite those of the model that loads them.
    assert list(perspective_head().state_dict()) == ["projection.weight"]
    assert list(bev_head().state_dict()) == ["to_density.weight", "to_density.bias"]


def test_untrained_heads_leave_no_ray_empty_and_give_gradients_everywhere():
    batch = frustum_batch()
    batch["depth_context"].requires_grad_()
    batch["depth_logits"].requires_grad_()
    bev = bev_batch({"spatial_features": 4})
    bev["spatial_features"].requires_grad_()
    cameras = perspective_head()(dict(batch))
    above = bev_head({"spatial_features": 4})(dict(bev))
    assert cameras["rendered_opacity"].min() > 0.1
    assert above["rendered_bev_opacity"].min() > 0.1
    (cameras["rendered_depth"].sum() + cameras["rendered_rgb"].square().sum()).backward()
    above["rendered_bev_depth"].sum().backward()
    for features in (batch["depth_context"], batch["depth_logits"], bev["spatial_features"]):
        assert (features.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    "channels",
    [
        {"spatial_features_img": 3, "spatial_features": 4},
        {"spatial_features_img": 3},
        {"spatial_features": 4},
    ],
)
def test_bev_head_renders_whatever_branches_there_are(channels, device):
    batch = {key: value.to(device) for key, value in bev_batch(channels).items()}
    result = bev_head(channels).to(device)(batch)
    depth = result["rendered_bev_depth"]
    assert depth.shape == result["rendered_bev_opacity"].shape == (2, 6, 7)
    assert (depth >= 0.25).all()
    assert (depth <= 2.5).all()


def test_the_branches_are_convolved_as_if_side_by_side(device):
    channels = {"spatial_features_img": 3, "spatial_features": 4}
    head = bev_head(channels).double().to(device)
    batch = {key: value.double().to(device) for key, value in bev_batch(channels).items()}
    raw = head.to_density(torch.cat([batch[key] for key in channels], dim=1))
    density = torch.nn.functional.softplus(raw + head.density_bias).movedim(1, -1)
    expected = composite(density, head.edges).depth
    found = head(batch)["rendered_bev_depth"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("occupied", range(5))
def test_bev_depth_is_that_of_the_only_dense_bin_counted_from_above(occupied):
    head = bev_head({"spatial_features": 4})
    with torch.no_grad():
        head.to_density.weight.zero_()
        head.to_density.bias.fill_(-100)
        head.to_density.bias[occupied] = 100
    result = head(bev_batch({"spatial_features": 4}))
    expected = torch.full((2, 6, 7), 0.5 * occupied + 0.25)
    torch.testing.assert_close(result["rendered_bev_depth"], expected)


def test_bev_head_concatenates_the_camera_first():
    channels = {"spatial_features_img": 3, "spatial_features": 4}
    head, batch = bev_head(channels), bev_batch(channels)
    with torch.no_grad():
        head.to_density.weight[:, 3:] = 0
    without = {**batch, "spatial_features": torch.zeros_like(batch["spatial_features"])}
    a, b = head(dict(batch)), head(without)
    assert torch.equal(a["rendered_bev_depth"], b["rendered_bev_depth"])


def test_heads_render_in_float32_under_autocast(device):
    batch = {**frustum_batch(), **bev_batch({"spatial_features": 4})}
    batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
    batch["depth_context"] = batch["depth_context"].bfloat16()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = bev_head({"spatial_features": 4}).to(device)(perspective_head().to(device)(batch))
    rendered = {key: value for key, value in result.items() if key.startswith("rendered_")}
    assert len(rendered) == 5
    assert all(value.dtype == torch.float32 for value in rendered.values())


def test_features_of_the_wrong_size_are_named():
    head = bev_head({"spatial_features_img": 3, "spatial_features": 4})
    batch = bev_batch({"spatial_features_img": 3, "spatial_features": 5})
    with pytest.raises(ConfigError, match="NUM_BEV_FEATURES"):
        head(batch)
    batch = bev_batch({"spatial_features_img": 3, "spatial_features": 4})
    batch["spatial_features_img"] = batch["spatial_features_img"][..., :-1]
    with pytest.raises(ConfigError, match="one grid"):
        head(batch)


@pytest.mark.parametrize(
    ("height", "bins"),
    [(0.2, 11), (0.25, 9), (2.0, 2)],  # of a range of 2 m, and one bin below it
)
def test_the_bins_follow_from_their_height_and_the_range(height, bins):
    head = bev_head(height=height)
    assert len(head.edges) == bins + 1
    assert head.to_density.out_channels == bins
    assert head.edges[-1].item() == pytest.approx(2.0 + height)


def test_depth_bins_sit_where_the_lift_places_them():
    head = perspective_head(depth_bins=(1.0, 60.0, 0.5))
    torch.testing.assert_close(bin_centres(head.edges), torch.arange(1.0, 60.0, 0.5))


def rendered_sample():
    """One camera of one cell, and one BEV cell, all with a target."""
    mask = torch.tensor([True])
    return {
        "rendered_rgb": torch.full((3, 1, 1), 0.5, requires_grad=True),
        "target_rgb": torch.tensor([0.5, 0.5, 0.8])[:, None, None],
        "target_rgb_mask": mask[:, None],
        "rendered_depth": torch.tensor([10.0], requires_grad=True),
        "target_depth": torch.tensor([12.0]),
        "target_depth_mask": mask,
        "rendered_bev_depth": torch.tensor([3.0], requires_grad=True),
        "target_bev_depth": torch.tensor([2.5]),
        "target_bev_mask": mask,
    }


def test_losses_by_hand():
    cameras, above = (head.losses(rendered_sample()) for head in (perspective_head(), bev_head()))
    assert {name: term.item() for name, term in cameras.items()} == pytest.approx(
        {"rgb": 0.03, "depth": 2.0}
    )
    assert {name: term.item() for name, term in above.items()} == pytest.approx({"bev_depth": 0.5})


def test_colour_is_a_mean_of_squares_over_channels_and_the_cells_that_the_image_fills():
    rendered, target = torch.zeros(3, 1, 3), torch.zeros(3, 1, 3)
    rendered[:, 0, 0] = torch.tensor([1.0, 0.2, 0.0])
    target[:, 0, 2] = 9.0  # black in the input: there is nothing to render
    sample = rendered_sample() | {"rendered_rgb": rendered, "target_rgb": target}
    sample["target_rgb_mask"] = torch.tensor([[True, True, False]])
    assert perspective_head().losses(sample)["rgb"].item() == pytest.approx((1 + 0.04) / 6)


def test_depth_is_a_mean_of_metres_over_valid_cells_only():
    sample = {
        "rendered_bev_depth": torch.tensor([10.0, 20.0, 30.0]),
        "target_bev_depth": torch.tensor([12.0, 19.0, 0.0]),
        "target_bev_mask": torch.tensor([True, True, False]),
    }
    assert bev_head().losses(sample)["bev_depth"].item() == pytest.approx((2 + 1) / 2)


def test_without_a_valid_cell_the_loss_is_zero_and_so_is_its_gradient():
    rendered = torch.rand(4, requires_grad=True)
    loss = masked_mean(rendered, torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert rendered.grad.tolist() == [0, 0, 0, 0]


def test_masked_out_values_do_not_matter_even_when_infinite():
    values = torch.tensor([1.0, 3.0, torch.inf])
    assert masked_mean(values, torch.tensor([True, True, False])).item() == 2

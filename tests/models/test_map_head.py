"""The map head: features land on the right cells of the map, and its layers are the published."""

import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import nn

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.models.map_head import BEVSegmentationHead, GridResampler, interpolation_matrix

# Other extents, steps and counts along x and y, so that no axis can stand in for the other.
RANGE = [-8.0, -6.0, -5.0, 8.0, 10.0, 3.0]
GRID = BEVGrid((-7.0, 7.5, 0.5), (-5.0, 9.0, 0.4))
CELLS = (20, 16)  # features along y and x: 0.8 m and 1 m
CLASSES = ["drivable_area", "walkway"]
LOSS = {"LOSS": "focal", "LOSS_WEIGHTS": {"map_weight": 3.0}}


def centres(low, high, count):
    step = (high - low) / count
    return low + step * (torch.arange(count, dtype=torch.float64) + 0.5)


def make_head(channels=6, **config):
    torch.manual_seed(0)
    section = EasyDict(NAME="BEVSegmentationHead", LOSS_CONFIG=LOSS, **config)
    return BEVSegmentationHead(section, channels, CLASSES, GRID, RANGE)


def features(channels=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, *CELLS, generator=generator, dtype=dtype)


def test_interpolation_by_hand():
    positions = torch.tensor([-3.0, 0.0, 0.25, 1.5, 2.0, 9.0], dtype=torch.float64)
    assert interpolation_matrix(positions, 3).tolist() == [
        [1, 0, 0],  # before the first value
        [1, 0, 0],
        [0.75, 0.25, 0],
        [0, 0.5, 0.5],
        [0, 0, 1],
        [0, 0, 1],
    ]


def test_a_linear_ramp_in_metres_stays_that_ramp(device):
    """x and y themselves as features: the map's cells must read their own centres."""
    y = centres(RANGE[1], RANGE[4], CELLS[0])
    x = centres(RANGE[0], RANGE[3], CELLS[1])
    ramp = torch.stack(torch.meshgrid(y, x, indexing="ij"))[None].float().to(device)
    found = GridResampler(GRID, RANGE).to(device)(ramp).cpu()
    expected = torch.from_numpy(GRID.centres()).float()
    assert found.shape == (1, 2, 35, 29)
    # 1e-5 m: positions are float32 shares of 16 m
    torch.testing.assert_close(found[0, 1], expected[..., 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0, 0], expected[..., 1], atol=1e-5, rtol=0)


def test_it_is_bilinear_sampling_by_torch(device):
    maps = features().to(device)
    shares = torch.from_numpy(GRID.centres()).float() - torch.tensor([RANGE[0], RANGE[1]])
    grid = (shares / 16 * 2 - 1).to(device)  # both sides of the range are 16 m
    expected = F.grid_sample(
        maps, grid.expand(2, -1, -1, -1), padding_mode="border", align_corners=False
    )
    # 1e-5: two ways of rounding positions and weights
    found = GridResampler(GRID, RANGE).to(device)(maps)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_on_the_grid_of_the_features_nothing_changes():
    same = BEVGrid((-8.0, 8.0, 1.0), (-6.0, 10.0, 1.0))
    maps = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(GridResampler(same, RANGE)(maps), maps)


def test_the_outermost_features_hold_up_to_the_edge_of_the_range():
    fine = BEVGrid((-8.0, 8.0, 0.25), (-6.0, 10.0, 0.25))
    maps = torch.full((1, 1, *CELLS), 0.0)
    maps[..., 0], maps[..., -1] = 1.0, 2.0  # least and greatest x
    row = GridResampler(fine, RANGE)(maps)[0, 0, 32]
    assert row[:2].tolist() == [1, 1]  # centres at 0.125 and 0.375 m from the edge, feature at 0.5
    assert row[-2:].tolist() == [2, 2]


def test_gradients_of_resampling_are_those_of_finite_differences():
    resample = GridResampler(BEVGrid((-7.0, 7.0, 3.5), (-5.0, 9.0, 2.8)), RANGE).double()
    maps = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(resample, maps)


def test_positions_stay_exact_under_autocast(device):
    resample, maps = GridResampler(GRID, RANGE).to(device), features().to(device)
    expected = resample(maps)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(resample(maps), expected)
        found = resample(maps.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, resample(maps.bfloat16().float()))


def test_the_layers_are_the_published_ones():
    layers = [type(one) for one in make_head().classifier]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert layers == [*block, *block, nn.Conv2d]
    assert {k: tuple(v.shape) for k, v in make_head().named_parameters() if v.ndim == 4} == {
        "classifier.0.weight": (6, 6, 3, 3),
        "classifier.3.weight": (6, 6, 3, 3),
        "classifier.6.weight": (2, 6, 1, 1),
    }
    thin = make_head(HIDDEN_CHANNEL=4)
    assert thin.classifier[0].weight.shape == (4, 6, 3, 3)
    assert thin.classifier[6].weight.shape == (2, 4, 1, 1)


def test_the_grid_follows_the_configuration_and_stays_out_of_checkpoints():
    assert all(name.startswith("classifier.") for name in make_head().state_dict())


def test_logits_are_written_on_the_grid_in_float32(device):
    head = make_head().to(device).eval()
    with torch.autocast(device.type, torch.bfloat16):
        batch = head({"spatial_features_2d": features().to(device)})
    assert batch["map_logits"].shape == (2, 2, *GRID.shape)
    assert batch["map_logits"].dtype == torch.float32


def test_an_untrained_head_takes_every_class_for_rare():
    """Features of zero pass convolutions without bias and fresh BatchNorms as zeros."""
    head = make_head().eval()
    logits = head({"spatial_features_2d": torch.zeros(1, 6, *CELLS)})["map_logits"]
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.1))


def test_the_loss_sums_the_classes_and_is_weighed():
    head = make_head()
    batch = head({"spatial_features_2d": features()})
    batch["gt_masks_bev"] = torch.rand(2, 2, *GRID.shape) < 0.5
    loss, terms = head.get_loss(batch)
    assert list(terms) == ["loss_map", "loss_map_drivable_area", "loss_map_walkway"]
    by_class = [terms[f"loss_map_{name}"] for name in CLASSES]
    torch.testing.assert_close(terms["loss_map"], sum(by_class))
    torch.testing.assert_close(loss, 3 * terms["loss_map"])
    # the truth of the second class is nobody else's business
    batch["gt_masks_bev"][:, 1] ^= True
    _, other = head.get_loss(batch)
    assert other["loss_map_drivable_area"] == terms["loss_map_drivable_area"]
    assert other["loss_map_walkway"] != terms["loss_map_walkway"]


@pytest.mark.parametrize(
    ("grid", "name"),
    [
        (BEVGrid((-8.5, 7.0, 0.5), (-5.0, 9.0, 0.5)), "XBOUND reaches from -8.5"),
        (BEVGrid((-7.0, 8.5, 0.5), (-5.0, 9.0, 0.5)), "XBOUND reaches from -7 to 8.5"),
        (BEVGrid((-7.0, 7.0, 0.5), (-6.5, 9.0, 0.5)), "YBOUND reaches from -6.5"),
        (BEVGrid((-7.0, 7.0, 0.5), (-5.0, 10.5, 0.5)), "YBOUND reaches from -5 to 10.5"),
    ],
)
def test_a_map_beyond_the_features_is_refused(grid, name):
    with pytest.raises(ConfigError, match=rf"MAP_CONFIG\.{name}.*POINT_CLOUD_RANGE"):
        GridResampler(grid, RANGE)

"""Diagnostics of depth and features, and the whitening of features, against numbers by hand."""

import math

import numpy as np
import pytest
import torch

from nsmae_plugin.experiments.probe.diagnostics import (
    DepthQuality,
    Diagnostics,
    FeatureSpread,
    depth_sums,
    effective_rank,
)
from nsmae_plugin.experiments.probe.moments import Moments, Whitening

CENTRES = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


def quality(logits, depth, known=True):
    """Of one cell whose LiDAR depth is ``depth``, beside a cell where it is unknown."""
    both = torch.stack([torch.tensor(logits), torch.randn(5)], 1).view(1, 5, 1, 2)
    depths = torch.tensor([depth, 0.0]).view(1, 1, 2)
    bins = torch.tensor([round(depth) - 1, 0]).view(1, 1, 2)
    sums = depth_sums(both, depths, bins, torch.tensor([[[known, False]]]), CENTRES)
    return DepthQuality.of(sums.numpy(), 5)


def test_a_uniform_distribution_is_at_chance():
    found = quality([0.7] * 5, 3.3)  # bins of 3 and 4 m are within 1 m
    assert found.cells == 1
    assert found.mass == pytest.approx(0.4)
    assert found.chance == pytest.approx(0.4)
    for value in (found.cross_entropy, found.uniform, found.entropy):
        assert value == pytest.approx(math.log(5))


@pytest.mark.parametrize(
    ("peak", "mass", "hits", "cross_entropy"),
    [(2, 1, 1, 0), (3, 1, 1, 60), (0, 0, 0, 60)],  # at 3 m, 4 m and 1 m; the LiDAR at 3.3 m
)
def test_a_sharp_distribution_is_right_or_wrong(peak, mass, hits, cross_entropy):
    logits = [0.0] * 5
    logits[peak] = 60.0
    found = quality(logits, 3.3)
    assert (found.mass, found.hits) == (pytest.approx(mass), hits)
    assert found.cross_entropy == pytest.approx(cross_entropy, abs=1e-9)
    assert found.entropy == pytest.approx(0, abs=1e-9)
    assert found.chance == pytest.approx(0.4)


def test_probabilities_by_hand():
    logits = np.log([0.5, 0.2, 0.1, 0.1, 0.1]).tolist()
    found = quality(logits, 2.0)  # bins of 1, 2 and 3 m
    assert found.mass == pytest.approx(0.8)
    assert found.chance == pytest.approx(0.6)
    assert found.hits == 1  # 1 m
    assert found.cross_entropy == pytest.approx(-math.log(0.2))
    entropy = -(0.5 * math.log(0.5) + 0.2 * math.log(0.2) + 0.3 * math.log(0.1))
    assert found.entropy == pytest.approx(entropy)


def test_cells_count_alike_whatever_frame_they_are_in():
    """Sums of two frames, of one and of three cells."""
    sums = np.array([[1.0, 1, 0, 0, 0, 0], [3.0, 0, 0, 3, 6, 0]])
    found = DepthQuality.of(sums, 5)
    assert (found.cells, found.mass, found.hits, found.cross_entropy) == (4, 0.25, 0.75, 1.5)
    assert DepthQuality.of(np.zeros((2, 6)), 5) is None
    assert Diagnostics(None, {}).rows() == {}
    assert Diagnostics(found, {}).rows()["depth"]["mass"] == 0.25


def test_spread_of_features_by_hand():
    """Channels -1 and 1, -3 and 3, 5 and 5: variances 1, 9 and 0, the first two together."""
    features = torch.tensor([[-1.0, 1.0], [-3.0, 3.0], [5.0, 5.0]]).view(1, 3, 1, 2)
    found = FeatureSpread.of(Moments.of(features))
    assert found.channels == 3
    assert found.magnitude == pytest.approx((1 + 3 + 5) / 3)
    assert found.deviation == pytest.approx((1 + 3 + 0) / 3)
    assert found.effective_rank == pytest.approx(1)
    assert found.dead == pytest.approx(1 / 3)
    rows = Diagnostics(None, {"lidar": found}).rows()
    assert list(rows) == ["lidar"]
    assert rows["lidar"]["dead"] == pytest.approx(1 / 3)


def test_effective_rank_by_hand():
    assert effective_rank(2.5 * torch.eye(7)) == pytest.approx(7)
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]))) == pytest.approx(expected)
    assert effective_rank(torch.zeros(3, 3)) == 0


def test_moments_of_parts_add_up():
    features = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) + 2
    together = Moments.of(features[:1]) + Moments.of(features[1:])
    rows = features.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(together.mean, rows.mean(1))
    torch.testing.assert_close(together.covariance, rows.cov(correction=0))


def test_whitened_components_by_hand():
    """Variances 16 along (0.6, 0.8), 1 across, around (1, 2); a third channel is constant."""
    along, across = torch.tensor([0.6, 0.8, 0.0]), torch.tensor([-0.8, 0.6, 0.0])
    signs = torch.tensor([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
    cells = torch.tensor([1.0, 2.0, 7.0]) + signs[:, :1] * along + signs[:, 1:] * across
    features = cells.T.reshape(1, 3, 2, 2)
    whitening = Whitening.of(Moments.of(features), 5)
    assert whitening.matrix.shape == (2, 3)  # the constant one has no component
    found = whitening(features).flatten(2)[0]
    expected = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]])
    torch.testing.assert_close(found.sign() * found, torch.ones(2, 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((found * expected).sum(1).abs(), torch.full((2,), 4.0))
    first = Whitening.of(Moments.of(features), 1)
    torch.testing.assert_close(first(features).flatten(2)[0], found[:1])


def test_constant_features_have_one_component_of_zeros():
    features = torch.full((2, 3, 4, 4), 1.5)
    whitening = Whitening.of(Moments.of(features), 3)
    assert whitening(features).shape == (2, 1, 4, 4)
    assert whitening(features).abs().max() == 0

"""A detector says what it predicts, and so what is evaluated."""

import pytest

from nsmae_plugin.detectors.bev_fusion_map import BEVFusionMap
from nsmae_plugin.detectors.bev_network import BEVDetector
from nsmae_plugin.detectors.nsmae import NSMAE
from nsmae_plugin.detectors.outputs import BOXES, MAP, RENDERINGS, outputs_of


class Foreign:
    """As OpenPCDet's detectors: says nothing."""


@pytest.mark.parametrize(
    ("detector", "sections", "expected"),
    [
        (BEVDetector, {"DENSE_HEAD": {}}, {BOXES}),
        (BEVFusionMap, {"MAP_HEAD": {}}, {MAP}),
        (BEVFusionMap, {"MAP_HEAD": {}, "DENSE_HEAD": {}}, {MAP, BOXES}),
        (NSMAE, {}, {RENDERINGS}),
        (Foreign, {}, {BOXES}),
    ],
)
def test_outputs_follow_from_the_class_and_its_heads(detector, sections, expected):
    assert outputs_of(detector, sections) == expected

"""Non-maximum suppression as heads configure it."""

import math

import pytest
import torch

from nsmae_plugin.host.builtin.modules.center_head import suppress
from tests.helpers.center_head_case import head_config

BOXES = torch.tensor(
    [
        [0.0, 0, 0, 4, 2, 1, 0, 9, 9],
        [0.5, 0, 5, 4, 2, 1, 0, 9, 9],  # overlaps the first, whatever its height
        [9.0, 0, 0, 4, 2, 1, 0, 9, 9],
        [9.0, 3, 0, 4, 2, 1, math.pi / 2, 9, 9],  # touches the one above only if turned
    ]
)
SCORES = torch.tensor([0.5, 0.9, 0.3, 0.8])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, [1, 3, 2]),
        ({"NMS_THRESH": 0.05}, [1, 3]),
        ({"NMS_THRESH": 0.05, "NMS_TYPE": "nms_normal_gpu"}, [1, 3, 2]),
        ({"NMS_THRESH": 0.9}, [1, 3, 0, 2]),
        ({"NMS_PRE_MAXSIZE": 2}, [1, 3]),
        ({"NMS_POST_MAXSIZE": 1}, [1]),
    ],
)
def test_suppression_keeps_the_best_of_what_overlaps(changes, kept, device):
    config = head_config().POST_PROCESSING.NMS_CONFIG
    config.update(changes)
    boxes = BOXES.clone()
    boxes[3, 1] = 2.5  # reaches down to 0.5 when turned, into the third box up to 1
    assert suppress(boxes.to(device), SCORES.to(device), config).tolist() == kept


def test_suppression_of_nothing_is_nothing():
    config = head_config().POST_PROCESSING.NMS_CONFIG
    assert suppress(torch.zeros(0, 9), torch.zeros(0), config).tolist() == []

"""OpenPCDet's evaluation with checkpoints that are missing or of another network."""

import logging

import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.errors import CheckpointError
from tests.helpers.map_case import build

pytestmark = [
    pytest.mark.openpcdet,
    pytest.mark.skipif(host.NAME != "openpcdet", reason="the built-in host has tools of its own"),
]
LOGGER = logging.getLogger("evaluation")


def test_an_evaluation_needs_all_weights_of_a_network(tmp_path):
    model = build("lidar_map")
    path = tmp_path / "checkpoint_epoch_1.pth"
    state = model.state_dict()
    torch.save({"model_state": state}, path)
    model.dataset.training = False
    model.load_params_from_file(path, LOGGER)
    for name in [name for name in state if name.startswith("map_head.")]:
        del state[name]
    torch.save({"model_state": state}, path)
    with pytest.raises(CheckpointError, match=r"network than BEVFusionMap: .*first: map_head\."):
        model.load_params_from_file(path, LOGGER)
    model.dataset.training = True  # --pretrained_model starts a training from what fits
    model.load_params_from_file(path, LOGGER)


def test_an_evaluation_without_a_checkpoint_says_how_to_name_one():
    with pytest.raises(CheckpointError, match="give --ckpt or --eval_all"):
        build("lidar_map").load_params_from_file(None, LOGGER)


@pytest.mark.parametrize("load", ["load_params_from_file", "load_params_with_optimizer"])
def test_a_file_that_holds_no_weights_is_named(load, tmp_path):
    model, path = build("lidar_map"), tmp_path / "weights.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*weights\.pth"):
        getattr(model, load)(path, logger=LOGGER)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth is not a checkpoint .*no model_state"):
        getattr(model, load)(path, logger=LOGGER)

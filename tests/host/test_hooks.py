"""DisableAugmentationHook takes augmentations out for the last epochs, in all loader workers."""

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from easydict import EasyDict
from torch.utils.data import Dataset

from nsmae_plugin.data.loader import RestartableLoader
from nsmae_plugin.host import hooks
from nsmae_plugin.host.builtin.augmentor import DataAugmentor

LOGGER = logging.getLogger("hooks")
HOOK = EasyDict(DisableAugmentationHook={"DISABLE_AUG_LIST": ["flip"], "NUM_LAST_EPOCHS": 2})


def step(config=None):
    """Stands for an augmentation; only its configuration matters here."""


class Augmented(Dataset):
    """Each sample says how many augmentations it went through."""

    def __init__(self):
        queue = [
            partial(step, config=EasyDict(NAME="flip")),
            partial(step, config=EasyDict(NAME="scale")),
            SimpleNamespace(sampler_cfg=EasyDict(NAME="gt_sampling")),  # as OpenPCDet builds it
        ]
        self.data_augmentor = SimpleNamespace(data_augmentor_queue=queue)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return len(self.data_augmentor.data_augmentor_queue)


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentations_end_before_the_last_epochs(workers):
    dataset = Augmented()
    loader = RestartableLoader(dataset, num_workers=workers, persistent_workers=workers > 0)
    hook = hooks.build_hook(HOOK, dataset, loader.restart_workers, 4, LOGGER)
    counts = []
    for epoch in range(4):
        hook(epoch)
        counts.append([int(one) for one in loader])
    assert counts == [[3, 3], [3, 3], [2, 2], [2, 2]]


def test_a_run_resumed_late_disables_at_once_and_says_so_once(caplog):
    dataset = Augmented()
    hook = hooks.build_hook(HOOK, dataset, RestartableLoader(dataset).restart_workers, 4, LOGGER)
    with caplog.at_level(logging.INFO):
        hook(3)
        hook(3)
    assert caplog.text.count("disabled the augmentations flip") == 1


def test_object_sampling_can_be_disabled():
    dataset = Augmented()
    assert hooks.disable_augmentations(dataset, ["gt_sampling", "flip"])
    assert dataset[0] == 1


def test_the_built_in_augmentor_goes_on_with_the_steps_that_are_left():
    flip = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]}
    turn = {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [np.pi / 2, np.pi / 2]}
    augmentor = DataAugmentor(Path(), [flip, turn], ["car"])
    dataset = SimpleNamespace(data_augmentor=augmentor)
    assert hooks.disable_augmentations(dataset, ["random_world_flip"])
    sample = augmentor.forward({"points": np.array([[1.0, 2.0, 3.0]])})
    np.testing.assert_allclose(sample["points"], [[-2.0, 1.0, 3.0]], atol=1e-12)
    assert "flip_x" not in sample


def test_no_section_is_no_hook():
    assert hooks.build_hook(None, None, None, 4, LOGGER) is None

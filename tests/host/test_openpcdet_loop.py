"""Properties of OpenPCDet's training loop that the plugin relies on."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from easydict import EasyDict

from nsmae_plugin import host
from nsmae_plugin.data import loader as loading
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from tests.helpers.tiny_frames import CLASSES, configuration, dataset, write_frames

pytestmark = [pytest.mark.openpcdet, pytest.mark.usefixtures("openpcdet_host")]

FRAMES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder, frames=FRAMES, cameras=1)
    return folder


def build_loader(root, batch_size, **options):
    from pcdet.datasets import build_dataloader

    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    config = configuration(root, USE_LABELS=True, LABEL_FRACTION=1 / 3)
    return build_dataloader(
        config, CLASSES, batch_size, dist=False, workers=0, logger=logging.getLogger(), **options
    )[:2]


def test_a_third_of_the_labels_makes_an_epoch_of_the_full_length(root):
    data, loader = build_loader(root, batch_size=4)
    frames = Counter(str(frame) for batch in loader for frame in batch["frame_id"])
    assert sorted(frames.values()) == [3, 3]  # two frames, three times each
    assert loading.batches_per_epoch(data, 4) == len(loader) == 2


def test_merged_epochs_are_as_long_together(root):
    epochs = 3
    data, loader = build_loader(
        root, batch_size=4, merge_all_iters_to_one_epoch=True, total_epochs=epochs
    )
    assert len(loader) == 5  # 18 samples
    assert loading.batches_per_epoch(data, 4) == len(loader) // epochs  # as train_model counts


def test_processes_share_the_batches_of_an_epoch(root, monkeypatch):
    data = dataset(root)
    monkeypatch.setattr(loading.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(loading.dist, "get_world_size", lambda: 4)
    assert loading.batches_per_epoch(data, 1) == 2  # 6 samples, filled up to 8
    assert loading.batches_per_epoch(object(), 1) is None


def test_a_hook_takes_out_what_it_names_and_brings_nothing_back(root):
    """OpenPCDet would build all others anew, those that had been disabled among them."""
    config = configuration(root, augmentors=("flip", "scaling", "imgaug"))
    config.DATA_AUGMENTOR.DISABLE_AUG_LIST = ["imgaug"]
    augmentor = MultiModalNuScenesDataset(config, CLASSES).data_augmentor
    before = list(augmentor.data_augmentor_queue)
    assert len(before) == 2
    augmentor.disable_augmentation(EasyDict(DISABLE_AUG_LIST=["random_world_flip"]))
    assert augmentor.data_augmentor_queue == before[1:]


def test_a_checkpoint_that_cannot_be_resumed_is_an_error_in_the_log(tmp_path, caplog):
    """The training script catches what is raised, and starts anew."""
    from pcdet.models.detectors.detector3d_template import Detector3DTemplate

    path = tmp_path / "checkpoint_epoch_1.pth"
    path.write_bytes(b"no checkpoint")
    logger = logging.getLogger("script")
    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match=r"."):
        Detector3DTemplate.load_params_with_optimizer(None, str(path), to_cpu=True, logger=logger)
    assert f"cannot resume from {path}: " in caplog.text


def test_masks_stay_boolean_on_their_way_to_the_device():
    from pcdet.models import load_data_to_gpu

    batch = {"depth_point_mask": np.array([True, False]), "points": np.ones((2, 4), np.float64)}
    load_data_to_gpu(batch)
    assert torch.equal(batch["depth_point_mask"], torch.tensor([True, False]))
    assert batch["points"].dtype == torch.float32

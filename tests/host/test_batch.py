"""A collated batch on its way from a loading process to the device."""

import numpy as np
import torch

from nsmae_plugin.host.batch import SHARED_BYTES, share_large_arrays, to_device

LARGE = SHARED_BYTES // 4  # numbers of four bytes


def batch_of_arrays() -> dict:
    return {
        "voxels": np.arange(LARGE, dtype=np.float32).reshape(-1, 4),
        "voxel_coords": np.arange(LARGE, dtype=np.int32).reshape(-1, 4),
        "gt_masks_bev": np.arange(SHARED_BYTES) % 3 == 0,
        "gt_boxes": np.ones((2, 3, 10), dtype=np.float32),
        "ori_shape": np.ones(SHARED_BYTES, dtype=np.int64),
        "frame_id": np.array(["a", "b"]),
        "names": np.array(["x"] * SHARED_BYTES),
        "camera_imgs": torch.zeros(2, 3),
        "batch_size": 2,
    }


def test_large_arrays_become_the_tensors_that_the_device_would_get():
    batch = batch_of_arrays()
    shared = share_large_arrays(batch)
    assert {key for key in batch if shared[key] is not batch[key]} == {
        "voxels",
        "voxel_coords",
        "gt_masks_bev",
    }
    for key, moved in to_device(batch, "cpu").items():
        if isinstance(moved, torch.Tensor):
            assert torch.equal(torch.as_tensor(shared[key]), moved), key
    assert shared["voxel_coords"].dtype == torch.float32
    assert shared["gt_masks_bev"].dtype == torch.bool


def test_what_was_shared_moves_like_what_was_not(device):
    plain = to_device(batch_of_arrays(), device)
    shared = to_device(share_large_arrays(batch_of_arrays()), device)
    for key, value in plain.items():
        if isinstance(value, torch.Tensor):
            assert shared[key].dtype == value.dtype
            assert shared[key].device.type == device.type
            assert torch.equal(shared[key], value), key

"""Batches of samples from any number of cameras, with the keys of the masks."""

from typing import Any

import numpy as np

from nsmae_plugin import host
from nsmae_plugin.errors import DataError


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """As the host's; ``depth_point_mask`` is concatenated like ``points``, and the rows of
    ``hidden_voxel_coords`` get the sample's number in front like those of ``voxel_coords``.

    Raises:
        DataError: samples with different numbers of cameras or image sizes.
    """
    _check_same_cameras(samples)
    own = {"depth_point_mask", "depth_hint_mask", "hidden_voxel_coords"} & set(samples[0])
    rest = [{k: v for k, v in sample.items() if k not in own} for sample in samples]
    batch = host.DatasetTemplate.collate_batch(rest)
    for key in own - {"hidden_voxel_coords"}:
        batch[key] = np.concatenate([one[key] for one in samples])
    if "hidden_voxel_coords" in own:
        batch["hidden_voxel_coords"] = np.concatenate(
            [
                np.pad(one["hidden_voxel_coords"], ((0, 0), (1, 0)), constant_values=number)
                for number, one in enumerate(samples)
            ]
        )
    return batch


def _check_same_cameras(samples: list[dict[str, Any]]) -> None:
    shapes = {
        str(sample["frame_id"]): [tuple(image.shape) for image in sample.get("camera_imgs", ())]
        for sample in samples
    }
    first = next(iter(shapes.values()))
    for frame, shape in shapes.items():
        if shape != first:
            raise DataError(
                f"frame {frame} has {len(shape)} images of shapes {sorted(set(shape))}, the first "
                f"of the batch has {len(first)} of {sorted(set(first))}; use a batch size of 1, or "
                "an info file with the same cameras in all frames"
            )

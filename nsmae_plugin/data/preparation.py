"""Augmentation, processing and collation of samples, alike on both hosts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nsmae_plugin import host
from nsmae_plugin.data import gt_sampling
from nsmae_plugin.errors import DataError
from nsmae_plugin.geometry.augmentation import DRAWN_KEYS, compose


class PreparedDataset(host.DatasetTemplate):
    """The host's template for samples with or without boxes, and augmentors in any order.

    Attributes:
        use_labels: samples have boxes; set before a sample is prepared, as is
        world_steps: names of the augmentors that move the world, in order.
    """

    use_labels: bool
    world_steps: list[str]

    def prepare_data(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """As the host's, but keeps frames without boxes if labels are not used."""
        if self.use_labels:
            gt_sampling.restart(self.data_augmentor)
            return super().prepare_data(data_dict)
        if self.training:
            # OpenPCDet's augmentors require boxes.
            none = {"gt_boxes": np.zeros((0, 9), np.float32), "gt_names": np.zeros(0, dtype=str)}
            data_dict = self.data_augmentor.forward({**data_dict, **none})
        data_dict = self.set_lidar_aug_matrix(data_dict)
        for key in ("gt_boxes", "gt_names"):
            data_dict.pop(key, None)
        return self.data_processor.forward(self.point_feature_encoder.forward(data_dict))

    def set_lidar_aug_matrix(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """``lidar_aug_matrix`` for any order of augmentors, and the flips in it.

        The built-in host gathers it while augmenting. OpenPCDet leaves what it drew, and its own
        formula is right for one order only.
        """
        drawn = {key: data_dict.pop(key) for key in DRAWN_KEYS if key in data_dict}
        data_dict["world_flips"] = tuple(bool(drawn.get(key)) for key in ("flip_x", "flip_y"))
        if "lidar_aug_matrix" not in data_dict:
            data_dict["lidar_aug_matrix"] = compose(self.world_steps, drawn)
        return data_dict

    @staticmethod
    def collate_batch(batch_list: list[dict[str, Any]], _unused: bool = False) -> dict[str, Any]:
        """As the host's; ``depth_point_mask`` is concatenated like ``points``, and the rows of
        ``hidden_voxel_coords`` get the sample's number in front like those of ``voxel_coords``.

        Raises:
            DataError: samples with different numbers of cameras or image sizes.
        """
        _check_same_cameras(batch_list)
        own = {"depth_point_mask", "depth_hint_mask", "hidden_voxel_coords"} & set(batch_list[0])
        rest = [{k: v for k, v in sample.items() if k not in own} for sample in batch_list]
        batch = host.DatasetTemplate.collate_batch(rest)
        for key in own - {"hidden_voxel_coords"}:
            batch[key] = np.concatenate([one[key] for one in batch_list])
        if "hidden_voxel_coords" in own:
            coords = (one["hidden_voxel_coords"] for one in batch_list)
            front = (0, 0), (1, 0)
            rows = [np.pad(one, front, constant_values=number) for number, one in enumerate(coords)]
            batch["hidden_voxel_coords"] = np.concatenate(rows)
        return batch


def load_boxes(info: Mapping[str, Any], dataset_cfg: Any) -> dict[str, np.ndarray]:
    """``gt_boxes`` (G, 7 or 9) and ``gt_names`` (G,) with ``FILTER_MIN_POINTS_IN_GT`` points."""
    least = dataset_cfg.get("FILTER_MIN_POINTS_IN_GT", False)
    kept = info["num_lidar_pts"] >= least if least else slice(None)
    # Copies: OpenPCDet's augmentors write into what they get.
    return {key: info[key][kept].copy() for key in ("gt_boxes", "gt_names")}


def finish_boxes(boxes: np.ndarray, dataset_cfg: Any) -> np.ndarray:
    """Prepared boxes (G, 8 or 10), the class last, with the velocities that are asked for."""
    if dataset_cfg.get("SET_NAN_VELOCITY_TO_ZEROS", False):
        boxes = boxes.copy()
        boxes[:, 7:-1] = np.nan_to_num(boxes[:, 7:-1], nan=0.0)
    if not dataset_cfg.get("PRED_VELOCITY", True):
        boxes = boxes[:, [0, 1, 2, 3, 4, 5, 6, -1]]
    return boxes


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

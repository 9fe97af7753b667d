"""Augmentation and processing of samples, alike on both hosts."""

from typing import Any

import numpy as np

from nsmae_plugin import host
from nsmae_plugin.data import gt_sampling
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
        """As the host's, but frames without boxes are kept where labels are not used."""
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
        formula is right for one order only; here the matrices are multiplied in the order of the
        configuration.
        """
        drawn = {key: data_dict.pop(key) for key in DRAWN_KEYS if key in data_dict}
        data_dict["world_flips"] = tuple(bool(drawn.get(key)) for key in ("flip_x", "flip_y"))
        if "lidar_aug_matrix" not in data_dict:
            data_dict["lidar_aug_matrix"] = compose(self.world_steps, drawn)
        return data_dict

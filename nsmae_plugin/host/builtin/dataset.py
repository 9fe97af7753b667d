"""Base class of datasets, with OpenPCDet's contract."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from nsmae_plugin.errors import DataError
from nsmae_plugin.host.builtin.augmentor import DataAugmentor
from nsmae_plugin.host.builtin.processor import DataProcessor, PointFeatureEncoder

_JOINED = ("voxels", "voxel_num_points")
_NUMBERED = ("points", "voxel_coords")
_LISTED = ("calib", "img_process_infos")


class DatasetTemplate(Dataset):
    """Augments, masks and voxelises what a subclass loads; collates samples into batches.

    Subclasses implement ``__len__`` and ``__getitem__``, which calls :meth:`prepare_data`.

    Args:
        dataset_cfg: the section ``DATA_CONFIG``.
        class_names: names of the labelled classes, class 1 first.
        root_path: folder of the data; None takes ``dataset_cfg.DATA_PATH``.
    """

    def __init__(
        self,
        dataset_cfg: Any = None,
        class_names: list[str] | None = None,
        training: bool = True,
        root_path: Path | None = None,
        logger: Any = None,
    ):
        super().__init__()
        self.dataset_cfg, self.class_names = dataset_cfg, class_names
        self.training, self.logger = training, logger
        self.root_path = Path(root_path if root_path is not None else dataset_cfg["DATA_PATH"])
        if dataset_cfg is None or class_names is None:
            return
        self.point_cloud_range = np.array(dataset_cfg["POINT_CLOUD_RANGE"], dtype=np.float32)
        self.point_feature_encoder = PointFeatureEncoder(
            dataset_cfg["POINT_FEATURE_ENCODING"], self.point_cloud_range
        )
        self.data_augmentor = None
        if training:
            self.data_augmentor = DataAugmentor(
                self.root_path, dataset_cfg.get("DATA_AUGMENTOR"), class_names, logger
            )
        self.data_processor = DataProcessor(
            dataset_cfg["DATA_PROCESSOR"],
            self.point_cloud_range,
            training,
            self.point_feature_encoder.num_point_features,
        )
        self.grid_size = self.data_processor.grid_size
        self.voxel_size = self.data_processor.voxel_size
        self.depth_downsample_factor = None

    @property
    def mode(self) -> str:
        return "train" if self.training else "test"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "logger"}

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must say how many samples it has")

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} must load a sample and prepare it")

    def prepare_data(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Augment (while training), attach ``lidar_aug_matrix``, encode and process one sample.

        Args:
            data_dict: ``points`` (P, source features), ``gt_boxes`` (G, 7 or 9), ``gt_names`` (G,),
                camera keys; all optional, boxes compulsory while training.

        Returns:
            A new dict. ``gt_boxes`` have the class index, from 1, as an additional last column; a
            training sample left without boxes is replaced by another one, as in OpenPCDet.
        """
        if self.training:
            assert self.data_augmentor is not None
            assert self.class_names is not None
            known = np.isin(data_dict["gt_names"], self.class_names)
            data_dict = self.data_augmentor.forward({**data_dict, "gt_boxes_mask": known})
        data_dict = self.set_lidar_aug_matrix(dict(data_dict))
        if data_dict.get("gt_boxes") is not None:
            data_dict["gt_boxes"] = self._classified_boxes(data_dict)
        if data_dict.get("points") is not None:
            data_dict = self.point_feature_encoder.forward(data_dict)
        data_dict = self.data_processor.forward(data_dict)
        if self.training and not len(data_dict["gt_boxes"]):
            return self[int(np.random.randint(len(self)))]  # noqa: NPY002 (seeded by the loader)
        data_dict.pop("gt_names", None)
        return data_dict

    def _classified_boxes(self, data_dict: dict[str, Any]) -> np.ndarray:
        assert self.class_names is not None
        names = data_dict["gt_names"]
        kept = np.isin(names, self.class_names)
        classes = [self.class_names.index(name) + 1 for name in names[kept]]
        column = np.array(classes, dtype=np.float32).reshape(-1, 1)
        return np.concatenate([data_dict["gt_boxes"][kept], column], axis=1)

    def set_lidar_aug_matrix(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """Identity (4, 4) where no augmentor has moved the LiDAR frame."""
        return {"lidar_aug_matrix": np.eye(4), **data_dict}

    @staticmethod
    def collate_batch(batch_list: list[dict[str, Any]], _unused: bool = False) -> dict[str, Any]:
        """Join samples.

        Voxels and points are concatenated, points and voxel coordinates with the sample's number
        in front; ``gt_boxes`` are padded with zeros; images become a tensor (B, N, 3, H, W);
        everything else is stacked.

        Raises:
            DataError: the samples do not fit together; names the key and the frames.
        """
        batch: dict[str, Any] = {"batch_size": len(batch_list)}
        for key in batch_list[0]:
            try:
                batch[key] = _collate(key, [sample[key] for sample in batch_list])
            except (KeyError, ValueError, RuntimeError) as error:
                frames = ", ".join(str(sample.get("frame_id")) for sample in batch_list)
                raise DataError(
                    f"the samples {frames} cannot share a batch: {key} differs ({error}); "
                    "use a batch size of 1"
                ) from error
        return batch


def _collate(key: str, values: list[Any]) -> Any:
    if key in _JOINED:
        return values[0] if len(values) == 1 else np.concatenate(values)
    if key in _NUMBERED:
        return number_rows(values)
    if key == "gt_boxes":
        return _pad(values)
    if key == "camera_imgs":
        return _stack_images(values)
    if key in _LISTED:
        return values
    return np.stack(values)


def _stack_images(values: list[Any]) -> torch.Tensor:
    """(B, N, 3, H, W) of tensors (N, 3, H, W), or of lists of (3, H, W); no copy of one sample."""
    samples = [one if isinstance(one, torch.Tensor) else torch.stack(one) for one in values]
    return samples[0][None] if len(samples) == 1 else torch.stack(samples)


def number_rows(values: list[np.ndarray]) -> np.ndarray:
    """Concatenate (n_i, C) arrays to (n, 1 + C), the position of the array in front."""
    width = 1 + values[0].shape[1]
    rows = np.empty((sum(map(len, values)), width), np.result_type(*values))
    start = 0
    for number, value in enumerate(values):
        target = torch.from_numpy(rows[start : start + len(value)])  # copies faster than NumPy
        target[:, 0], target[:, 1:] = number, torch.from_numpy(value)
        start += len(value)
    return rows


def _pad(boxes: list[np.ndarray]) -> np.ndarray:
    longest = max(len(one) for one in boxes)
    padded = np.zeros((len(boxes), longest, boxes[0].shape[-1]), dtype=np.float32)
    for sample, one in enumerate(boxes):
        padded[sample, : len(one)] = one
    return padded

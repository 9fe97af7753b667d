"""nuScenes with cameras and LiDAR, any number of cameras, with or without labels, on both hosts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin import host
from nsmae_plugin.data import black_pixels, gt_sampling, label_fraction, labelled
from nsmae_plugin.data.camera_views import load_views
from nsmae_plugin.data.frames import Needs, check_batches, read_frames
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.nuscenes_evaluation import NuScenesEvaluation
from nsmae_plugin.data.pipeline import check_pipeline, enabled_augmentors, find_step
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats import lidar_files
from nsmae_plugin.formats.maps.map_labels import MapLabels
from nsmae_plugin.geometry.world_augmentation import DRAWN_KEYS, STEPS, compose

LIDAR_KEYS = ("points", "voxels", "voxel_coords", "voxel_num_points", "use_lead_xyz")


class MultiModalNuScenesDataset(NuScenesEvaluation, host.DatasetTemplate):
    """Keyframes of nuScenes with the preceding LiDAR sweeps and all cameras.

    Configured by ``DATA_CONFIG`` as OpenPCDet's ``NuScenesDataset``, and by

    - ``USE_LABELS`` (False): without it no boxes are read, and no frame is left out for want of
      boxes; with it samples are those of OpenPCDet;
    - ``MAP_CONFIG``: the map around every sample is drawn as ``gt_masks_bev``, a label too;
    - ``LABEL_FRACTION`` (1): train on a part of the frames, every k-th or, with
      ``LABEL_FRACTION_BY: scenes``, whole scenes; ``LABEL_FRACTION_SEED`` (0) chooses which. The
      part is taken before ``BALANCED_RESAMPLING``;
    - ``USE_LIDAR`` (True): without it no point leaves the data set;
    - ``LIDAR_FILES`` (nuScenes'): ``COLUMNS`` and ``DTYPE`` of LiDAR files, see
      :class:`nsmae_plugin.formats.lidar_files.LidarFiles`;
    - ``CAMERA_CONFIG.USE_CAMERA``: without it no image is read.

    While training, sweeps, crops, augmentations and masks are drawn from NumPy's global state, that
    :mod:`nsmae_plugin.data.loader` seeds per sample. In test mode only masks are drawn; they depend
    on ``evaluation_seed`` and the index alone, whichever loader asks.

    Args:
        dataset_cfg: the section ``DATA_CONFIG``.
        class_names: names of the classes, class 1 first.
        training: augment, and read the split ``train``.
        root_path: folder of the versions; None takes ``dataset_cfg.DATA_PATH``.
        logger: None takes this module's.

    Its length is that of an epoch with all labels. With a part of them there are fewer frames,
    which then come round more than once.

    Attributes:
        infos: what is known of each frame.
        epoch_length: samples of an epoch.
        evaluation_seed: of the masks in test mode.

    Raises:
        ConfigError: settings that cannot work together.
        DataError: an info file or a map is missing, empty or of another layout.
    """

    def __init__(
        self,
        dataset_cfg: Any,
        class_names: list[str],
        training: bool = True,
        root_path: Path | str | None = None,
        logger: logging.Logger | None = None,
    ):
        root = Path(dataset_cfg.DATA_PATH if root_path is None else root_path)
        self.evaluation_seed = 0
        self.use_labels = dataset_cfg.get("USE_LABELS", False)
        self.use_lidar = dataset_cfg.get("USE_LIDAR", True)
        self.lidar_files = lidar_files.LidarFiles.from_config(dataset_cfg.get("LIDAR_FILES"))
        self.camera_config = dataset_cfg.get("CAMERA_CONFIG")
        self.use_camera = bool(self.camera_config) and self.camera_config.get("USE_CAMERA", True)
        label_fraction.settings(dataset_cfg)  # refuses bad settings before anything is read
        dataset_cfg = check_pipeline(dataset_cfg, training, self.use_camera, self.use_lidar)
        if training and host.NAME == "openpcdet":
            gt_sampling.check_databases(dataset_cfg, root / dataset_cfg.VERSION, class_names)
        super().__init__(
            dataset_cfg=dataset_cfg,
            class_names=class_names,
            training=training,
            root_path=root / dataset_cfg.VERSION,
            logger=logger or logging.getLogger(__name__),
        )
        augmentors = enabled_augmentors(dataset_cfg)
        self.world_steps = [name for name in augmentors if name in STEPS]
        self.normalization = find_step(dataset_cfg, "image_normalize")
        self.infos = self._read_infos()
        self.epoch_length = len(self.infos)
        if training:
            self.infos, self.epoch_length = labelled.training_frames(
                self.infos,
                dataset_cfg,
                class_names,
                self.root_path,
                self.data_augmentor,
                self.logger,
            )
        self.map_labels = self._map_labels()
        if self.use_camera:
            settings, turned = self.camera_config.IMAGE, "imgaug" in augmentors
            black_pixels.tell(
                self.root_path, self.infos[0], settings, training, turned, self.logger
            )

    @property
    def needs(self) -> Needs:
        """The files of a frame that will be read."""
        return Needs(
            lidar=self.use_lidar,
            cameras=self.use_camera,
            labels=self.use_labels,
            training=self.training,
            max_sweeps=self.dataset_cfg.MAX_SWEEPS if self.use_lidar else 1,
        )

    def check_batches(self, batch_size: int) -> None:
        """Refuse batches of frames with different cameras, before the first is loaded."""
        if self.use_camera:
            check_batches(self.infos, batch_size)

    def _read_infos(self) -> list[dict[str, Any]]:
        paths = [self.root_path / name for name in self.dataset_cfg.INFO_PATH[self.mode]]
        frames = read_frames(paths, self.root_path, self.needs)
        names = ", ".join(map(str, paths))
        self.logger.info("%s: %d samples from %s", type(self).__name__, len(frames), names)
        return frames

    def _map_labels(self) -> MapLabels | None:
        section = self.dataset_cfg.get("MAP_CONFIG")
        if section is None:
            return None
        return MapLabels(section, self.infos, self.root_path, self.dataset_cfg.VERSION)

    def __len__(self) -> int:
        """Samples of an epoch, or of all if OpenPCDet's training script runs them as one."""
        merged = getattr(self, "_merge_all_iters_to_one_epoch", False)
        return self.epoch_length * (self.total_epochs if merged else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, not yet collated.

        Raises:
            DataError: a file of the sample is missing or damaged, no point lies in the range, or,
                while training with labels, no sample has a box there.
        """
        if self.training:
            return self._sample(index)
        with seeded(self.evaluation_seed, 0, index, 0):  # the draw of our loader
            return self._sample(index)

    def _sample(self, index: int) -> dict[str, Any]:
        info = self.infos[index % len(self.infos)]
        sample = {
            "points": self._points(info),
            "frame_id": Path(info["lidar_path"]).stem,
            "metadata": {"token": info["token"]},
        }
        if self.use_camera:
            sample |= load_views(self.root_path, info, self.camera_config.IMAGE, self.training)
        if self.use_labels and "gt_boxes" in info:
            sample |= self._boxes(info)
        try:
            prepared = self.prepare_data(sample)
        except RecursionError:  # both hosts take another sample in place of one without boxes
            raise DataError(
                f"hundreds of samples without a box of {', '.join(self.class_names)} in "
                f"POINT_CLOUD_RANGE {list(self.dataset_cfg.POINT_CLOUD_RANGE)}; check both, "
                "FILTER_MIN_POINTS_IN_GT and LABEL_FRACTION"
            ) from None
        return self._finish(prepared, info)

    def _points(self, info: dict[str, Any]) -> np.ndarray:
        """(P, 5) x, y, z [m, LiDAR frame], intensity, time lag [s]."""
        if not self.use_lidar:
            return np.zeros((0, 5), dtype=np.float32)
        wanted = self.dataset_cfg.MAX_SWEEPS - 1
        chosen: Sequence[int] = range(wanted)
        if self.training:
            count = len(info["sweeps"])
            chosen = np.random.choice(count, wanted, replace=False)  # noqa: NPY002 (loader seeds)
        cloud = lidar_files.read_frame(self.root_path, info, chosen, self.lidar_files)
        # OpenPCDet's voxels, and what detectors make of its points, need contiguous rows.
        return np.ascontiguousarray(cloud) if host.NAME == "openpcdet" else cloud

    def _boxes(self, info: dict[str, Any]) -> dict[str, Any]:
        least = self.dataset_cfg.get("FILTER_MIN_POINTS_IN_GT", False)
        kept = info["num_lidar_pts"] >= least if least else slice(None)
        # Copies: OpenPCDet's augmentors write into what they get.
        return {
            "gt_boxes": info["gt_boxes"][kept].copy(),
            "gt_names": info["gt_names"][kept].copy(),
        }

    def prepare_data(self, data_dict: dict[str, Any]) -> dict[str, Any]:
        """As the host's, but frames without boxes are kept where labels are not used."""
        if self.use_labels:
            gt_sampling.restart(self.data_augmentor)
            return super().prepare_data(data_dict)
        if self.training:
            # OpenPCDet's augmentors insist on boxes.
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

    def _finish(self, sample: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
        sample.pop("img_process_infos", None)  # lives on in img_aug_matrix
        if not self.use_lidar:
            for key in LIDAR_KEYS:
                sample.pop(key, None)
        elif "voxels" in sample and not len(sample["voxels"]):
            raise DataError(
                f"no LiDAR point of sample {info['token']} ({info['lidar_path']}) lies in "
                f"POINT_CLOUD_RANGE {list(self.dataset_cfg.POINT_CLOUD_RANGE)}; check the "
                "range, and that the file holds metres"
            )
        if self.normalization:
            for name in ("mean", "std"):
                sample[f"image_{name}"] = np.array(self.normalization[name], dtype=np.float32)
        if "gt_boxes" in sample:
            sample["gt_boxes"] = self._finish_boxes(sample["gt_boxes"])
        flips = sample.pop("world_flips", None)
        if self.map_labels and "gt_masks_bev" not in sample:  # else another sample stands in
            sample["gt_masks_bev"] = self.map_labels.masks(info, sample["lidar_aug_matrix"], flips)
        return sample

    def _finish_boxes(self, boxes: np.ndarray) -> np.ndarray:
        if self.dataset_cfg.get("SET_NAN_VELOCITY_TO_ZEROS", False):
            boxes = boxes.copy()
            boxes[:, 7:-1] = np.nan_to_num(boxes[:, 7:-1], nan=0.0)
        if not self.dataset_cfg.get("PRED_VELOCITY", True):
            boxes = boxes[:, [0, 1, 2, 3, 4, 5, 6, -1]]
        return boxes

    @staticmethod
    def collate_batch(batch_list: list[dict[str, Any]], _unused: bool = False) -> dict[str, Any]:
        """As the host's; ``depth_hint_mask`` is concatenated like ``points``, and the rows of
        ``hidden_voxel_coords`` get the sample's number in front like those of ``voxel_coords``.

        Raises:
            DataError: samples with different numbers of cameras or image sizes.
        """
        _check_same_cameras(batch_list)
        own = {"depth_hint_mask", "hidden_voxel_coords"} & set(batch_list[0])
        rest = [{k: v for k, v in sample.items() if k not in own} for sample in batch_list]
        batch = host.DatasetTemplate.collate_batch(rest)
        if "depth_hint_mask" in own:
            batch["depth_hint_mask"] = np.concatenate(
                [one["depth_hint_mask"] for one in batch_list]
            )
        if "hidden_voxel_coords" in own:
            batch["hidden_voxel_coords"] = np.concatenate(
                [
                    np.pad(one["hidden_voxel_coords"], ((0, 0), (1, 0)), constant_values=number)
                    for number, one in enumerate(batch_list)
                ]
            )
        return batch


def _check_same_cameras(batch_list: list[dict[str, Any]]) -> None:
    shapes = {
        str(sample["frame_id"]): [tuple(image.shape) for image in sample.get("camera_imgs", ())]
        for sample in batch_list
    }
    first = next(iter(shapes.values()))
    for frame, shape in shapes.items():
        if shape != first:
            raise DataError(
                f"frame {frame} has {len(shape)} images of shapes {sorted(set(shape))}, the first "
                f"of the batch has {len(first)} of {sorted(set(first))}; use a batch size of 1, or "
                "an info file with the same cameras in all frames"
            )

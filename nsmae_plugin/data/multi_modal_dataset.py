"""Frames with cameras and LiDAR, with or without labels: the base of datasets on both hosts."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nsmae_plugin.data.camera_views import load_views, report_black_pixels
from nsmae_plugin.data.data_config import MultiModalData
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.data.pipeline import check_pipeline, enabled_augmentors, find_step
from nsmae_plugin.data.preparation import PreparedDataset, finish_boxes, load_boxes
from nsmae_plugin.data.scoring import Benchmark, Scoring
from nsmae_plugin.data.timeline import Timeline
from nsmae_plugin.data.training_frames import evaluation_frames, training_frames
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.formats import lidar_files
from nsmae_plugin.formats.frames import Frame, check_frames
from nsmae_plugin.formats.info_checks import Needs
from nsmae_plugin.formats.info_numbers import cameras_problem
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.lidar_layout import LidarFiles
from nsmae_plugin.geometry.augmentation import STEPS
from nsmae_plugin.geometry.boxes import lidar_to_global

LIDAR_KEYS = ("points", "voxels", "voxel_coords", "voxel_num_points", "use_lead_xyz")


class MultiModalDataset(PreparedDataset):
    """Frames, each with any number of cameras, a LiDAR cloud and the sweeps before it.

    A frame is a dict in the layout of OpenPCDet's nuScenes info files (docs/DATA.md lists its
    keys). Another dataset overrides what differs: :meth:`read_frames`, and perhaps
    :meth:`data_folder`, :meth:`read_points`, :meth:`scenes`, :meth:`make_benchmark` and
    :meth:`draw_map`. :class:`~nsmae_plugin.data.data_config.MultiModalData` describes DATA_CONFIG.

    With ``USE_LABELS`` samples are those of OpenPCDet; without, no boxes are read, and frames
    without boxes are kept. The length is that of an epoch with all labels: with a part of them
    there are fewer frames, each of which is drawn more than once.

    While training, sweeps, crops, augmentations and masks are drawn from NumPy's global state,
    which :mod:`nsmae_plugin.data.loader` seeds per sample. In test mode only masks are drawn; they
    depend on ``evaluation_seed`` and the index alone, whichever loader asks.

    Args:
        dataset_cfg: the section ``DATA_CONFIG``.
        class_names: names of the classes, class 1 first.
        training: augment, and read the split ``train``.
        root_path: folder of the data; None takes ``dataset_cfg.DATA_PATH``.
        logger: None takes this module's.

    Attributes:
        infos: the frames that are drawn from.
        frames: all frames of the split.
        epoch_length: samples of an epoch.
        evaluation_seed: of the masks in test mode.
        scoring: scores predictions.

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
        settings = self.Config.of(dataset_cfg, "DATA_CONFIG")
        self.evaluation_seed = 0
        self.use_labels, self.use_lidar = settings.USE_LABELS, settings.USE_LIDAR
        self.use_camera, self.image_settings = settings.use_camera, settings.image
        self.max_sweeps = settings.MAX_SWEEPS if self.use_lidar else 1
        self.lidar_files = settings.LIDAR_FILES or LidarFiles()
        root = Path(dataset_cfg.DATA_PATH if root_path is None else root_path)
        root = self.data_folder(root, dataset_cfg)
        dataset_cfg = check_pipeline(dataset_cfg, settings, training, root, class_names)
        logger = logger or logging.getLogger(__name__)
        super().__init__(dataset_cfg, class_names, training, root, logger)
        augmentors = enabled_augmentors(dataset_cfg)
        self.world_steps = [name for name in augmentors if name in STEPS]
        self.normalization = find_step(dataset_cfg, "image_normalize")
        self.frames = self.infos = self._load_frames()
        if training:
            self.infos, self.epoch_length = training_frames(
                self.frames, settings, class_names, self.scenes, self.data_augmentor, logger
            )
        else:
            self.infos = evaluation_frames(self.frames, settings, self.scenes)
            self.epoch_length = len(self.infos)
        map_config, benchmark = dataset_cfg.get("MAP_CONFIG"), self.make_benchmark()
        self.scoring = Scoring(type(self).__name__, map_config, benchmark)
        if self.use_camera:
            turned = training and "imgaug" in augmentors
            report_black_pixels(root, self.infos[0], settings.image, training, turned, logger)

    # Methods that other datasets override.

    Config: ClassVar[type[MultiModalData]] = MultiModalData  # describes DATA_CONFIG
    remedy = "correct it, or the code that reads it"  # of an incomplete frame, for messages

    def data_folder(self, root: Path, dataset_cfg: Any) -> Path:
        """The folder of relative paths in frames; ``root`` is ``DATA_PATH``."""
        return root

    def read_frames(self) -> dict[str, list[Frame]]:
        """The frames of :attr:`split`, by the source that messages name; checked afterwards.

        Here those of the info files ``INFO_PATH[mode]``.
        """
        if not self.dataset_cfg.get("INFO_PATH"):
            raise ConfigError(
                f"DATA_CONFIG.INFO_PATH must name the info files of {type(self).__name__}"
            )
        paths = [self.root_path / name for name in self.dataset_cfg.INFO_PATH[self.mode]]
        return {f"the info file {path}": read_infos(path) for path in paths}

    def read_points(self, path: Path, token: str) -> np.ndarray:
        """(P, 4) float32 x, y, z [m, LiDAR frame], intensity of a LiDAR file, here in the layout
        ``LIDAR_FILES``; ``token`` of the frame that asks for it, for messages."""
        return lidar_files.read_points(path, token, self.lidar_files)

    def scenes(self) -> Mapping[str, str]:
        """Token of every frame → name of its scene, here the frame's ``scene``.

        Raises:
            DataError: a frame has no scene.
        """
        unknown = [info["token"] for info in self.frames if "scene" not in info]
        if unknown:
            raise DataError(f"{type(self).__name__}: frame {unknown[0]} has no entry 'scene'")
        return {info["token"]: info["scene"] for info in self.frames}

    def make_benchmark(self) -> Benchmark | None:
        """The benchmark that scores predicted boxes; None if there is none."""
        return None

    def draw_map(
        self, info: Frame, augmentation: np.ndarray, flips: tuple[bool, bool] | None
    ) -> np.ndarray | None:
        """``gt_masks_bev`` of a frame (C, Y, X) bool; None where there is no map.

        Args:
            augmentation: (4, 4) ``lidar_aug_matrix``. flips: whether it mirrors along x and along
                y; None if unknown.
        """
        return None

    # Frames.

    @property
    def split(self) -> str:
        """Name of the split that is read, ``DATA_SPLIT[mode]``."""
        return self.dataset_cfg.DATA_SPLIT[self.mode]

    def _load_frames(self) -> list[Frame]:
        found = self.read_frames()
        needs = Needs(
            lidar=self.use_lidar,
            cameras=self.use_camera,
            labels=self.use_labels,
            training=self.training,
            max_sweeps=self.max_sweeps,
        )
        for source, frames in found.items():
            check_frames(frames, source, self.root_path, needs, self.remedy)
        frames = [info for part in found.values() for info in part]
        names = ", ".join(found)
        if not frames:
            raise DataError(f"no sample in {names}; no scene of the database is in this split")
        self.logger.info("%s: %d samples from %s", type(self).__name__, len(frames), names)
        return frames

    def pose(self, info: Frame) -> np.ndarray:
        """(4, 4) float64 from the LiDAR frame of ``info``, without augmentation, to the global one.

        Raises:
            DataError: the frame has no pose.
        """
        matrix = lidar_to_global(info)
        if matrix is None:
            raise DataError(
                f"frame {info['token']} has no pose: ref_from_car and car_from_global are missing"
            )
        return matrix

    @cached_property
    def timeline(self) -> Timeline:
        """The order of all frames of the split in their scenes."""
        return Timeline(self.frames, self.scenes())

    def check_batches(self, batch_size: int) -> None:
        """Refuse batches of frames with different cameras, before the first is loaded.

        Raises:
            DataError: naming a frame that lacks a camera.
        """
        if problem := self.use_camera and batch_size > 1 and cameras_problem(self.infos):
            raise DataError(
                f"{problem}, and a batch of {batch_size} samples needs the same in all: use a "
                "batch size of 1, leave the sample out, or make the info file without that camera"
            )

    # Samples.

    def __len__(self) -> int:
        """Samples of an epoch, or of all epochs if OpenPCDet's script merges them."""
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
            "points": self.load_points(info),
            "frame_id": Path(info.get("lidar_path") or info["token"]).stem,
            "metadata": {"token": info["token"]},
        }
        if self.use_camera:
            sample |= load_views(self.root_path, info, self.image_settings, self.training)
        if self.use_labels and "gt_boxes" in info:
            sample |= load_boxes(info, self.dataset_cfg)
        try:
            prepared = self.prepare_data(sample)
        except RecursionError:  # both hosts replace a sample without boxes by another one
            raise DataError(
                f"hundreds of samples without a box of {', '.join(self.class_names)} in "
                f"POINT_CLOUD_RANGE {list(self.dataset_cfg.POINT_CLOUD_RANGE)}; check both, "
                "FILTER_MIN_POINTS_IN_GT and LABEL_FRACTION"
            ) from None
        return self._finish(prepared, info)

    def load_points(self, info: Frame) -> np.ndarray:
        """(P, 5) x, y, z [m, LiDAR frame], intensity, time lag [s]."""
        if not self.use_lidar:
            return np.zeros((0, 5), dtype=np.float32)
        wanted = self.max_sweeps - 1
        chosen: Sequence[int] = range(wanted)
        if self.training:
            count = len(info.get("sweeps", ()))
            drawn = np.random.choice(count, wanted, replace=False)  # noqa: NPY002 (loader seeds)
            chosen = drawn.tolist()
        return lidar_files.read_frame(self.root_path, info, chosen, self.read_points)

    def _finish(self, sample: dict[str, Any], info: Frame) -> dict[str, Any]:
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
            sample["gt_boxes"] = finish_boxes(sample["gt_boxes"], self.dataset_cfg)
        flips = sample.pop("world_flips", None)
        if "gt_masks_bev" not in sample:  # else another sample stands in
            masks = self.draw_map(info, sample["lidar_aug_matrix"], flips)
            sample |= {} if masks is None else {"gt_masks_bev": masks}
        return sample

    # OpenPCDet's contract of evaluation.

    def generate_prediction_dicts(
        self,
        batch_dict: Mapping[str, Any],
        pred_dicts: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        output_path: Path | None = None,
    ) -> list[dict[str, Any]]:
        """See :meth:`nsmae_plugin.data.scoring.Scoring.annotate`."""
        return self.scoring.annotate(batch_dict, pred_dicts, class_names, output_path)

    def evaluation(
        self, det_annos: Sequence[Mapping[str, Any]], class_names: Sequence[str], **kwargs: Any
    ) -> tuple[str, dict[str, float]]:
        """See :meth:`nsmae_plugin.data.scoring.Scoring.score`; files go to ``output_path``."""
        folder = Path(kwargs["output_path"])
        return self.scoring.score(det_annos, self.infos, class_names, folder)

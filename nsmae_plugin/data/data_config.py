"""The section DATA_CONFIG of the plugin's datasets and of OpenPCDet's NuScenesDataset.

Sections of the masks are here as well; those of OpenPCDet's augmentors and processors are in
:mod:`nsmae_plugin.config.data_steps`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nsmae_plugin.config.data_steps import Step
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.sections import InSlot
from nsmae_plugin.config.values import (
    ABSENT,
    BelowOne,
    Fraction,
    NonNegativeInt,
    PointCloudRange,
    PositiveInt,
    PositiveRange,
    Ratio,
    Size,
)
from nsmae_plugin.formats.lidar_layout import LidarFiles
from nsmae_plugin.formats.maps.map_classes import MapConfig

POINT_FEATURES = ["x", "y", "z", "intensity", "timestamp"]

#: Keys that OpenPCDet's NuScenesDataset does not read -> what it does.
OWN_KEYS = {
    "USE_LABELS": True,
    "USE_LIDAR": True,
    "LABEL_FRACTION": 1.0,
    "LABEL_FRACTION_BY": "frames",
    "LABEL_FRACTION_SEED": 0,
    "VALIDATION_FRACTION": 0.0,
    "VALIDATION_SEED": 0,
    "EVALUATE_VALIDATION": False,
    "MAP_CONFIG": None,
    "LIDAR_FILES": None,
}


class PatchMask(Step):
    """``mask_image_patches``: square patches of so many pixels."""

    PATCH_SIZE: PositiveInt
    RATIO: Ratio


class VoxelMask(Step):
    """``mask_voxels``; some voxel must be left to the LiDAR backbone."""

    RATIO: BelowOne


class DepthMask(Step):
    """``mask_depth_points``."""

    RATIO: Ratio


class Splits(Section):
    """Names of the splits for training and evaluation."""

    train: str
    test: str


class InfoFiles(Section):
    """Info files for training and evaluation."""

    train: list[str]
    test: list[str]


class Images(Section):
    """Size of the network's images, and the scales of the camera's images before the crop."""

    FINAL_DIM: Size
    RESIZE_LIM_TRAIN: PositiveRange
    RESIZE_LIM_TEST: PositiveRange


class Cameras(Section):
    """``CAMERA_CONFIG``."""

    USE_CAMERA: bool = True
    IMAGE: Images = ABSENT

    @model_validator(mode="after")
    def _check(self) -> Cameras:
        if self.USE_CAMERA and self.IMAGE is ABSENT:
            raise ValueError("USE_CAMERA True needs the key IMAGE")
        return self


class Augmentors(Section):
    """``DATA_AUGMENTOR``."""

    DISABLE_AUG_LIST: list[str] = Field(default=[])
    AUG_CONFIG_LIST: list[Annotated[Any, InSlot("augmentor")]]


class PointFeatures(Section):
    """``POINT_FEATURE_ENCODING``: which numbers of a point the network gets."""

    encoding_type: Literal["absolute_coordinates_encoding"]
    used_feature_list: list[str]
    src_feature_list: list[str]

    @model_validator(mode="after")
    def _check(self) -> PointFeatures:
        source, used = self.src_feature_list, self.used_feature_list
        if source != POINT_FEATURES:
            raise ValueError(f"src_feature_list must be {POINT_FEATURES}, which a point has")
        missing = sorted(set(used) - set(source))
        if missing:
            raise ValueError(
                f"used_feature_list names {missing}, which are not in src_feature_list"
            )
        if used[:3] != source[:3] or len(set(used)) < len(used):
            raise ValueError("used_feature_list must begin with x, y, z, and name each once")
        return self


class MultiModalData(Section):
    """Frames with cameras, sweeps and poses; labels if any.

    ``VERSION`` and ``INFO_PATH`` come along with nuScenes' configurations as bases; a dataset that
    needs them requires them.
    """

    DATASET: str
    DATA_PATH: str
    VERSION: str = ""
    MAX_SWEEPS: PositiveInt = 1
    PRED_VELOCITY: bool = False
    SET_NAN_VELOCITY_TO_ZEROS: bool = False
    FILTER_MIN_POINTS_IN_GT: NonNegativeInt | bool = False
    USE_LABELS: bool = False
    USE_LIDAR: bool = True
    LIDAR_FILES: LidarFiles | None = None
    DATA_SPLIT: Splits
    INFO_PATH: InfoFiles | None = None
    POINT_CLOUD_RANGE: PointCloudRange
    BALANCED_RESAMPLING: bool = False
    LABEL_FRACTION: Fraction = 1.0
    LABEL_FRACTION_BY: Literal["frames", "scenes"] = "frames"
    LABEL_FRACTION_SEED: NonNegativeInt = 0
    VALIDATION_FRACTION: BelowOne = 0.0
    VALIDATION_SEED: NonNegativeInt = 0
    EVALUATE_VALIDATION: bool = False
    MAP_CONFIG: MapConfig | None = None
    CAMERA_CONFIG: Cameras | None = None
    DATA_AUGMENTOR: Augmentors | None = None
    POINT_FEATURE_ENCODING: PointFeatures
    DATA_PROCESSOR: list[Annotated[Any, InSlot("processor")]]

    @property
    def use_camera(self) -> bool:
        """True if images are read."""
        return self.CAMERA_CONFIG is not None and self.CAMERA_CONFIG.USE_CAMERA

    @property
    def image(self) -> Images | None:
        """``CAMERA_CONFIG.IMAGE``."""
        return self.CAMERA_CONFIG.IMAGE if self.CAMERA_CONFIG else None

    @model_validator(mode="after")
    def _check_labels(self) -> MultiModalData:
        if self.LABEL_FRACTION < 1 and not (self.USE_LABELS or self.MAP_CONFIG):
            raise ValueError(
                f"LABEL_FRACTION {self.LABEL_FRACTION:g} needs USE_LABELS True or MAP_CONFIG; "
                "training without labels uses every frame"
            )
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> MultiModalData:
        if self.EVALUATE_VALIDATION and not self.VALIDATION_FRACTION:
            raise ValueError("there is no validation part: VALIDATION_FRACTION is 0")
        return self


class NuScenesData(MultiModalData):
    """Data in nuScenes' layout."""

    VERSION: str
    MAX_SWEEPS: PositiveInt
    INFO_PATH: InfoFiles


class OpenPCDetNuScenes(NuScenesData):
    """OpenPCDet's NuScenesDataset, which does not read all of these keys."""

    @model_validator(mode="after")
    def _check_own_keys(self) -> OpenPCDetNuScenes:
        given = {key: getattr(self, key) for key in OWN_KEYS if key in self.model_fields_set}
        ignored = [key for key, value in given.items() if value != OWN_KEYS[key]]
        if ignored:
            raise ValueError(
                f"OpenPCDet's NuScenesDataset ignores {', '.join(ignored)}: set DATASET to "
                "MultiModalNuScenesDataset"
            )
        return self

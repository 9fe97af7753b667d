"""Sections of the augmentors and processors that both hosts have, under OpenPCDet's names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import (
    ABSENT,
    NonNegativeTriple,
    Pair,
    PositiveFloat,
    PositiveInt,
    PositiveRange,
    PositiveTriple,
    Range,
    Ratio,
    Triple,
    Words,
)

#: ``car:5``
ClassCount = Annotated[
    str,
    StringConstraints(pattern=r"^\w+ *: *\d{1,9}$"),
    Words("a class and a number such as car:5", "classes and numbers such as car:5"),
]


class Step(Section):
    """An augmentor or a processor without settings."""

    NAME: str


class WorldFlip(Step):
    """Flip the scene along these axes."""

    ALONG_AXIS_LIST: list[Literal["x", "y"]]


class WorldRotation(Step):
    """Rotate the scene about z: [min, max] or ± one angle; radians."""

    WORLD_ROT_ANGLE: Range | PositiveFloat


class WorldScaling(Step):
    """Scale the scene by a factor from this range."""

    WORLD_SCALE_RANGE: PositiveRange


class WorldTranslation(Step):
    """Translate the scene by Gaussian noise; standard deviations along x, y, z in metres."""

    NOISE_TRANSLATE_STD: NonNegativeTriple


class ImageAugmentation(Step):
    """Rotate images by an angle from this range (degrees), and flip them."""

    ROT_LIM: Range
    RAND_FLIP: bool


class GroundTruthFilters(Section):
    """Filters of the objects of a database."""

    filter_by_min_points: list[ClassCount] = Field(default=[])
    filter_by_difficulty: list[int] = Field(default=[])


class GroundTruthSampling(Step):
    """Paste objects of other frames."""

    DB_INFO_PATH: list[str]
    PREPARE: GroundTruthFilters
    SAMPLE_GROUPS: list[ClassCount]
    NUM_POINT_FEATURES: PositiveInt
    REMOVE_EXTRA_WIDTH: NonNegativeTriple
    LIMIT_WHOLE_SCENE: bool = False
    FILTER_OBJ_POINTS_BY_TIMESTAMP: bool = False
    TIME_RANGE: Pair = ABSENT
    USE_ROAD_PLANE: bool = False
    DATABASE_WITH_FAKELIDAR: bool = False
    IMG_AUG_TYPE: str | None = None
    IMG_AUG_IOU_THRESH: Ratio = ABSENT
    USE_SHARED_MEMORY: bool = False
    DB_DATA_PATH: list[str] = ABSENT
    BACKUP_DB_INFO: Any = None


class RangeMask(Step):
    """Drop points, and while training boxes, outside POINT_CLOUD_RANGE."""

    REMOVE_OUTSIDE_BOXES: bool
    min_num_corners: PositiveInt = 1
    USE_CENTER_TO_FILTER: bool = True


class ShufflePerMode(Section):
    """Shuffle the points in training and in evaluation."""

    train: bool
    test: bool


class Shuffle(Step):
    """Shuffle the points."""

    SHUFFLE_ENABLED: ShufflePerMode


class VoxelsPerMode(Section):
    """Maximum number of voxels of a sample in training and in evaluation."""

    train: PositiveInt
    test: PositiveInt


class Voxels(Step):
    """Group points into voxels; edge lengths along x, y, z in metres."""

    VOXEL_SIZE: PositiveTriple
    MAX_POINTS_PER_VOXEL: PositiveInt
    MAX_NUMBER_OF_VOXELS: VoxelsPerMode
    DOUBLE_FLIP: bool = False


class VoxelGrid(Step):
    """Set the grid of the voxels and leave the points to the network."""

    VOXEL_SIZE: PositiveTriple


class ImageNormalization(Step):
    """Subtract the mean of every channel and divide by its standard deviation."""

    mean: Triple
    std: PositiveTriple

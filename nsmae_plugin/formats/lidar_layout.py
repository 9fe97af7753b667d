"""The layout of LiDAR files: the section ``DATA_CONFIG.LIDAR_FILES``."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import Words

DType = Literal["float32", "float64"]
DTYPES = get_args(DType)
NUSCENES_COLUMNS = ["x", "y", "z", "intensity", "ring"]


def _each_once(columns: list[str]) -> list[str]:
    if not set("xyz") <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError("cannot be points")
    return columns


Columns = Annotated[
    list[str],
    AfterValidator(_each_once),
    Words(
        "a list that names x, y, z and the other columns of a LiDAR file in their order, each "
        f"once, such as [{', '.join(NUSCENES_COLUMNS)}]"
    ),
]


class LidarFiles(Section):
    """Points in rows, without a header; nuScenes' by default.

    Attributes:
        COLUMNS: names of a row's numbers; x, y, z in metres, and of the others ``intensity`` is
            used (0 without it), and ``ring`` must hold whole numbers.
        DTYPE: of every number.
    """

    COLUMNS: Columns = Field(default=NUSCENES_COLUMNS)
    DTYPE: DType = "float32"

    def __str__(self) -> str:
        return f"{len(self.COLUMNS)} columns of {self.DTYPE} ({', '.join(self.COLUMNS)})"


NUSCENES = LidarFiles()

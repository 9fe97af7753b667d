"""Labels of map segmentation: what of each sample's surroundings belongs to which class.

Drawn anew for every sample, in the pose that its augmentation gives the world, because a raster
that is drawn once and turned later is not exact. It costs little: see
:mod:`nsmae_plugin.data.maps.raster`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.data.maps.classes import map_classes
from nsmae_plugin.data.maps.grid import MapGrid
from nsmae_plugin.data.maps.raster import rasterise
from nsmae_plugin.data.maps.vector_map import load_map
from nsmae_plugin.data.scenes import locations_of_samples
from nsmae_plugin.errors import ConfigError, DataError


class MapLabels:
    """Draws the map around samples.

    Maps are read here, each once, and only of locations where there are samples. What is kept are
    arrays, which forked workers share.

    Args:
        map_cfg: the section ``MAP_CONFIG``.
        infos: the samples that will be asked for.
        root: folder that holds ``maps/`` and the folder ``version`` of tables.

    Attributes:
        grid: the cells.
        classes: the channels, in order.

    Raises:
        ConfigError: classes or bounds that mean nothing.
        DataError: a map is missing or damaged, or nobody knows where a sample was taken.
    """

    def __init__(
        self, map_cfg: Mapping[str, Any], infos: Sequence[dict[str, Any]], root: Path, version: str
    ):
        self.grid, self.classes = MapGrid.from_config(map_cfg), map_classes(map_cfg)
        width = float(map_cfg["LINE_WIDTH"])
        if not width > 0:
            raise ConfigError(f"MAP_CONFIG.LINE_WIDTH must be positive metres, not {width:g}")
        known = locations_of_samples(root, version)
        self._location = {info["token"]: known.get(info["token"], "") for info in infos}
        unknown = [token for token, location in self._location.items() if not location]
        if unknown:
            raise DataError(
                f"the tables in {root / version} do not say where sample {unknown[0]} was taken "
                f"({len(unknown)} such samples); info files and tables must be of the same database"
            )
        self._maps = {
            location: load_map(root, location, self.classes, width)
            for location in sorted(set(self._location.values()))
        }

    def masks(self, info: Mapping[str, Any], augmentation: np.ndarray) -> np.ndarray:
        """(C, Y, X) bool: the cells whose centre lies in an area of the class.

        Args:
            info: a sample of ``infos``.
            augmentation: (4, 4) from its LiDAR frame to the augmented one, in which the grid lies.

        Raises:
            DataError: the info does not say where the car was.
        """
        to_grid = ground_to_lidar(info, augmentation)
        low, high = self._surroundings(to_grid)
        rings = self._maps[self._location[info["token"]]].near(low, high)
        return rasterise(rings, to_grid, self.grid, len(self.classes))

    def _surroundings(self, to_grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest x, y (2,) of the grid's corners in the global frame."""
        (a, b, x), (c, d, y) = to_grid
        corners = np.array(
            [[u - x, v - y] for u in self.grid.x_bound[:2] for v in self.grid.y_bound[:2]]
        )
        # By hand: LAPACK's threads take milliseconds where the cores are busy with workers.
        corners = corners @ np.array([[d, -c], [-b, a]]) / (a * d - b * c)
        return corners.min(axis=0), corners.max(axis=0)


def ground_to_lidar(info: Mapping[str, Any], augmentation: np.ndarray) -> np.ndarray:
    """(2, 3) from x, y of the global frame to x, y of the augmented LiDAR frame, in metres.

    nuScenes' maps are flat. Their points are taken to lie as high as the wheels of the car (the
    origin of its frame); that the road rises or falls around it is neglected, that the LiDAR is
    mounted at a slant is not.

    Raises:
        DataError: the info does not say where the car was.
    """
    missing = [key for key in ("ref_from_car", "car_from_global") if key not in info]
    if missing:
        raise DataError(
            f"the info of sample {info['token']} holds no {' and no '.join(missing)}, so the map "
            "around it cannot be found; create the info file anew"
        )
    car_from_global = np.asarray(info["car_from_global"], dtype=np.float64)
    ground = -car_from_global[:3, 2] @ car_from_global[:3, 3]  # of the inverse, as it is rigid
    matrix = np.asarray(augmentation, np.float64) @ info["ref_from_car"] @ car_from_global
    return np.column_stack([matrix[:2, :2], matrix[:2, 2] * ground + matrix[:2, 3]])

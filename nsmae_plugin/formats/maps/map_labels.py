"""Labels of map segmentation, drawn from the vector map around each sample.

They are drawn for every sample in its augmented frame, because rotating a finished raster is not
exact. There are two rasterisers: :mod:`nsmae_plugin.formats.maps.devkit_raster`, used for the
published tables, and :mod:`nsmae_plugin.formats.maps.map_raster`, exact in any pose.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.maps.devkit_raster import flips_of, line_cells, load_layers, patch_of
from nsmae_plugin.formats.maps.map_classes import MapConfig
from nsmae_plugin.formats.maps.map_raster import rasterise
from nsmae_plugin.formats.maps.vector_map import load_map
from nsmae_plugin.formats.nuscenes.scenes import locations_of_samples
from nsmae_plugin.geometry.bev_grid import map_grid


class MapLabels:
    """Draws the map around samples.

    Only maps of locations with samples are read, each once. Forked workers share them.

    Args:
        map_cfg: the section ``MAP_CONFIG``. ``RASTERISER`` chooses between ``devkit``, the cells
            of the published tables, and ``exact``, the cells whose centre lies in an area.
        infos: the samples that will be asked for.
        root: folder that holds ``maps/`` and the folder ``version`` of tables.

    Attributes:
        grid: the cells.
        classes: the channels, in order.
        rasteriser: ``devkit`` or ``exact``.

    Raises:
        ConfigError: invalid classes, bounds, rasteriser or line width.
        DataError: a map is missing or damaged, or the location of a sample is unknown.
    """

    def __init__(
        self, map_cfg: Mapping[str, Any], infos: Sequence[dict[str, Any]], root: Path, version: str
    ):
        config = MapConfig.of_section(map_cfg)
        self.grid, self.classes, width = map_grid(map_cfg), config.CLASSES, float(config.LINE_WIDTH)
        self.rasteriser = config.RASTERISER
        if self.rasteriser == "devkit":
            self._line_cells = line_cells(width, self.grid)
        self._location = _locations(infos, root, version)
        self._maps: dict[str, Any] = {
            location: load_layers(root, location, self.classes)
            if self.rasteriser == "devkit"
            else load_map(root, location, self.classes, width)
            for location in sorted(set(self._location.values()))
        }

    def masks(
        self,
        info: Mapping[str, Any],
        augmentation: np.ndarray,
        flips: tuple[bool, bool] | None = None,
    ) -> np.ndarray:
        """(C, Y, X) bool, the cells that belong to each class.

        Args:
            info: a sample of ``infos``.
            augmentation: (4, 4) from its LiDAR frame to the augmented one, in which the grid lies.
            flips: whether the augmentation mirrors along x and along y, as
                :func:`~nsmae_plugin.geometry.augmentation.flip`; the devkit's cells are
                mirrored with it. None takes it from the matrix, where two flips look like half a
                turn.

        Raises:
            DataError: the info has no pose of the vehicle.
        """
        _check_pose(info)
        around = self._maps[self._location[info["token"]]]
        if self.rasteriser == "exact":
            to_grid = ground_to_lidar(info, augmentation)
            rings = around.near(*self._surroundings(to_grid))
            return rasterise(rings, to_grid, self.grid, len(self.classes))
        along_x, along_y = flips or flips_of(augmentation)
        patch = patch_of(info, augmentation, (along_x, along_y), self.grid)
        masks = around.draw(patch, self.grid.shape, len(self.classes), self._line_cells)
        return np.ascontiguousarray(masks[:, :: -1 if along_x else 1, :: -1 if along_y else 1])

    def _surroundings(self, to_grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Minimum and maximum x, y (2,) of the grid's corners in the global frame."""
        (a, b, x), (c, d, y) = to_grid
        corners = np.array(
            [[u - x, v - y] for u in self.grid.x_bound[:2] for v in self.grid.y_bound[:2]]
        )
        # Without LAPACK, whose threads take milliseconds while workers keep the cores busy.
        corners = corners @ np.array([[d, -c], [-b, a]]) / (a * d - b * c)
        return corners.min(axis=0), corners.max(axis=0)


def ground_to_lidar(info: Mapping[str, Any], augmentation: np.ndarray) -> np.ndarray:
    """(2, 3) from x, y of the global frame to x, y of the augmented LiDAR frame, in metres.

    nuScenes' maps are flat. The ground is taken to be the plane through the origin of the vehicle's
    frame; slopes of the road are neglected, the tilt of the LiDAR is not.

    Raises:
        DataError: the info has no pose of the vehicle.
    """
    _check_pose(info)
    car_from_global = np.asarray(info["car_from_global"], dtype=np.float64)
    ground = -car_from_global[:3, 2] @ car_from_global[:3, 3]  # of the inverse, as it is rigid
    matrix = np.asarray(augmentation, np.float64) @ info["ref_from_car"] @ car_from_global
    return np.column_stack([matrix[:2, :2], matrix[:2, 2] * ground + matrix[:2, 3]])


def _check_pose(info: Mapping[str, Any]) -> None:
    missing = [key for key in ("ref_from_car", "car_from_global") if key not in info]
    if missing:
        raise DataError(
            f"the info of sample {info['token']} holds no {' and no '.join(missing)}, so the map "
            "around it cannot be found; create the info file again"
        )


def _locations(infos: Sequence[dict[str, Any]], root: Path, version: str) -> dict[str, str]:
    """Location of each sample by its token."""
    known = locations_of_samples(root, version)
    result = {info["token"]: known.get(info["token"], "") for info in infos}
    unknown = [token for token, location in result.items() if not location]
    if unknown:
        raise DataError(
            f"the tables in {root / version} do not say where sample {unknown[0]} was taken "
            f"({len(unknown)} such samples); info files and tables must be of the same database"
        )
    return result

"""Map layers rasterised exactly as by the nuscenes-devkit's ``NuScenesMap.get_map_mask``.

The map labels behind BEVFusion's and NS-MAE's tables come from ``get_map_mask``: shapes are clipped
to a patch, rotated into its frame, rounded to whole cells and drawn by OpenCV. A polygon covers the
cells of its outline as well; a line is an odd number of cells wide, whatever the scale.

The devkit rebuilds every polygon of the map for every mask. Here the shapes are cached, those far
from the patch are skipped, and the rest goes through the same Shapely and OpenCV calls in the same
order, many shapes at once. Coordinates are therefore equal to the last bit, and so is rounding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from shapely import affinity
from shapely.geometry import GeometryCollection, Polygon

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.formats.maps.map_classes import LAYERS_OF_CLASS, LINE_LAYERS
from nsmae_plugin.formats.maps.vector_map import layer_shapes, read_map
from nsmae_plugin.geometry.augmentation import flip
from nsmae_plugin.geometry.bev_grid import BEVGrid
from nsmae_plugin.geometry.boxes import lidar_to_global
from nsmae_plugin.geometry.intervals import is_whole

MARGIN = 1e-3  # metres; shapes this far inside a patch are not clipped, whatever the rounding
SCALE_DECIMALS = 15  # a rotated unit vector has length 1 only up to rounding


@dataclass(frozen=True)
class Patch:
    """The rectangle of ``get_map_mask``.

    Args:
        centre: x and y, metres, global frame.
        size: (height, width), along y and x of the patch, metres.
        angle: degrees from the global x axis to the one of the patch.
    """

    centre: tuple[float, float]
    size: tuple[float, float]
    angle: float

    @property
    def rectangle(self) -> Polygon:
        """The patch in its own frame."""
        height, width = self.size
        return shapely.box(-width / 2, -height / 2, width / 2, height / 2)

    @property
    def outline(self) -> Polygon:
        """The patch in the global frame."""
        (x, y), (height, width) = self.centre, self.size
        upright = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return affinity.rotate(upright, self.angle, origin=self.centre)


def patch_of(
    info: Mapping[str, Any], augmentation: np.ndarray, flips: tuple[bool, bool], grid: BEVGrid
) -> Patch:
    """The patch whose mask, mirrored by ``flips``, is the label of a sample.

    As in BEVFusion the patch is horizontal, centred below the origin of the augmented LiDAR frame
    and aligned with its x axis. Its size is divided by the scale of the augmentation.

    Args:
        augmentation: (4, 4) from the LiDAR frame to the augmented one.
        flips: along x and along y, as :func:`nsmae_plugin.geometry.augmentation.flip`.
    """
    mirror = flip(*flips)
    pose = lidar_to_global(info) @ np.linalg.inv(mirror @ augmentation)
    middle = [sum(bound[:2]) / 2 for bound in (grid.x_bound, grid.y_bound)]
    x, y = (pose @ mirror @ [*middle, 0.0, 1.0])[:2]
    scale = round(float(np.linalg.norm(np.asarray(augmentation)[:3, 0])), SCALE_DECIMALS)
    height, width = ((high - low) / scale for low, high, _ in (grid.y_bound, grid.x_bound))
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return Patch((float(x), float(y)), (height, width), float(yaw / np.pi * 180))


def flips_of(augmentation: np.ndarray) -> tuple[bool, bool]:
    """Return whether a matrix mirrors along x and along y, judged from the matrix alone.

    A reflection is taken as one flip and a rotation by less than 90 degrees. Two flips equal a
    rotation by 180 degrees; they count as flips only if there is no other rotation.
    """
    (a, b), (c, d) = np.asarray(augmentation)[:2, :2]
    if a * d - b * c < 0:
        return bool(a >= 0), bool(a < 0)
    turned = b != 0 or c != 0
    return bool(d < 0 and not turned), bool(a < 0 and not turned)


@dataclass(frozen=True)
class MapLayers:
    """The map layers of several classes at one location.

    Args:
        channels: (L,) number of the class that each layer belongs to.
        lines: (L,) bool, layers of lines, not of polygons.
        layer: (P,) the layer of each shape.
        shapes: (P,) Shapely polygons and lines in the global frame, in the devkit's order.
        bounds: (P, 4) least x and y, greatest x and y of each.
        plain: (P,) bool, shapes that do not intersect themselves.
    """

    channels: np.ndarray
    lines: np.ndarray
    layer: np.ndarray
    shapes: np.ndarray
    bounds: np.ndarray
    plain: np.ndarray

    def draw(self, patch: Patch, shape: tuple[int, int], classes: int, width: int) -> np.ndarray:
        """(classes, rows, columns) bool; lines are ``width`` cells wide, an odd number.

        Row 0 has the least y of the patch, column 0 the least x.
        """
        masks = np.zeros((len(self.channels), *shape), np.uint8)
        for layer, cells in zip(*self._in_cells(patch, shape), strict=True):
            if self.lines[layer]:
                _draw_lines(masks[layer], cells, width)
            else:
                _draw_polygons(masks[layer], cells)
        result = np.zeros((classes, *shape), bool)
        for channel, mask in zip(self.channels, masks, strict=True):
            result[channel] |= mask.astype(bool)
        return result

    def _in_cells(self, patch: Patch, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Layer of each clipped shape (Q,), and the shapes (Q,) in cells from the lower corner."""
        outline, (x, y), (height, width) = patch.outline, patch.centre, patch.size
        low, high = np.split(shapely.bounds(outline), 2)
        near = (self.bounds[:, :2] <= high).all(axis=1) & (self.bounds[:, 2:] >= low).all(axis=1)
        layer, shapes = self.layer[near], self.shapes[near]
        inner = outline.buffer(-MARGIN)
        shapely.prepare(inner)
        whole = self.plain[near] & shapely.contains_properly(inner, shapes)
        seen, some = _cut(shapes, outline, whole)
        layer, whole = layer[some], whole[some]
        seen = affinity.translate(affinity.rotate(seen, -patch.angle, origin=(x, y)), -x, -y)
        # The devkit clips twice, and each time may add vertices.
        seen, some = _cut(shapely.get_parts(seen), patch.rectangle, whole)
        seen = affinity.translate(seen, width / 2, height / 2)
        seen = affinity.scale(seen, shape[1] / width, shape[0] / height, origin=(0, 0))
        return layer[some], shapely.get_parts(seen)


def load_layers(root: Path, location: str, classes: Sequence[str]) -> MapLayers:
    """The layers of ``classes`` at a location, cached until the file changes.

    As in the devkit, self-intersecting polygons are left out, except those of the drivable area.

    Raises:
        DataError: see :func:`nsmae_plugin.formats.maps.vector_map.read_map`.
    """
    return read_map(root, location, _layers, tuple(classes))


def line_cells(line_width: float, grid: BEVGrid) -> int:
    """``LINE_WIDTH`` in cells.

    Raises:
        ConfigError: the cells are not square, or the width is not an odd number of them.
    """
    step = grid.x_bound[2]
    if not math.isclose(grid.y_bound[2], step, rel_tol=1e-6):
        raise ConfigError(
            f"MAP_CONFIG: RASTERISER devkit draws square cells, not {step:g} x "
            f"{grid.y_bound[2]:g} m; use RASTERISER exact"
        )
    cells = line_width / step
    if not is_whole(cells) or round(cells) % 2 != 1:
        raise ConfigError(
            f"MAP_CONFIG.LINE_WIDTH {line_width:g} m is {cells:.6g} cells of {step:g} m; "
            f"RASTERISER devkit draws lines of 1, 3, 5, ... cells, the published ones of 3 "
            f"({3 * step:g} m); use such a width, or RASTERISER exact"
        )
    return round(cells)


def _layers(nuscenes_map: Any, classes: Sequence[str]) -> MapLayers:
    names = [
        (channel, layer) for channel, name in enumerate(classes) for layer in LAYERS_OF_CLASS[name]
    ]
    found = [
        (number, shape, bool(shape.is_simple if name in LINE_LAYERS else shape.is_valid))
        for number, (_, name) in enumerate(names)
        for shape in layer_shapes(nuscenes_map, name)
    ]
    kept = ("drivable_area", *LINE_LAYERS)
    found = [one for one in found if one[2] or names[one[0]][1] in kept]
    shapes = np.array([shape for _, shape, _ in found], dtype=object)
    return MapLayers(
        channels=np.array([channel for channel, _ in names]),
        lines=np.array([name in LINE_LAYERS for _, name in names]),
        layer=np.array([number for number, _, _ in found], np.intp),
        shapes=shapes,
        bounds=shapely.bounds(shapes).reshape(-1, 4),
        plain=np.array([plain for _, _, plain in found], bool),
    )


def _cut(
    shapes: np.ndarray, area: Polygon, whole: np.ndarray
) -> tuple[GeometryCollection, np.ndarray]:
    """The shapes clipped to the area, and (P,) bool, which of them are not empty.

    Args:
        whole: (P,) bool, plain shapes well inside the area, which clipping would not change.
    """
    cut, parts = shapes[~whole], shapes.copy()
    try:
        parts[~whole] = shapely.intersection(cut, area)
    except shapely.errors.GEOSException:  # self-intersecting; the devkit fails
        parts[~whole] = shapely.intersection(shapely.make_valid(cut), area)
    some = ~shapely.is_empty(parts)
    return GeometryCollection(list(parts[some])), some


def _draw_lines(mask: np.ndarray, shape: Any, width: int) -> None:
    # Truncated, not rounded: the devkit draws lines half a cell lower than polygons.
    lines = [shapely.get_coordinates(line).astype(np.int32) for line in _parts(shape, "Line")]
    # OpenCV's lines of thickness 2 cover 3 cells, those of 4 cover 5.
    cv2.polylines(mask, lines, False, (1,), max(width - 1, 1))


def _draw_polygons(mask: np.ndarray, shape: Any) -> None:
    areas = _parts(shape, "Polygon")
    holes = [ring for area in areas for ring in area.interiors]
    cv2.fillPoly(mask, _rounded([area.exterior for area in areas]), (1,))
    cv2.fillPoly(
        mask, _rounded(holes), (0,)
    )  # erases what an earlier polygon drew there, as in the devkit


def _parts(shape: Any, kind: str) -> list[Any]:
    """The lines or polygons of a geometry; none if it only touches the patch."""
    if shape.geom_type.startswith(kind):
        return [shape]
    return [part for whole in getattr(shape, "geoms", ()) for part in _parts(whole, kind)]


def _rounded(rings: Sequence[Any]) -> list[np.ndarray]:
    return [shapely.get_coordinates(ring).round().astype(np.int32) for ring in rings]

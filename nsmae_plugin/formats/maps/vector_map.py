"""Vector maps of locations as arrays, read through the devkit's NuScenesMap and cached."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import shapely
from shapely.geometry import LineString, Polygon

from nsmae_plugin.errors import DataError, brief
from nsmae_plugin.formats.maps.map_classes import LAYERS_OF_CLASS, LINE_LAYERS
from nsmae_plugin.formats.maps.map_raster import Rings
from nsmae_plugin.runtime.file_names import file_name
from nsmae_plugin.runtime.reading import GIB, open_regular

GET = (
    "get the nuScenes map expansion pack, version 1.3, from https://www.nuscenes.org/nuscenes"
    "#download and unpack it into DATA_PATH/VERSION/maps, or remove DATA_CONFIG.MAP_CONFIG"
)
FARTHEST = 1e6  # metres; maps reach a few kilometres
Made = TypeVar("Made")
MOST_BYTES = GIB  # of a map; those of nuScenes have up to 50 million
KEPT = 16  # maps in memory; nuScenes has four locations, a run one or two sets of classes


@dataclass(frozen=True)
class VectorMap:
    """Areas of several classes, each an outline with holes.

    Args:
        rings: global frame.
        sizes: (P,) points of each area's rings, which follow one another.
        bounds: (P, 4) least x and y, greatest x and y of each area, in metres.
    """

    rings: Rings
    sizes: np.ndarray
    bounds: np.ndarray

    @classmethod
    def from_polygons(cls, polygons: Iterable[tuple[int, Polygon]]) -> "VectorMap":
        """Valid, non-empty polygons with the number of their class."""
        points, last, channel, sizes, bounds = [], [], [], [], []
        for number, polygon in polygons:
            outline = [np.asarray(ring.coords)[:, :2] for ring in _rings(polygon)]
            points += outline
            ends = np.cumsum([len(ring) for ring in outline])
            last.append(np.isin(np.arange(1, ends[-1] + 1), ends))
            channel.append(np.full(ends[-1], number))
            sizes.append(ends[-1])
            bounds.append(polygon.bounds)
        rings = Rings(
            np.concatenate([np.zeros((0, 2)), *points]),
            np.concatenate([np.zeros(0, bool), *last]),
            np.concatenate([np.zeros(0, np.intp), *channel]),
        )
        return cls(rings, np.array(sizes, np.intp), np.array(bounds).reshape(-1, 4))

    def near(self, low: np.ndarray, high: np.ndarray) -> Rings:
        """The rings of the areas whose bounds meet the box from ``low`` (2,) to ``high`` (2,)."""
        meets = (self.bounds[:, :2] <= high).all(axis=1) & (self.bounds[:, 2:] >= low).all(axis=1)
        chosen = np.repeat(meets, self.sizes)
        return Rings(self.rings.points[chosen], self.rings.last[chosen], self.rings.channel[chosen])


def _rings(polygon: Polygon) -> list[Any]:
    polygon = shapely.geometry.polygon.orient(polygon)
    return [polygon.exterior, *polygon.interiors]


def load_map(root: Path, location: str, classes: Sequence[str], line_width: float) -> VectorMap:
    """The areas of ``classes`` at a location, cached until the file changes.

    Self-intersecting polygons are repaired (the devkit's masks leave them out). Lines
    become bands of ``line_width`` metres with flat ends.

    Args:
        classes: keys of :data:`~nsmae_plugin.formats.maps.map_classes.LAYERS_OF_CLASS`; their
            positions become the channels.

    Raises:
        DataError: see :func:`read_map`.
    """
    return read_map(root, location, _vector_map, tuple(classes), line_width)


def read_map(root: Path, location: str, make: Callable[..., Made], *args: Any) -> Made:
    """Return ``make(nuscenes_map, *args)`` for a location, cached until its file changes.

    Args:
        root: folder that holds ``maps/expansion/<location>.json``.
        location: as nuScenes' table ``log`` names it.
        args: hashable.

    Raises:
        DataError: the map is missing, damaged or older than version 1.3; says where to get it.
    """
    name = file_name(location, "the location of a map")
    path = Path(root).resolve() / "maps" / "expansion" / f"{name}.json"
    with open_regular(path, f"the map of {location},", GET, MOST_BYTES) as file:
        status = os.fstat(file.fileno())
    made: Made = _read(path, status.st_mtime_ns, status.st_size, make, *args)
    return made


@lru_cache(maxsize=KEPT)
def _read(path: Path, changed_ns: int, size: int, make: Callable[..., Any], *args: Any) -> Any:
    try:
        return make(_open(path), *args)
    except Exception as error:  # damaged maps raise almost anything, the devkit plain Exceptions
        raise DataError(f"the map {path} cannot be used: {brief(error)}; {GET}") from error


def _open(path: Path) -> Any:
    """The devkit's ``NuScenesMap``, without the plotting style that it would leave behind."""
    with matplotlib.rc_context():
        from nuscenes.map_expansion.map_api import NuScenesMap
    nuscenes_map = NuScenesMap(dataroot=str(path.parents[2]), map_name=path.stem)
    _check_nodes(nuscenes_map.node)
    return nuscenes_map


def _check_nodes(nodes: Iterable[Mapping[str, Any]]) -> None:
    """Refuse infinite and missing coordinates, which Shapely accepts."""
    for node in nodes:
        place = node["x"], node["y"]
        if not all(type(value) in (int, float) and abs(value) <= FARTHEST for value in place):
            raise ValueError(f"node {node['token']} lies at x {place[0]!r}, y {place[1]!r}")


def layer_shapes(nuscenes_map: Any, layer: str) -> Iterator[Polygon | LineString]:
    """The polygons or lines of a layer, in the order of the map."""
    for record in getattr(nuscenes_map, layer):
        if layer in LINE_LAYERS:
            yield nuscenes_map.extract_line(record["line_token"])
        else:
            one = layer != "drivable_area"
            for token in [record["polygon_token"]] if one else record["polygon_tokens"]:
                yield nuscenes_map.extract_polygon(token)


def _vector_map(nuscenes_map: Any, classes: Sequence[str], line_width: float) -> VectorMap:
    return VectorMap.from_polygons(
        (number, polygon)
        for number, name in enumerate(classes)
        for layer in LAYERS_OF_CLASS[name]
        for shape in layer_shapes(nuscenes_map, layer)
        for polygon in _polygons(shapely.make_valid(_area(shape, line_width)))
    )


def _area(shape: Polygon | LineString, line_width: float) -> Polygon:
    if isinstance(shape, Polygon):
        return shape
    return shape.buffer(line_width / 2, cap_style="flat")


def _polygons(shape: Any) -> list[Polygon]:
    """The parts of a geometry that have an area."""
    if isinstance(shape, Polygon):
        return [] if shape.is_empty else [shape]
    return [part for whole in getattr(shape, "geoms", ()) for part in _polygons(whole)]

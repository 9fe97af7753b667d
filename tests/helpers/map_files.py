"""Map expansions made by hand, and frames that stand on them.

The street of :func:`write_world` runs along the global x axis at ``ORIGIN``: a drivable area with
a traffic island as a hole, a walkway, a crossing, dividers.
"""

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from shapely.geometry import LineString, Polygon, box

from nsmae_plugin.formats.infos import write_infos
from nsmae_plugin.formats.maps.map_classes import LINE_LAYERS, POLYGON_LAYERS
from tests.helpers.tiny_frames import VERSION, write_frames

LOCATION = "boston-seaport"
ORIGIN = np.array([700.3, 1200.7])
LINE_WIDTH = 1.0
SECTION = {
    "CLASSES": ["drivable_area", "walkway", "ped_crossing", "divider"],
    "XBOUND": [-20.0, 20.0, 0.5],
    "YBOUND": [-20.0, 20.0, 0.5],
    "LINE_WIDTH": LINE_WIDTH,
}


def street() -> dict[str, list]:
    """Layer -> shapely geometries, metres around the origin."""
    return {
        "drivable_area": [
            Polygon(
                [(-60, -7), (60, -7), (60, 5), (-60, 5)],
                [[(-6, 1), (-6, 3), (-2, 3), (-2, 1)]],
            ),
            box(8, 5, 14, 60),
        ],
        "walkway": [box(-60, 5, 8, 8.5), box(14, 5, 60, 8.5)],
        "ped_crossing": [Polygon([(3, -7), (6, -7), (7, 5), (4, 5)])],
        "road_divider": [LineString([(-60, -1), (-8, -1), (2, -0.5)])],
        "lane_divider": [LineString([(-60, -4), (60, -4)]), LineString([(11, 6), (11.5, 50)])],
    }


def expansion(layers: dict[str, list], shift: np.ndarray) -> dict:
    """The content of a map expansion file of version 1.3 with these geometries."""
    content: dict = {name: [] for name in ("polygon", "line", "node")}
    content |= {name: [] for name in (*POLYGON_LAYERS, *LINE_LAYERS, "traffic_light")}
    content |= {"version": "1.3", "canvas_edge": [3000.0, 3000.0]}
    content |= {"arcline_path_3": {}, "connectivity": {}}

    def nodes(points):
        tokens = []
        for x, y in np.asarray(points)[:, :2] + shift:
            tokens.append(f"node-{len(content['node'])}")
            content["node"].append({"token": tokens[-1], "x": x, "y": y})
        return tokens

    def add(layer, **record):
        record["token"] = f"{layer}-{len(content[layer])}"
        content[layer].append(record)
        return record["token"]

    def polygon(shape):
        holes = [{"node_tokens": nodes(ring.coords[:-1])} for ring in shape.interiors]
        outline = nodes(shape.exterior.coords[:-1])
        return add("polygon", exterior_node_tokens=outline, holes=holes)

    for layer, shapes in layers.items():
        if layer in LINE_LAYERS:
            for shape in shapes:
                add(layer, line_token=add("line", node_tokens=nodes(shape.coords)))
        elif layer == "drivable_area":
            add(layer, polygon_tokens=[polygon(shape) for shape in shapes])
        else:
            for shape in shapes:
                add(layer, polygon_token=polygon(shape))
    for record in content["stop_line"]:
        record["stop_line_type"] = "YIELD"
    return content


def write_map(root: Path, layers: dict[str, list], location: str = LOCATION, shift=ORIGIN) -> Path:
    """Write the map of ``location`` below ``root``, the folder of a version; returns its path."""
    path = root / "maps" / "expansion" / f"{location}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(expansion(layers, shift)))
    return path


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    """(4, 4) from the car to the global frame; the road lies 3.5 m high."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    matrix[:3, 3] = [*ORIGIN + [x, y], 3.5]
    return matrix


def place(info: dict, car_to_global: np.ndarray, roll: float = 0.0) -> None:
    """Give the frame a pose; its LiDAR looks along y, 1.8 m above the road."""
    lidar_to_car = np.eye(4)
    lidar_to_car[:3, :3] = Rotation.from_euler("zx", [-np.pi / 2, roll]).as_matrix()
    lidar_to_car[:3, 3] = [0.9, 0.0, 1.8]
    info["ref_from_car"] = np.linalg.inv(lidar_to_car)
    info["car_from_global"] = np.linalg.inv(car_to_global)


def write_tables(root: Path, locations: list[str]) -> None:
    """Tables in which sample ``token-n`` was taken at ``locations[n]``."""
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(len(locations))
    tables = {
        "log": [{"token": f"l{n}", "location": locations[n]} for n in numbers],
        "scene": [{"token": f"s{n}", "name": f"scene-{n}", "log_token": f"l{n}"} for n in numbers],
        "sample": [{"token": f"token-{n}", "scene_token": f"s{n}"} for n in numbers],
    }
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records))


def write_world(root: Path, frames: int = 3) -> list[dict]:
    """Frames of :mod:`tiny_frames` along the street, its map and the tables; returns the infos."""
    infos = write_frames(root, frames=frames, cameras=1)
    for number, info in enumerate(infos):
        place(info, pose(4.0 * number, -2.3, 0.3 * number))
    write_infos(root / VERSION / "infos.pkl", infos)
    write_map(root / VERSION, street())
    write_tables(root / VERSION, [LOCATION] * frames)
    return infos

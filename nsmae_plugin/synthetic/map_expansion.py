"""The vector map of a location in the format of nuScenes' map expansion, version 1.3."""

from collections.abc import Iterable

import numpy as np
from shapely.geometry import Polygon

from nsmae_plugin.formats.maps.map_classes import LINE_LAYERS, POLYGON_LAYERS
from nsmae_plugin.synthetic import layout as roads
from nsmae_plugin.synthetic.layout import Crossing, Lane, Layout, polygons_of
from nsmae_plugin.synthetic.tables import Record, make_token

LAYERS = (*POLYGON_LAYERS, *LINE_LAYERS, "traffic_light")
VERSION = "1.3"


class MapExpansion:
    """Collects the layers of all scenes of one location.

    Args:
        seed: enters the tokens.
        location: official name of the location.
        canvas: (width, height) of the map in metres.
    """

    def __init__(self, seed: int, location: str, canvas: tuple[float, ...]) -> None:
        self._names = (seed, location)
        self._canvas = canvas
        self._layers: dict[str, list[Record]] = {
            name: [] for name in ("polygon", "line", "node", *LAYERS)
        }
        self._arcs: dict[str, list[Record]] = {}
        self._connectivity: dict[str, dict[str, list[str]]] = {}
        self._nodes: dict[tuple[float, float], str] = {}

    def as_dict(self) -> dict:
        """The content of ``maps/expansion/<location>.json``."""
        return {
            "version": VERSION,
            "canvas_edge": list(self._canvas),
            **self._layers,
            "arcline_path_3": self._arcs,
            "connectivity": self._connectivity,
        }

    def add(self, layout: Layout) -> None:
        """Add the streets of one scene."""
        drivable = self._add(
            "drivable_area",
            polygon_tokens=[self._polygon(one) for one in polygons_of(layout.drivable)],
        )
        blocks = self._add_segments(layout, drivable)
        self._add_lanes(layout)
        self._add_dividers(layout)
        for crossing in layout.crossings:
            self._add_crossing(layout, crossing, blocks)
        for polygon in layout.walkways:
            self._add("walkway", polygon_token=self._polygon(polygon))
        for polygon in layout.car_park_areas:
            token = self._polygon(polygon)
            self._add("carpark_area", polygon_token=token, orientation=0.0, road_block_token="")

    def _add(self, layer: str, **fields: object) -> str:
        token = make_token(*self._names, layer, len(self._layers[layer]))
        self._layers[layer].append({"token": token, **fields})
        return token

    def _node(self, point: Iterable[float]) -> str:
        """Token of the node at a place; neighbours share the nodes of their common edge."""
        x, y = (round(float(value), 3) for value in point)
        if (x, y) not in self._nodes:
            self._nodes[x, y] = self._add("node", x=x, y=y)
        return self._nodes[x, y]

    def _polygon(self, polygon: Polygon) -> str:
        return self._add(
            "polygon",
            exterior_node_tokens=[self._node(point) for point in polygon.exterior.coords[:-1]],
            holes=[
                {"node_tokens": [self._node(point) for point in ring.coords[:-1]]}
                for ring in polygon.interiors
            ],
        )

    def _line(self, points: np.ndarray) -> str:
        return self._add("line", node_tokens=[self._node(point) for point in points])

    def _add_segments(self, layout: Layout, drivable: str) -> dict[tuple[str, int, int], str]:
        """Road segments and, per direction, road blocks; blocks by (road, direction, part)."""
        blocks = {}
        for name in ("main", "cross"):
            road, half = layout.road(name), layout.half(name)
            for part, span in enumerate(layout.spans(name)):
                segment = self._add(
                    "road_segment",
                    polygon_token=self._polygon(road.area(*span, -half, half)),
                    is_intersection=part == 1,
                    drivable_area_token=drivable,
                )
                for direction in (1, -1) if part != 1 else ():
                    outer = -layout.side * direction * half
                    edges = [road.pose(np.full(2, s), [0.0, outer])[:, :2] for s in span]
                    blocks[name, direction, part] = self._add(
                        "road_block",
                        polygon_token=self._polygon(road.area(*span, 0.0, outer)),
                        **self._edge_lines(edges[::direction]),
                        road_segment_token=segment,
                    )
        return blocks

    def _edge_lines(self, edges: list[np.ndarray]) -> dict[str, str]:
        """Where traffic enters and leaves."""
        return {
            "from_edge_line_token": self._line(edges[0]),
            "to_edge_line_token": self._line(edges[1]),
        }

    def _add_lanes(self, layout: Layout) -> None:
        lanes = layout.lanes()
        tokens = [self._add_lane(layout, lane) for lane in lanes]
        for lane, token in zip(lanes, tokens, strict=True):
            links: dict[str, list[str]] = {"incoming": [], "outgoing": []}
            for other, other_token in zip(lanes, tokens, strict=True):
                if (other.road, other.d) == (lane.road, lane.d):
                    if lane.entry == other.exit:
                        links["incoming"].append(other_token)
                    if lane.exit == other.entry:
                        links["outgoing"].append(other_token)
            self._connectivity[token] = links

    def _add_lane(self, layout: Layout, lane: Lane) -> str:
        road = layout.road(lane.road)
        sides = (lane.d - roads.LANE / 2, lane.d + roads.LANE / 2)
        polygon = self._polygon(road.area(lane.start, lane.stop, *sides))
        if lane.connector:
            token = self._add("lane_connector", polygon_token=polygon)
        else:
            edges = [road.pose(np.full(2, s), sides)[:, :2] for s in (lane.start, lane.stop)]
            right, left = (self._divider_segments(layout, lane, d) for d in sides)
            left, right = (left, right) if lane.direction == 1 else (right, left)
            token = self._add(
                "lane",
                polygon_token=polygon,
                lane_type="CAR",
                **self._edge_lines(edges[:: lane.direction]),
                left_lane_divider_segments=left,
                right_lane_divider_segments=right,
            )
        self._arcs[token] = _arcs_of(layout, lane)
        return token

    def _divider_segments(self, layout: Layout, lane: Lane, d: float) -> list[Record]:
        points = layout.road(lane.road).points(lane.start, lane.stop, d)[:: lane.direction]
        kind = "SINGLE_SOLID_YELLOW" if abs(d) < 0.1 else "SINGLE_SOLID_WHITE"
        if roads.LANE / 2 < abs(d) < layout.lanes_per_direction * roads.LANE - 0.1:
            kind = "DASHED_WHITE" if lane.road == "main" else kind
        return [{"node_token": self._node(point), "segment_type": kind} for point in points]

    def _add_dividers(self, layout: Layout) -> None:
        """Road dividers between the directions, lane dividers between lanes of one direction."""
        for name in ("main", "cross"):
            road = layout.road(name)
            for span in layout.spans(name)[::2]:
                middle = self._line(road.points(*span))
                self._add("road_divider", line_token=middle, road_segment_token="")
                # The outermost line parts the lanes from the bicycle lane of the main road.
                for index in range(1, layout.lane_count(name) + (name == "main")):
                    for d in (-index * roads.LANE, index * roads.LANE):
                        points = road.points(*span, d)
                        self._add(
                            "lane_divider",
                            line_token=self._line(points),
                            lane_divider_segments=[
                                {"node_token": self._node(p), "segment_type": "DASHED_WHITE"}
                                for p in points
                            ],
                        )

    def _add_crossing(self, layout: Layout, crossing: Crossing, blocks: dict) -> None:
        road = layout.road(crossing.road)
        edges = (-crossing.half_width, crossing.half_width)
        token = self._polygon(road.area(crossing.start, crossing.stop, *edges))
        ped_crossing = self._add("ped_crossing", polygon_token=token, road_segment_token="")
        part = 0 if crossing.stop < sum(layout.junction_span(crossing.road)) / 2 else 2
        direction = 1 if part == 0 else -1
        block = blocks[crossing.road, direction, part]
        lights = [self._add_light(layout, crossing, block)] if crossing.signals else []
        for polygon in crossing.stop_lines:
            self._add(
                "stop_line",
                polygon_token=self._polygon(polygon),
                stop_line_type="TRAFFIC_LIGHT" if lights else "PED_CROSSING",
                ped_crossing_tokens=[ped_crossing],
                traffic_light_tokens=lights,
                road_block_token=block,
            )

    def _add_light(self, layout: Layout, crossing: Crossing, block: str) -> str:
        """A traffic light at the far kerb of the stop line."""
        road = layout.road(crossing.road)
        edge = crossing.half_width + 0.5
        x, y, yaw = road.pose(crossing.start, edge)
        pose = {"tx": x, "ty": y, "tz": 0.0, "rx": 0.0, "ry": 0.0, "rz": yaw}
        points = road.pose(np.full(2, crossing.start), [edge, edge + 0.5])[:, :2]
        return self._add(
            "traffic_light",
            line_token=self._line(points),
            traffic_light_type="VERTICAL",
            from_road_block_token=block,
            items=[],
            pose={key: float(value) for key, value in pose.items()},
        )


def _arcs_of(layout: Layout, lane: Lane) -> list[Record]:
    """A lane's middle as arcs; each record is an arc and two empty parts, or a straight part."""
    road = layout.road(lane.road)
    arcs = []
    for s, length, curvature in road.arcs(lane.start, lane.stop)[:: lane.direction]:
        ends = [road.pose(at, lane.d) for at in (s, s + length)][:: lane.direction]
        poses = [(float(x), float(y), _turned(yaw, lane.direction)) for x, y, yaw in ends]
        scale = 1 - curvature * lane.d
        bend = lane.direction * curvature
        lengths = [0.0, length * scale, 0.0] if bend == 0 else [length * scale, 0.0, 0.0]
        arcs.append(
            {
                "start_pose": list(poses[0]),
                "end_pose": list(poses[1]),
                "shape": "RSR" if bend < 0 else "LSL",
                "radius": scale / abs(bend) if bend else 999.0,
                "segment_length": lengths,
            }
        )
    return arcs


def _turned(yaw: float, direction: int) -> float:
    """Yaw of travel in [-pi, pi)."""
    return float((yaw + (np.pi if direction == -1 else 0.0) + np.pi) % (2 * np.pi) - np.pi)

"""Colours of classes, points and curves, for all pictures and legends.

Any two classes of a table differ by at least 20 in CIELAB, also as seen with protanopia and
deuteranopia; so do map classes and the black, grey and white around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import to_rgb

Colour = tuple[float, float, float]

# The ten classes of nuScenes' benchmark.
BOX_COLOURS = {
    "car": "#ffa80e",
    "truck": "#9e5841",
    "construction_vehicle": "#b9bd64",
    "bus": "#e43710",
    "trailer": "#a68ffa",
    "barrier": "#8cb4db",
    "motorcycle": "#bf288a",
    "bicycle": "#7b213f",
    "pedestrian": "#222ecd",
    "traffic_cone": "#4dc5a6",
}
# For classes of other datasets after the colours above; each differs most from those before it.
MORE_COLOURS = (
    "#5d178b",
    "#0000ff",
    "#a25dff",
    "#74e8a2",
    "#742e00",
    "#a246b9",
    "#d14674",
    "#74005d",
    "#17a22e",
    "#ff5d74",
    "#e8d15d",
    "#74d1d1",
    "#a274b9",
    "#742eb9",
    "#7446ff",
    "#d1a2ff",
)
# In drawing order: layers that lie on others come later.
MAP_COLOURS = {
    "drivable_area": "#b4ceed",
    "road_segment": "#306b9d",
    "road_block": "#b8eba2",
    "lane": "#01a44e",
    "lane_connector": "#015039",
    "carpark_area": "#e9941e",
    "walkway": "#c82e16",
    "ped_crossing": "#95a4ee",
    "stop_line": "#f7e81c",
    "road_divider": "#947dff",
    "lane_divider": "#602eb6",
    "divider": "#311268",
}
MISSED, FALSE_POSITIVE = to_rgb("#000000"), to_rgb("0.62")  # cells of a map
POINTS = "#555555"  # LiDAR points on white

# Curves: Okabe and Ito's colours, and markers that tell them apart in grey as well.
CURVE_COLOURS = (
    "#e69f00",
    "#0072b2",
    "#009e73",
    "#d55e00",
    "#56b4e9",
    "#cc79a7",
    "#000000",
    "#999999",
)
CURVE_MARKERS = "os^Dv*PX"


def class_colours(class_names: Sequence[str]) -> dict[str, Colour]:
    """Colours of the boxes of all classes: those of the table, and free ones for other names.

    With more classes than colours, colours repeat.
    """
    used = {BOX_COLOURS[name] for name in class_names if name in BOX_COLOURS}
    free = [code for code in (*BOX_COLOURS.values(), *MORE_COLOURS) if code not in used]
    others = [name for name in class_names if name not in BOX_COLOURS]
    codes = {name: free[at % len(free)] for at, name in enumerate(others)}
    return _colours({name: BOX_COLOURS.get(name) or codes[name] for name in class_names})


def map_colours(classes: Sequence[str]) -> dict[str, Colour]:
    """Colours of the given map classes, in drawing order."""
    return _colours({name: code for name, code in MAP_COLOURS.items() if name in classes})


def _colours(codes: Mapping[str, str]) -> dict[str, Colour]:
    return {name: to_rgb(code) for name, code in codes.items()}

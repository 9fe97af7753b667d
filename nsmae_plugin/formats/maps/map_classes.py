"""Settings of ``MAP_CONFIG``: classes, the layers that they consist of, and how they are drawn."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from nsmae_plugin.config.section import Section
from nsmae_plugin.config.values import Bound, Names, PositiveFloat, Words

POLYGON_LAYERS = (
    "drivable_area",
    "road_segment",
    "road_block",
    "lane",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
    "lane_connector",
)
#: Drawn as bands of ``LINE_WIDTH``. Traffic lights, lines too, do not lie on the ground.
LINE_LAYERS = ("road_divider", "lane_divider")

#: ``devkit``: nuScenes' ``get_map_mask``, as published; ``exact``: cells whose centre lies inside.
RASTERISERS = ("devkit", "exact")

#: Class -> layers whose union it is: every layer by its own name, and what joins several.
LAYERS_OF_CLASS: dict[str, tuple[str, ...]] = {
    **{layer: (layer,) for layer in POLYGON_LAYERS + LINE_LAYERS},
    "divider": LINE_LAYERS,
}


def _known(classes: list[str]) -> list[str]:
    if not set(classes) <= LAYERS_OF_CLASS.keys():
        raise ValueError("names an unknown class")
    return classes


Classes = Annotated[
    Names,
    AfterValidator(_known),
    Words(f"a list that names one or more of {', '.join(LAYERS_OF_CLASS)}, each once"),
]


class MapConfig(Section):
    """The section ``DATA_CONFIG.MAP_CONFIG``.

    Attributes:
        CLASSES: channels of labels and predictions, in order.
        XBOUND, YBOUND: grid in the LiDAR frame, metres.
        LINE_WIDTH: metres, of the bands that lines are drawn as.
        RASTERISER: how labels are drawn, see :data:`RASTERISERS`.
    """

    CLASSES: Classes
    XBOUND: Bound
    YBOUND: Bound
    LINE_WIDTH: PositiveFloat
    RASTERISER: Literal["devkit", "exact"] = "exact"


def map_classes(map_cfg: Mapping[str, Any]) -> list[str]:
    """``CLASSES`` of a section ``MAP_CONFIG``: the channels of labels and predictions, in order.

    Raises:
        ConfigError: the section cannot be meant.
    """
    return MapConfig.of(map_cfg, "DATA_CONFIG.MAP_CONFIG").CLASSES


def rasteriser_of(map_cfg: Mapping[str, Any]) -> str:
    """``RASTERISER`` of a section ``MAP_CONFIG``.

    Raises:
        ConfigError: the section cannot be meant.
    """
    return MapConfig.of(map_cfg, "DATA_CONFIG.MAP_CONFIG").RASTERISER


def drawing_of(map_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """How labels were drawn, kept beside each score: ``rasteriser``, ``line_width`` in metres."""
    return {"rasteriser": rasteriser_of(map_cfg), "line_width": float(map_cfg["LINE_WIDTH"])}


def describe_drawing(drawing: Mapping[str, Any]) -> str:
    """The result of :func:`drawing_of` as text."""
    return f"rasteriser {drawing['rasteriser']}, lines {drawing['line_width']:g} m wide"

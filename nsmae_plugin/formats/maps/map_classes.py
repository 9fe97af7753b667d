"""Settings of ``MAP_CONFIG``: classes, the layers that they consist of, and how they are drawn."""

from __future__ import annotations

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
        RASTERISER: how labels are drawn. ``devkit``: by nuScenes' ``get_map_mask``, as published;
            ``exact``: the cells whose centre lies inside.
    """

    CLASSES: Classes
    XBOUND: Bound
    YBOUND: Bound
    LINE_WIDTH: PositiveFloat
    RASTERISER: Literal["devkit", "exact"] = "exact"

    @classmethod
    def of_section(cls, map_cfg: Mapping[str, Any]) -> MapConfig:
        """The section of a dataset.

        Raises:
            ConfigError: it cannot be meant.
        """
        return cls.of(map_cfg, "DATA_CONFIG.MAP_CONFIG")


def drawing_of(map_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the label rasteriser: ``rasteriser``, ``line_width`` in metres."""
    config = MapConfig.of_section(map_cfg)
    return {"rasteriser": config.RASTERISER, "line_width": float(config.LINE_WIDTH)}


def describe_drawing(drawing: Mapping[str, Any]) -> str:
    """The result of :func:`drawing_of` as text."""
    return f"rasteriser {drawing['rasteriser']}, lines {drawing['line_width']:g} m wide"

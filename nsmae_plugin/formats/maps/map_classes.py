"""Settings of ``MAP_CONFIG``: classes, the layers that they consist of, and how they are drawn."""

from collections.abc import Mapping
from typing import Any

from nsmae_plugin.errors import ConfigError

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


def map_classes(map_cfg: Mapping[str, Any]) -> list[str]:
    """``CLASSES`` of a section ``MAP_CONFIG``: the channels of labels and predictions, in order.

    Raises:
        ConfigError: there is none, one twice, or one that no layer stands for.
    """
    classes = list(map_cfg["CLASSES"])
    if not classes:
        raise ConfigError("MAP_CONFIG.CLASSES is empty; name at least one class")
    for name in classes:
        if name not in LAYERS_OF_CLASS:
            raise ConfigError(
                f"MAP_CONFIG.CLASSES: no layer of the map is called {name!r}; known classes: "
                f"{', '.join(LAYERS_OF_CLASS)}"
            )
        if classes.count(name) > 1:
            raise ConfigError(f"MAP_CONFIG.CLASSES names {name!r} more than once")
    return classes


def rasteriser_of(map_cfg: Mapping[str, Any]) -> str:
    """``RASTERISER`` of a section ``MAP_CONFIG``: ``devkit`` or ``exact``, which is the default.

    Raises:
        ConfigError: another one, or a ``LINE_WIDTH`` that is not positive.
    """
    name = map_cfg.get("RASTERISER", "exact")
    if name not in RASTERISERS:
        known = " or ".join(RASTERISERS)
        raise ConfigError(f"MAP_CONFIG.RASTERISER must be {known}, not {name!r}")
    width = float(map_cfg["LINE_WIDTH"])
    if not width > 0:
        raise ConfigError(f"MAP_CONFIG.LINE_WIDTH must be positive metres, not {width:g}")
    return name


def drawing_of(map_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """How labels were drawn, kept beside each score: ``rasteriser``, ``line_width`` in metres."""
    return {"rasteriser": rasteriser_of(map_cfg), "line_width": float(map_cfg["LINE_WIDTH"])}


def describe_drawing(drawing: Mapping[str, Any]) -> str:
    """The result of :func:`drawing_of` as text."""
    return f"rasteriser {drawing['rasteriser']}, lines {drawing['line_width']:g} m wide"

"""Classes of map segmentation, and the layers of nuScenes' map expansion that they are made of."""

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

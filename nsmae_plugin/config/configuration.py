"""All sections of a configuration."""

from __future__ import annotations

from typing import Annotated, Any

from nsmae_plugin.config.model import Model
from nsmae_plugin.config.optimization import Hook, Optimization
from nsmae_plugin.config.section import Section
from nsmae_plugin.config.sections import InSlot
from nsmae_plugin.config.values import Names


class Configuration(Section):
    """One YAML file with its bases."""

    CLASS_NAMES: Names
    DATA_CONFIG: Annotated[Any, InSlot("dataset", key="DATASET")]
    MODEL: Annotated[Any, InSlot("detector", otherwise=Model)]
    OPTIMIZATION: Optimization
    HOOK: Hook | None = None

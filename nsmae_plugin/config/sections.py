"""The section of each entry of a registry, found by slot and NAME.

Sections of a host's and of the plugin's own classes are named here by import path, in modules that
do without torch: a configuration is checked before anything is registered. Another class brings
its section as its attribute ``Config`` when it is registered.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from nsmae_plugin.config.section import Section, not_a_section
from nsmae_plugin.config.values import Words

#: slot -> NAME -> ``module:Class``
PATHS: dict[str, dict[str, str]] = {}

_declared: dict[tuple[str, str], type[Section]] = {}


def declare(slot: str, name: str, entry: Any) -> None:
    """Remember the section of a class or step that is registered, if it has one."""
    section = getattr(entry, "Config", None)
    if isinstance(section, type) and issubclass(section, Section):
        _declared[slot, name] = section


def find(slot: str, name: str) -> type[Section] | None:
    """The section of a registered NAME; None where its keys are not ours to check."""
    path = PATHS.get(slot, {}).get(name)
    if path is None:
        return _declared.get((slot, name))
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class InSlot:
    """Type of a section whose NAME says which keys it has: ``Annotated[Any, InSlot("neck")]``.

    Attributes:
        slot: of the registries.
        key: that names the entry.
    """

    slot: str
    key: str = "NAME"
    words: ClassVar[Words] = Words("a section with a NAME", "sections with a NAME")

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check a value by its NAME."""
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get(self.key), str):
            raise not_a_section(value)
        section = find(self.slot, value[self.key])
        return value if section is None else section.model_validate(value)

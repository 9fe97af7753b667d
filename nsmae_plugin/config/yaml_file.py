"""Safe reading of one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.runtime.reading import read_bytes

MOST_BYTES = 1 << 24
MOST_VALUES = 100_000  # with every alias written out; the recipes have some 300

_MERGE = "tag:yaml.org,2002:merge"  # <<


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file.

    Raises:
        ConfigError: the file is missing, no UTF-8, no YAML or no mapping, repeats a key, or has
            aliases that form a circle or stand for very many values.
    """
    try:
        content = _construct(read_bytes(path, "the configuration", "name a YAML file", MOST_BYTES))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except yaml.reader.ReaderError as error:
        wrong = "valid YAML" if error.encoding == "unicode" else "text in UTF-8"
        raise ConfigError(f"{path} is not {wrong}: {brief(error, 300)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month
        raise ConfigError(f"{path} is not valid YAML: {brief(error, 300)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not {type(content).__name__}")
    return content


def _construct(text: bytes) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise ConfigError(f"its YAML aliases stand for more than {MOST_VALUES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Values below a node with its aliases written out.

    Args:
        known: counts of nodes, None where counting is under way.
    """
    if node not in known:
        known[node] = None
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [one for pair in node.value for one in pair]
        known[node] = 1 + sum(_count(one, known) for one in children)
    count = known[node]
    if count is None:
        raise ConfigError("a YAML alias leads back to itself")
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a repeated key; YAML would silently keep only the last."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(
                    f"the key {brief(key.value)} in line {line} repeats line {lines[key.value]}"
                )
            lines[key.value] = line

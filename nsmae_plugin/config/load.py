"""YAML configuration in OpenPCDet's layout, with every key checked.

Differences from ``pcdet.config``: a misspelt key, a missing key or a value of the wrong type or
length is an error that names the key; ``_BASE_CONFIG_`` is resolved against the file that names it
and that file's ancestors, not against the working directory.
"""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from nsmae_plugin.config.configuration import Configuration
from nsmae_plugin.config.derived import complete, described_data
from nsmae_plugin.config.old_sections import update_sections
from nsmae_plugin.config.section import Section, shown, suggest
from nsmae_plugin.config.sections import below
from nsmae_plugin.config.yaml_file import read_yaml
from nsmae_plugin.errors import ConfigError, brief


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> EasyDict:
    """Read, merge, override, check and complete one configuration file.

    Values of MODEL that follow from others are filled in (:mod:`nsmae_plugin.config.derived`).

    Args:
        path: the YAML file.
        overrides: alternating dotted keys and values, as after ``--set``; an entry of a list of
            named sections is reached by its name: ``DATA_CONFIG.DATA_PROCESSOR.mask_voxels.RATIO``.

    Raises:
        ConfigError: naming the file, the key, and what was expected.
    """
    path = Path(path)
    config = read(path)
    apply_overrides(config, overrides)
    try:
        validate(config)
        update_sections(config)
        result = EasyDict(config)
        data = described_data(result)
        if data is not None:  # else the host completes MODEL, once it has the dataset
            result.MODEL = complete(result.MODEL, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return result


def read(path: Path, folders: Sequence[Path] = (), above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a file on top of its bases; nothing is checked.

    Args:
        folders: where else a base is looked for than beside the file that names it and above.
        above: files that this one is a base of.

    Raises:
        ConfigError: a file is missing, no YAML, or a base of itself.
    """
    if path.resolve() in above:
        raise ConfigError(f"{path}: its _BASE_CONFIG_ leads back to itself")
    return _merge_bases(read_yaml(path), path, folders, (*above, path.resolve()))


def _merge_bases(
    section: Mapping[str, Any], path: Path, folders: Sequence[Path], above: tuple[Path, ...]
) -> dict[str, Any]:
    """Copy of ``section`` on top of its ``_BASE_CONFIG_``, recursively; lists replaced whole."""
    merged: dict[str, Any] = {}
    if "_BASE_CONFIG_" in section:
        merged = read(_find_base(section["_BASE_CONFIG_"], path, folders), folders, above)
    for key, value in section.items():
        if key == "_BASE_CONFIG_":
            continue
        if isinstance(value, dict):
            value = _update(merged.get(key), _merge_bases(value, path, folders, above))
        else:
            value = plain(value)  # aliases of one list become several
        merged[key] = value
    return merged


def _update(base: Any, top: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(base, dict):
        return top
    result = dict(base)
    for key, value in top.items():
        result[key] = _update(base.get(key), value) if isinstance(value, dict) else value
    return result


def _find_base(name: Any, path: Path, folders: Sequence[Path]) -> Path:
    if not isinstance(name, str):
        raise ConfigError(f"{path}: _BASE_CONFIG_ must name a file, not {shown(name)}")
    for folder in (*path.resolve().parents, *folders):
        if os.path.isfile(folder / name):  # also False for impossible names
            return folder / name
    places = "".join(f", nor in {folder}" for folder in folders)
    raise ConfigError(
        f"{path}: _BASE_CONFIG_ {shown(name)} was found neither beside the file nor in a folder "
        f"above it{places}"
    )


def apply_overrides(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write ``key value`` pairs into ``config`` in place.

    A section that the configuration leaves out, but may have, is added.

    Raises:
        ConfigError: for an odd count, or a key whose parent section does not exist.
    """
    if len(overrides) % 2:
        raise ConfigError(f"--set takes pairs of KEY VALUE, got {brief(list(overrides))}")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        *parents, last = key.split(".")
        section: Any = config
        known: type[Section] | None = Configuration
        for depth, name in enumerate(parents):
            content = section.get(name) if isinstance(section, dict) else None
            known = None if known is None else below(known, name, content)
            if known is not None and isinstance(section, dict) and content is None:
                section[name] = {}
            section = _child(section, name, ".".join(parents[: depth + 1]))
        if not isinstance(section, dict):
            raise ConfigError(f"--set {brief(key)}: {'.'.join(parents)} is not a section")
        section[last] = plain(_literal(text))


def _child(section: Any, name: str, key: str) -> Any:
    if isinstance(section, list):
        for entry in section:
            if isinstance(entry, dict) and entry.get("NAME") == name:
                return entry
    elif isinstance(section, dict) and name in section:
        return section[name]
    raise ConfigError(
        f"--set {brief(key)}: there is no such section{suggest(name, _names(section))}"
    )


def _names(section: Any) -> list[str]:
    if isinstance(section, list):
        return [str(entry.get("NAME")) for entry in section if isinstance(entry, dict)]
    return list(section) if isinstance(section, dict) else []


def _literal(text: str) -> Any:
    # YAML's words first: OpenPCDet users write True and None, YAML files true and null.
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text  # TypeError: a list as a key; the last two: brackets without end


def plain(value: Any) -> Any:
    """Built-in containers in the place of EasyDict, which YAML and checkpoints would not read."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def validate(config: Mapping[str, Any]) -> None:
    """Check every key of a merged configuration.

    Raises:
        ConfigError: for an unknown or missing key, or a value that cannot be meant.
    """
    _check_key_names(config, "")
    Configuration.of(config)


def _check_key_names(content: Any, where: str) -> None:
    """Check that an EasyDict can hold all keys, those of OpenPCDet's sections included."""
    items = content.items() if isinstance(content, Mapping) else ()
    for key, value in items:
        if not isinstance(key, str) or hasattr(dict, key):
            prefix = f"{where}." if where else ""
            raise ConfigError(f"a key cannot be called {prefix}{brief(key)}")
        _check_key_names(value, f"{where}.{key}" if where else key)
    for value in content if isinstance(content, list) else ():
        _check_key_names(value, where)

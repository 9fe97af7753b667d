"""Scenes of each split, by nuScenes' official lists or by ``splits.json``."""

from collections.abc import Iterable
from pathlib import Path

from nsmae_plugin.errors import ConfigError, DataError, brief
from nsmae_plugin.runtime.reading import read_json

# The devkit's names of the splits of each version.
EVAL_SETS = {
    "v1.0-mini": {"train": "mini_train", "val": "mini_val"},
    "v1.0-trainval": {name: name for name in ("train", "val", "train_detect", "train_track")},
    "v1.0-test": {"test": "test"},
}
FILE = "splits.json"
FORM = '{"train": [scene names], "val": [scene names]}'


def scene_names(root: Path, version: str) -> dict[str, set[str]]:
    """Split (``train``, ``val`` or ``test``) → names of its scenes, for the info files.

    ``train`` and ``val`` of a file ``splits.json`` beside the tables define the splits of a custom
    database; without it nuScenes' official lists apply. Other splits in that file are for
    evaluation only.

    Raises:
        ConfigError: a version without official lists and without ``splits.json``.
        DataError: ``splits.json`` has another form, or a scene in both splits.
    """
    custom = custom_splits(root, version)
    if {"train", "val"} & set(custom):
        return _train_and_val(custom, split_file(root, version))
    if version not in EVAL_SETS:
        raise ConfigError(
            f"the version {version!r} is none of {', '.join(EVAL_SETS)}; for a database of your "
            f"own write its scenes into {split_file(root, version)}: {FORM}"
        )
    from nuscenes.utils.splits import create_splits_scenes  # pulls in the whole devkit

    official, sets = create_splits_scenes(), EVAL_SETS[version].items()
    return {split: set(official[name]) for split, name in sets if split in ("train", "val", "test")}


def split_file(root: Path, version: str) -> Path:
    """The file that defines the splits of a custom database."""
    return root / version / FILE


def custom_splits(root: Path, version: str) -> dict[str, list[str]]:
    """Split → names of its scenes, of ``splits.json``; empty without that file.

    Raises:
        DataError: the file is no JSON object, or its ``train`` or ``val`` is no list of names.
    """
    path = split_file(root, version)
    if not path.exists():
        return {}
    content = read_json(path, "the splits", f"it must read {FORM}")
    if not isinstance(content, dict):
        raise DataError(f"{path} must read {FORM}, not {brief(content)}")
    for split in ("train", "val"):
        if split in content and not _is_split(content[split]):
            raise DataError(
                f"{path} must read {FORM}: {split!r} is {brief(content[split])}, no list of names"
            )
    return {split: list(scenes) for split, scenes in content.items() if _is_split(scenes)}


def _is_split(scenes: object) -> bool:
    """Return whether the entries are names: a list, or the keys of an object."""
    return isinstance(scenes, list | dict) and all(isinstance(one, str) for one in scenes)


def _train_and_val(custom: dict[str, list[str]], path: Path) -> dict[str, set[str]]:
    missing = [split for split in ("train", "val") if split not in custom]
    if missing:
        raise DataError(f"{path} must read {FORM}: it has no {' and no '.join(missing)}")
    train, val = set(custom["train"]), set(custom["val"])
    if train & val:
        raise DataError(
            f"{path} has {_named(train & val)} in train and in val: keep each scene in one of them"
        )
    return {"train": train, "val": val}


def check_scenes(scenes: Iterable[str], present: set[str], path: Path) -> None:
    """Refuse scenes in ``splits.json`` that the database does not have.

    Args:
        scenes: names in ``splits.json``, at ``path``.
        present: those in ``scene.json``.

    Raises:
        DataError: naming the scenes.
    """
    unknown = set(scenes) - present
    if unknown:
        raise DataError(
            f"{path} names {_named(unknown)}, which scene.json beside it does not have; it has "
            f"{_named(present)}"
        )


def _named(scenes: set[str], most: int = 5) -> str:
    names = sorted(scenes)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(brief(name, 60) for name in names[:most])}{more}"

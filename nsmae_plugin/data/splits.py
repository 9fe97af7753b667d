"""Which scenes of a nuScenes database belong to which info file."""

import json
from pathlib import Path

from nsmae_plugin.errors import ConfigError, DataError

VERSIONS = ("v1.0-mini", "v1.0-trainval", "v1.0-test")


def scene_names(root: Path, version: str) -> dict[str, set[str]]:
    """Split (``train``, ``val`` or ``test``) → names of its scenes.

    A file ``splits.json`` beside the tables, ``{"train": [...], "val": [...]}`` as the devkit
    knows it, names the splits of a database of one's own; otherwise nuScenes' official lists hold.

    Raises:
        ConfigError: a version without official lists and without ``splits.json``.
        DataError: ``splits.json`` has another form.
    """
    custom = root / version / "splits.json"
    if custom.exists():
        return _custom_splits(custom)
    if version not in VERSIONS:
        raise ConfigError(
            f"the version {version!r} is none of {', '.join(VERSIONS)}; for a database of your own "
            f'write its scenes into {custom}: {{"train": [...], "val": [...]}}'
        )
    from nuscenes.utils import splits  # pulls in the whole devkit

    if version == "v1.0-test":
        return {"test": set(splits.test)}
    if version == "v1.0-mini":
        return {"train": set(splits.mini_train), "val": set(splits.mini_val)}
    return {"train": set(splits.train), "val": set(splits.val)}


def _custom_splits(path: Path) -> dict[str, set[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {split: set(content[split]) for split in ("train", "val")}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} must read {{"train": [scene names], "val": [scene names]}}: {error!r}'
        ) from error

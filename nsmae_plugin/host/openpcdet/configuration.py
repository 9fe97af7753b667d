"""Configurations in OpenPCDet's scripts: bases, paths, defaults, and the keys of ours checked.

``pcdet.config`` looks for a ``_BASE_CONFIG_`` in the working directory and reads it one level deep.
Here the folder of the file and those above it come first, at any depth, as in our own tools; the
result for OpenPCDet's own files is the same, less the names of the bases.

A configuration that names a dataset or a detector of the plugin is *ours*: every key is checked as
by our tools, its ``--set`` takes what theirs takes, and it gets the keys that OpenPCDet reads
without asking.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import Any

from nsmae_plugin.config import load as own
from nsmae_plugin.config.configuration import Configuration
from nsmae_plugin.config.known_modules import name_of
from nsmae_plugin.config.old_sections import update_sections
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.openpcdet import registry
from nsmae_plugin.host.openpcdet.patching import replace

# Keys that OpenPCDet's scripts read from every configuration, with defaults.
DEFAULTS: dict[str, Any] = {
    "MODEL": {"POST_PROCESSING": {"RECALL_THRESH_LIST": [0.5], "EVAL_METRIC": "nuscenes"}},
    "OPTIMIZATION": {"DECAY_STEP_LIST": [], "LR_WARMUP": False},
}

# The same for modules: section of MODEL -> NAME -> keys that it reads without asking.
MODULE_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "IMAGE_BACKBONE": {
        "SwinTransformer": {"DROP_RATE": 0.0, "ATTN_DROP_RATE": 0.0, "DROP_PATH_RATE": 0.0}
    },
    "DENSE_HEAD": {
        "CenterHead": {"CLASS_AGNOSTIC": False},
        "TransFusionHead": {"CLASS_AGNOSTIC": False},
    },
}

Read = Callable[..., Any]


class Reader:
    """Replacements of ``cfg_from_yaml_file`` and ``cfg_from_list``.

    Args:
        config_module: ``pcdet.config``.
        started_in: the directory that relative paths start from, if the working directory is not.
    """

    def __init__(self, config_module: ModuleType, started_in: Path):
        scripts = Path(str(config_module.__file__)).resolve().parents[1] / "tools"
        self.merge = config_module.merge_new_config
        self.folders = (started_in, scripts)

    def cfg_from_yaml_file(self, _: Read, cfg_file: str | None, config: Any) -> Any:
        """Read ``cfg_file`` and its bases into ``config``.

        Raises:
            ConfigError: a file is not named or missing, or, in a configuration of ours, a key is
                wrong.
        """
        if cfg_file is None:  # OpenPCDet's scripts do not require their flag
            raise ConfigError("no configuration was named; add --cfg_file with a YAML file")
        content = own.read(Path(cfg_file), (Path.cwd(), *self.folders))
        try:
            if is_ours(content):
                own.validate(content)
                update_sections(content)
        except ConfigError as error:
            raise ConfigError(f"{cfg_file}: {error}") from None
        self.merge(config, content)
        return self._complete(config)

    def cfg_from_list(self, original: Read, cfg_list: Sequence[str], config: Any) -> None:
        """Write the pairs after ``--set`` into ``config``.

        Raises:
            ConfigError: in a configuration of ours, a key or a value is wrong.
        """
        if is_ours(config):
            own.apply_overrides(config, cfg_list)
            own.validate({key: config[key] for key in Configuration.model_fields if key in config})
            update_sections(config)
        else:
            original(cfg_list, config)
        self._complete(config)

    def _complete(self, config: Any) -> Any:
        if is_ours(config):
            _fill(config, DEFAULTS)
        if "DATA_PATH" in config.get("DATA_CONFIG", {}):
            config.DATA_CONFIG.DATA_PATH = self._locate(config.DATA_CONFIG.DATA_PATH)
        return config

    def _locate(self, path: str) -> str:
        """A path as it is if it leads somewhere from here, else from the first folder it does."""
        if Path(path).exists():
            return path
        found = (str(folder / path) for folder in self.folders if (folder / path).exists())
        return next(found, path)


def _fill(section: Any, defaults: Mapping[str, Any]) -> None:
    """Add what a section lacks, at any depth."""
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            section.setdefault(key, type(section)())
            _fill(section[key], value)
        else:
            section.setdefault(key, copy(value))


def adapt_modules(model_cfg: Any) -> None:
    """Write MODEL, in place, as OpenPCDet's modules need it.

    Raises:
        ConfigError: a value that only the built-in host can take.
    """
    for key, known in MODULE_DEFAULTS.items():
        defaults = known.get(str(name_of(model_cfg, key)))
        if defaults is not None:
            _fill(model_cfg[key], defaults)
    if name_of(model_cfg, "IMAGE_BACKBONE") == "SwinTransformer":
        ratio = model_cfg.IMAGE_BACKBONE.MLP_RATIO
        if ratio != int(ratio):
            raise ConfigError(
                f"MODEL.IMAGE_BACKBONE.MLP_RATIO {ratio} must be an integer in OpenPCDet: change "
                "it, or use NSMAE_HOST=builtin"
            )
        model_cfg.IMAGE_BACKBONE.MLP_RATIO = int(ratio)  # a float would be one of channels
    if name_of(model_cfg, "NECK") == "GeneralizedLSSFPN":
        # The same as the last level, for which it asks other NUM_OUTS.
        model_cfg.NECK.END_LEVEL = -1


def install(config_module: ModuleType, started_in: Path) -> None:
    """Replace the functions of ``pcdet.config`` that scripts call; idempotent."""
    reader = Reader(config_module, started_in)
    replace(config_module, "cfg_from_yaml_file", reader.cfg_from_yaml_file)
    replace(config_module, "cfg_from_list", reader.cfg_from_list)


def is_ours(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration names a dataset or a detector of the plugin."""
    named = {"dataset": ("DATA_CONFIG", "DATASET"), "detector": ("MODEL", "NAME")}
    return any(
        registry.is_own(slot, (config.get(section) or {}).get(key))
        for slot, (section, key) in named.items()
    )

"""Options of a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsmae_plugin.data.loader import default_workers
from nsmae_plugin.detectors.branches import find_branches
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.experiments.probe.center_task import CenterTask
from nsmae_plugin.experiments.probe.encoders import CAMERA, CAMERA_POOLED, FUSED, LIDAR, Network
from nsmae_plugin.experiments.probe.heads import RECIPES
from nsmae_plugin.experiments.probe.map_task import MapTask
from nsmae_plugin.experiments.probe.occupancy_task import OccupancyTask
from nsmae_plugin.training.run_log import run_folder

TASKS: Mapping[str, Any] = {one.name: one for one in (CenterTask, MapTask, OccupancyTask)}
TRAIN = "train"
SCORED = ("validation", "test")  # splits that heads may be scored on
UNTRAINED = "untrained"
CACHE = "probe_cache"  # of features and labels, beside the folders of the probes that share it


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Options of :func:`run`, by the names of the flags that tools/probe.py explains.

    Attributes:
        branches, tasks: None takes all that the networks and the data have.
        label_fraction_by: None takes the configuration's.
        split: that heads are scored on.
        reference: None takes the first network.
        channels, lidar_depth, batch_size, statistics_batches: see
            :class:`~.extraction.ExtractOptions`.
    """

    cfg_file: Path
    networks: Sequence[str] = ()
    branches: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    heads: Sequence[str] = tuple(RECIPES)
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 1.0)
    label_fraction_by: str | None = None
    seeds: int = 20
    split: str = "test"
    reference: str | None = None
    metrics: Sequence[str] = ()
    channels: int | None = None
    lidar_depth: bool = False
    batch_size: int = 4
    statistics_batches: int = 25
    workers: int = field(default_factory=default_workers)
    device: str = "auto"
    extra_tag: str = "probe"
    output_dir: Path = Path("output")
    dry_run: bool = False
    report_only: bool = False
    overrides: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        return run_folder(self.output_dir, self.cfg_file, self.extra_tag)

    @property
    def splits(self) -> tuple[str, str]:
        """Those of training and of scores."""
        return TRAIN, self.split

    @property
    def cache(self) -> Path:
        return run_folder(self.output_dir, self.cfg_file, CACHE)


def chosen_metrics(texts: Sequence[str]) -> dict[str, list[str]]:
    """Metrics of every task, from ``TASK=METRIC``; a task that is not named keeps its own.

    Raises:
        ConfigError: a text has another form.
    """
    chosen: dict[str, list[str]] = {}
    for text in texts:
        task, equals, metric = text.partition("=")
        if task not in TASKS or not (equals and metric):
            raise ConfigError(
                f"--metrics {text!r}: give TASK=METRIC, such as centers=AP@2m/car; tasks are "
                f"{', '.join(TASKS)}"
            )
        chosen.setdefault(task, []).append(metric)
    return {name: chosen.get(name, [task.metric]) for name, task in TASKS.items()}


def chosen_branches(names: Sequence[str] | None, model_cfg: Any) -> list[str]:
    """Branches by name, or without names all but the pooled features.

    Raises:
        ConfigError: MODEL has no such branch.
    """
    camera, lidar = find_branches(model_cfg)
    has = {LIDAR: lidar, CAMERA: camera, FUSED: camera and lidar, CAMERA_POOLED: camera}
    there = [name for name in has if has[name]]
    absent = [name for name in names or () if name not in there]
    if absent:
        raise ConfigError(
            f"--branches {', '.join(absent)}: the networks have no such features, but "
            f"{', '.join(there)}"
        )
    return list(dict.fromkeys(names or (name for name in there if name != CAMERA_POOLED)))


def chosen_networks(texts: Sequence[str]) -> list[Network]:
    """Networks from ``NAME=PATH``, ``NAME=untrained`` or ``NAME=untrained:SEED``.

    Raises:
        ConfigError: a text has another form, or two have the same name.
    """
    networks = [_network(text) for text in texts]
    names = [network.name for network in networks]
    if len(set(names)) < len(names):
        raise ConfigError(f"--networks: two networks have the same name: {', '.join(names)}")
    return networks


def _network(text: str) -> Network:
    name, equals, origin = text.partition("=")
    if not (name.strip() and equals and origin) or "|" in name:
        raise ConfigError(
            f"--networks {text!r}: give NAME=PATH of a checkpoint, a folder of checkpoints or "
            "exported weights, or NAME=untrained"
        )
    word, _, seed = origin.partition(":")
    if word != UNTRAINED:
        return Network(name, Path(origin))
    if seed and not seed.isdecimal():
        raise ConfigError(f"--networks {text!r}: the seed behind {UNTRAINED}: must be a number")
    return Network(name, None, int(seed or 0))

"""The trials of a probe in order: data, tasks, labelled frames, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from nsmae_plugin.experiments.probe.center_task import CenterTask
from nsmae_plugin.experiments.probe.encoders import CAMERA, FUSED, LIDAR
from nsmae_plugin.experiments.probe.features import FeatureCache
from nsmae_plugin.experiments.probe.frames import ProbeData, load_labels
from nsmae_plugin.experiments.probe.map_task import MapTask
from nsmae_plugin.experiments.probe.occupancy_task import OccupancyTask
from nsmae_plugin.experiments.probe.options import TASKS, ProbeOptions, chosen_branches
from nsmae_plugin.experiments.probe.standardised import Standardised
from nsmae_plugin.experiments.probe.study import Study
from nsmae_plugin.experiments.probe.tasks import Task
from nsmae_plugin.experiments.probe.trials import Trial, run_trial
from nsmae_plugin.runtime import distributed

REPORT_EVERY = 60.0  # seconds, while trials run


@dataclass
class Probe:
    """The data of a probe, and what is asked of it.

    Attributes:
        train, test: labels of the frames that heads learn from and are scored on.
        branches: names of the features.
        labelled: training frames with labels, by fraction and seed.
    """

    options: ProbeOptions
    train: ProbeData
    test: ProbeData
    label_fraction_by: str
    branches: Sequence[str]
    tasks: Mapping[str, Task]
    labelled: Mapping[tuple[float, int], Sequence[int]]
    device: Any

    @classmethod
    def load(cls, options: ProbeOptions, config: Any) -> Probe:
        """Read the labels and check that all trials will be possible.

        Raises:
            ConfigError, DataError: see :func:`run`.
        """
        device = distributed.start("none", options.device).device
        branches = chosen_branches(options.branches, config.MODEL)
        train, test = (load_labels(config, split, options.cache) for split in options.splits)
        names = options.tasks or _possible_tasks(train)
        by = options.label_fraction_by or config.DATA_CONFIG.get("LABEL_FRACTION_BY", "frames")
        labelled = {
            (fraction, seed): train.labelled(fraction, by, seed)
            for fraction in options.fractions
            for seed in range(options.seeds)
        }
        tasks = {name: TASKS[name](train, test) for name in dict.fromkeys(names)}
        return cls(options, train, test, by, branches, tasks, labelled, device)

    def trials(self, networks: Sequence[str]) -> list[Trial]:
        """All combinations, seed by seed, so that the first comparisons are complete early."""
        options = self.options
        return [
            Trial(network, branch, head, task, fraction, seed)
            for seed in range(options.seeds)
            for fraction in dict.fromkeys(options.fractions)
            for task in self.tasks
            for branch in self.branches
            for head in dict.fromkeys(options.heads)
            for network in networks
        ]


def _possible_tasks(train: ProbeData) -> list[str]:
    possible = {
        CenterTask.name: any(len(boxes) for boxes in train.boxes),
        MapTask.name: train.map_masks is not None,
        OccupancyTask.name: train.occupied is not None,
    }
    return [name for name, there in possible.items() if there]


def run_trials(
    study: Study,
    probe: Probe,
    features: Mapping[tuple[str, str], FeatureCache],
    trials: Sequence[Trial],
    report: Callable[[], str],
) -> None:
    """Run the trials without a result; results are kept one by one."""
    done = {result.trial for result in study.results(study.networks)[0]}
    left = [trial for trial in trials if trial not in done]
    standardised: dict[tuple[str, str], Standardised] = {}
    for trial in _with_reports(left, len(trials), report):
        key = trial.network, trial.branch
        if key not in standardised:
            standardised[key] = _standardised(features, *key, probe)
        frames = probe.labelled[trial.fraction, trial.seed]
        settings = study.settings(trial)
        task, test_frames = probe.tasks[trial.task], len(probe.test)
        study.log.add(run_trial(trial, settings, task, standardised[key], frames, test_frames))


def _with_reports(
    trials: Sequence[Trial], total: int, report: Callable[[], str]
) -> Iterator[Trial]:
    """The trials, with a progress bar and now and then the report of what has finished."""
    reported = time.monotonic()
    bar = tqdm(trials, initial=total - len(trials), total=total, desc="trials", disable=None)
    for number, trial in enumerate(bar):
        if number and time.monotonic() - reported > REPORT_EVERY:
            report()
            if bar.disable:  # no terminal: a line in the log instead
                print(f"{total - len(trials) + number} of {total} trials finished", flush=True)
            reported = time.monotonic()
        yield trial


def _standardised(
    features: Mapping[tuple[str, str], FeatureCache], network: str, branch: str, probe: Probe
) -> Standardised:
    names = (CAMERA, LIDAR) if branch == FUSED else (branch,)
    train, test = (features[network, split] for split in probe.options.splits)
    return Standardised([(train.branch(name), test.branch(name)) for name in names], probe.device)

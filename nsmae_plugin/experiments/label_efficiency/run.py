"""Fine-tune from scratch and from other weights on fractions of the labels, and compare."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import default_workers
from nsmae_plugin.errors import ConfigError, NSMAEError
from nsmae_plugin.experiments.label_efficiency.arms import PRETRAINED, SCRATCH
from nsmae_plugin.experiments.label_efficiency.comparison import usual_metrics
from nsmae_plugin.experiments.label_efficiency.jobs import Runner
from nsmae_plugin.experiments.label_efficiency.summary import write_summary
from nsmae_plugin.experiments.label_efficiency.trials import Experiment
from nsmae_plugin.training.checkpoint import find


@dataclass(frozen=True, kw_only=True)
class LabelEfficiencyOptions:
    """Options of :func:`run`, by the names of the flags that ``nsmae label-efficiency`` explains.

    Attributes:
        pretrained_model: weights by the name of their arm; a single path is the arm ``pretrained``.
        metrics, metrics_file: None takes those of the network's tasks.
    """

    cfg_file: Path
    pretrained_model: Mapping[str, Path] | Path | None = None
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 1.0)
    seeds: Sequence[int] = (0, 1, 2)
    only: str | None = None
    metrics: Sequence[str] | None = None
    metrics_file: Sequence[str] | None = None
    jobs: int = 1
    nproc_per_node: int = 1
    workers: int = field(default_factory=default_workers)
    device: str = "auto"
    extra_tag: str = "label_efficiency"
    output_dir: Path = Path("output")
    train_args: Sequence[str] = ()
    test_args: Sequence[str] = ()
    dry_run: bool = False
    report_only: bool = False
    overrides: Sequence[str] = ()


def run(options: LabelEfficiencyOptions) -> int:
    """Run the trials that have not finished, and print the report.

    Returns:
        Exit status: 0 when every trial has finished.

    Raises:
        ConfigError: when there is nothing to compare with scratch, or no such arm.
        CheckpointError: when the weights do not exist.
        DataError: when there is nothing to report, or a trial lacks a metric.
    """
    names, files = usual_metrics(load_config(options.cfg_file, options.overrides).MODEL)
    metrics, metrics_files = options.metrics or names, options.metrics_file or files
    experiment = _experiment(options)
    trials = experiment.trials([options.only] if options.only else None)
    if options.report_only:
        print(write_summary(experiment, metrics), end="")
        return 0
    experiment.check(trials)
    if options.dry_run:
        for trial in trials:
            print(f"# {trial.name}: {experiment.stage(trial)}")
            print(shlex.join(experiment.train_command(trial)))
            print(shlex.join(experiment.test_command(trial)))
        return 0
    runner = Runner(experiment, options.jobs, metrics_files, partial(print, flush=True))
    failures = runner.run(trials, after_each=lambda: _report_so_far(experiment, metrics))
    print(write_summary(experiment, metrics), end="")
    print(f"{len(trials) - len(failures)} of {len(trials)} trials finished: {experiment.folder}")
    return 1 if failures else 0


def _experiment(options: LabelEfficiencyOptions) -> Experiment:
    given = options.pretrained_model or {}
    weights = given if isinstance(given, Mapping) else {PRETRAINED: given}
    if not weights and options.only in (None, PRETRAINED):
        raise ConfigError(
            f"the {PRETRAINED} trials need --pretrained_model; --only {SCRATCH} does without"
        )
    if options.only not in (None, SCRATCH, *weights):
        known = ", ".join((SCRATCH, *weights))
        raise ConfigError(f"--only {options.only}: there is no such arm; arms are {known}")
    return Experiment(
        cfg_file=options.cfg_file,
        output_dir=options.output_dir,
        tag=options.extra_tag,
        fractions=tuple(dict.fromkeys(options.fractions)),
        seeds=tuple(dict.fromkeys(options.seeds)),
        # The newest checkpoint of a folder, the same for all trials.
        weights={arm: find(path) for arm, path in weights.items()},
        overrides=tuple(options.overrides),
        train_args=tuple(options.train_args),
        test_args=tuple(options.test_args),
        process_args=("--workers", str(options.workers), "--device", options.device),
        processes=options.nproc_per_node,
    )


def _report_so_far(experiment: Experiment, metrics: Sequence[str]) -> None:
    """Write the report; an error in it does not stop the trials that still run."""
    try:
        write_summary(experiment, metrics)
    except NSMAEError as error:
        print(f"no report yet: {error}", flush=True)

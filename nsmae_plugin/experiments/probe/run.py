"""Compare networks by small heads on their frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.experiments.probe.encoders import Network
from nsmae_plugin.experiments.probe.extraction import ExtractOptions
from nsmae_plugin.experiments.probe.features import FeatureCache, extract
from nsmae_plugin.experiments.probe.options import (
    ProbeOptions,
    chosen_metrics,
    chosen_networks,
)
from nsmae_plugin.experiments.probe.runner import Probe, run_trials
from nsmae_plugin.experiments.probe.study import Probed, Study, labels_digest
from nsmae_plugin.experiments.probe.summary import write_summary
from nsmae_plugin.runtime import files
from nsmae_plugin.training import checkpoint


def run(options: ProbeOptions) -> int:
    """Run the trials that have not finished, and print the report.

    Returns:
        Exit status: 0.

    Raises:
        CheckpointError, ConfigError, DataError: options, weights or data that do not fit.
        OutputError: another process works in the same folder.
    """
    metrics = chosen_metrics(options.metrics)
    networks = chosen_networks(options.networks)
    names = [network.name for network in networks]
    if options.report_only:
        print(_report(options, names, metrics), end="")
        return 0
    if not networks:
        raise ConfigError("--networks: name one at least, such as random=untrained")
    reference = _reference(options, names)
    config = load_config(options.cfg_file, options.overrides)
    probe = Probe.load(options, config)
    if options.dry_run:
        _describe(options, probe, names)
        return 0
    study, features = _features(options, config, networks, probe)
    trials = probe.trials(names)
    with files.held(options.folder / "lock", f"another process works in {options.folder}"):
        study.save()
        study.log.repair()
        report = partial(write_summary, study, names, metrics, reference)
        run_trials(study, probe, features, trials, report)
        print(report(), end="")
    print(f"{len(trials)} trials finished: {options.folder}")
    return 0


def _reference(options: ProbeOptions, names: Sequence[str]) -> str:
    reference = options.reference or names[0]
    if reference not in names:
        raise ConfigError(f"--reference {reference} is not among {', '.join(names)}")
    return reference


def _report(
    options: ProbeOptions, names: Sequence[str], metrics: Mapping[str, Sequence[str]]
) -> str:
    """Write the summary of what is in the folder; without names of all its networks."""
    study = Study.read(options.folder)
    if study is None:
        raise DataError(f"there is no probe in {options.folder}")
    names = names or list(study.networks)
    unknown = [name for name in names if name not in study.networks]
    if unknown:
        raise ConfigError(
            f"no network {', '.join(unknown)} in {options.folder}; there are "
            f"{', '.join(study.networks)}"
        )
    return write_summary(study, names, metrics, _reference(options, names))


def _describe(options: ProbeOptions, probe: Probe, names: Sequence[str]) -> None:
    """Print what a start would do."""
    print(
        f"{probe.train.num_labelled} training frames, {len(probe.test)} of the split "
        f"{options.split}; labels by {probe.label_fraction_by}"
    )
    for fraction in dict.fromkeys(options.fractions):
        counts = {len(probe.labelled[fraction, seed]) for seed in range(options.seeds)}
        print(f"{100 * fraction:g} %: {' or '.join(map(str, sorted(counts)))} labelled frames")
    trials = probe.trials(names)
    study = Study.read(options.folder)
    known = [name for name in names if study is not None and name in study.networks]
    done = {one.trial for one in study.results(known)[0]} if study is not None else set()
    count = sum(trial in done for trial in trials)
    print(f"{len(trials)} trials, of which {count} have finished: {options.folder}")


def _features(
    options: ProbeOptions, config: Any, networks: Sequence[Network], probe: Probe
) -> tuple[Study, dict[tuple[str, str], FeatureCache]]:
    """The features of all networks, and the record of what results belong to."""
    extraction = ExtractOptions(
        batch_size=options.batch_size,
        statistics_batches=options.statistics_batches,
        channels=options.channels,
        lidar_depth=options.lidar_depth,
        workers=options.workers,
        device=probe.device,
    )
    tell: Callable[[str], None] = partial(print, flush=True)
    features = extract(config, networks, options.splits, options.cache, extraction, tell)
    earlier = Study.read(options.folder)
    probed = {} if earlier is None else dict(earlier.networks)
    for network in networks:
        cache = features[network.name, options.split]
        probed[network.name] = Probed(
            cache.digest,
            _origin(network),
            cache.diagnose().rows(),
            extraction.settings(),
            list(cache.untrained),
        )
    study = Study(
        options.folder,
        str(options.cfg_file),
        labels_digest([probe.train, probe.test]),
        probe.label_fraction_by,
        options.split,
        (probe.train.num_labelled, len(probe.test)),
        probed,
    )
    return study, features


def _origin(network: Network) -> str:
    """The weights of a network for the report: of a folder, the file that counts."""
    if network.weights is None:
        return f"untrained, seed {network.seed}"
    return f"`{checkpoint.find(network.weights)}`"

"""Fine-tune from scratch and from pre-trained weights on fractions of the labels, and compare.

Every trial is a run of tools/train.py and one of tools/test.py in a folder of its own,
``output/<group>/<config>/<extra_tag>/<arm>_<fraction>_seed<seed>``. Started again, the tool goes on
where it stopped: finished trials are kept, begun ones resume from their checkpoints. ``table.md``,
``results.json`` and ``plot.png`` in ``output/<group>/<config>/<extra_tag>`` are written anew after
each trial. The exit status is 0 when every trial has finished.
"""

import argparse
import shlex
import signal
import sys
from pathlib import Path

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import default_workers
from nsmae_plugin.errors import ConfigError, NSMAEError
from nsmae_plugin.experiments.label_efficiency.comparison import usual_metrics
from nsmae_plugin.experiments.label_efficiency.jobs import Runner
from nsmae_plugin.experiments.label_efficiency.summary import write_summary
from nsmae_plugin.experiments.label_efficiency.trials import ARMS, PRETRAINED, SCRATCH, Experiment
from nsmae_plugin.runtime.command_line import errors_in_one_line, positive
from nsmae_plugin.training.checkpoint import find


def fraction(text: str) -> float:
    """A number in (0, 1], for argparse."""
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError(f"{value} is not in (0, 1]")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cfg_file", type=Path, required=True, help="YAML configuration of the fine-tuning")
    add("--pretrained_model", type=Path, help="checkpoint or exported weights of the pre-training")
    add("--fractions", type=fraction, nargs="+", default=[0.01, 0.05, 0.1, 1.0])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the labels and the training")
    add("--only", choices=ARMS, help="run the trials of this arm alone")
    add("--metrics", nargs="+", help="default: mAP NDS of boxes, mIoU of maps; or dotted keys")
    add("--metrics_file", nargs="+", help="of tools/test.py; default: where the metrics are")
    add("--jobs", type=positive, default=1, help="trials at once; they share the cores")
    add("--nproc_per_node", type=positive, default=1, help="processes (GPUs) of one training")
    add("--workers", type=int, default=default_workers(), help="loader processes per trial")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--extra_tag", default="label_efficiency", help="name of this experiment")
    add("--output_dir", type=Path, default=Path("output"), help="root of the output directories")
    add("--train_args", type=shlex.split, default=[], help='for tools/train.py: "--use_amp ..."')
    add("--test_args", type=shlex.split, default=[], help='for tools/test.py: "--batch_size 4 ..."')
    add("--dry_run", action="store_true", help="print the commands and how far each trial is")
    add("--report_only", action="store_true", help="write the table of what has finished so far")
    add("--set", dest="overrides", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    return parser.parse_args(arguments)


def plan(args: argparse.Namespace) -> Experiment:
    """The experiment that the arguments describe.

    Raises:
        ConfigError: when the pre-trained arm has nothing to start from.
        CheckpointError: when the weights do not exist.
    """
    if args.pretrained_model is None and args.only != SCRATCH:
        raise ConfigError(
            f"the {PRETRAINED} trials need --pretrained_model; --only {SCRATCH} does without"
        )
    # A folder means its newest checkpoint: the same one for all trials, whatever comes later.
    weights = find(args.pretrained_model) if args.pretrained_model else None
    return Experiment(
        cfg_file=args.cfg_file,
        output_dir=args.output_dir,
        tag=args.extra_tag,
        fractions=tuple(dict.fromkeys(args.fractions)),
        seeds=tuple(dict.fromkeys(args.seeds)),
        weights=weights,
        overrides=tuple(args.overrides),
        train_args=tuple(args.train_args),
        test_args=tuple(args.test_args),
        plumbing=("--workers", str(args.workers), "--device", args.device),
        processes=args.nproc_per_node,
    )


def choose_metrics(args: argparse.Namespace) -> None:
    """Fill in the metrics that were not asked for by those of the network's tasks."""
    names, files = usual_metrics(load_config(args.cfg_file, args.overrides).MODEL)
    args.metrics = args.metrics or names
    args.metrics_file = args.metrics_file or files


def run(args: argparse.Namespace) -> int:
    choose_metrics(args)
    experiment = plan(args)
    trials = experiment.trials((args.only,) if args.only else ARMS)
    if args.report_only:
        print(write_summary(experiment, args.metrics), end="")
        return 0
    experiment.check(trials)
    if args.dry_run:
        for trial in trials:
            print(f"# {trial.name}: {experiment.stage(trial)}")
            print(shlex.join(experiment.train_command(trial)))
            print(shlex.join(experiment.test_command(trial)))
        return 0
    runner = Runner(experiment, args.jobs, args.metrics_file, tell)
    failures = runner.run(trials, after_each=lambda: report_so_far(experiment, args.metrics))
    print(write_summary(experiment, args.metrics), end="")
    print(f"{len(trials) - len(failures)} of {len(trials)} trials finished: {experiment.folder}")
    return 1 if failures else 0


def tell(line: str) -> None:
    print(line, flush=True)


def report_so_far(experiment: Experiment, metrics: list[str]) -> None:
    """Write the report; what is wrong with it is no reason to stop the trials that still run."""
    try:
        write_summary(experiment, metrics)
    except NSMAEError as error:
        tell(f"no report yet: {error}")


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    return run(parse_arguments(arguments))


if __name__ == "__main__":
    # A polite kill ends as Ctrl-C does, by way of the code that stops the trials.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())

"""The command ``nsmae``; also ``python -m nsmae_plugin.cli``, for launchers such as torchrun."""

from __future__ import annotations

import argparse
import importlib
import sys

from nsmae_plugin import __version__
from nsmae_plugin.runtime.command_line import errors_in_one_line

#: Command -> module with its ``main``, and what it does. Modules are imported when they run.
COMMANDS = {
    "train": ("nsmae_plugin.cli.train", "pre-train, or fine-tune for boxes and maps"),
    "test": ("nsmae_plugin.cli.test", "evaluate the checkpoints of a run"),
    "infer": ("nsmae_plugin.cli.infer", "predict boxes and maps: files, pictures, GIFs"),
    "visualize": ("nsmae_plugin.cli.visualize", "draw what a pre-trained network reconstructs"),
    "evaluate-pretrain": (
        "nsmae_plugin.cli.evaluate_pretrain",
        "measure the reconstruction of a split",
    ),
    "probe": ("nsmae_plugin.cli.probe", "compare checkpoints by small heads on their features"),
    "label-efficiency": (
        "nsmae_plugin.cli.label_efficiency",
        "compare fine-tunings on fractions of the labels",
    ),
    "export": ("nsmae_plugin.cli.export_weights", "write the encoders of a checkpoint"),
    "plot-curves": ("nsmae_plugin.cli.plot_curves", "plot the metrics of a run"),
    "create-infos": ("nsmae_plugin.cli.create_infos", "write the info files of a dataset"),
    "make-synthetic": (
        "nsmae_plugin.cli.make_synthetic_nuscenes",
        "write a synthetic dataset in the format of nuScenes",
    ),
    "configs": ("nsmae_plugin.cli.configs", "list the configurations of the package"),
    "doctor": ("nsmae_plugin.doctor", "examine this installation"),
}


@errors_in_one_line
def run(command: str, arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status.

    Args:
        arguments: None takes those of this process.
    """
    module = importlib.import_module(COMMANDS[command][0])
    return module.main(arguments)


def main() -> int:
    """Run the command that the first argument of this process names."""
    parser = argparse.ArgumentParser(
        prog="nsmae",
        description="NS-MAE pre-training of LiDAR-camera networks.",
        epilog="nsmae COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"nsmae_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    command = parser.parse_args(sys.argv[1:2]).command
    sys.argv[:2] = [f"nsmae {command}"]  # in usage lines, in logs, and in commands to resume
    return run(command)


if __name__ == "__main__":
    sys.exit(main())

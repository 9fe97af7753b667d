"""Plot every metric of a training run, training and held out, from its metrics.jsonl."""

import argparse
from pathlib import Path

from nsmae_plugin.runtime import files
from nsmae_plugin.visualization import panels
from nsmae_plugin.visualization.curves import draw_curves, read_metrics


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics_file", type=Path, help="the metrics.jsonl of a run")
    parser.add_argument("--output", type=Path, help="PNG to write (default: curves.png beside it)")
    parser.add_argument("--metrics", nargs="+", help="the metrics to plot (default: all)")
    args = parser.parse_args(arguments)
    output = args.output or args.metrics_file.with_name("curves.png")
    figure = draw_curves(read_metrics(args.metrics_file), args.metrics)
    files.make_folder(output.parent)
    panels.save(figure, output)
    print(output)
    return 0

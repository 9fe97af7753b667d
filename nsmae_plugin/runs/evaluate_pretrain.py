"""Measure the reconstruction of a whole split."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nsmae_plugin.config.load import load_config
from nsmae_plugin.evaluation.reconstruction import evaluate, format_table
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.runs.options import ModelOptions
from nsmae_plugin.runtime import distributed


@dataclass(frozen=True, kw_only=True)
class EvaluatePretrainOptions(ModelOptions):
    """Options of :func:`evaluate_pretrain`.

    Attributes:
        untrained: also measure an untrained network; always done without ``ckpt``.
        batch_size: None: the configuration's, per process.
    """

    untrained: bool = False
    batch_size: int | None = None
    workers: int = 0


def evaluate_pretrain(options: EvaluatePretrainOptions) -> tuple[dict[str, dict[str, float]], str]:
    """Metrics by network, ``trained``, ``untrained`` or both; and the table of them.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        ConfigError, DataError: from the dataset.
        NonFiniteError: a rendering is NaN or infinite.
    """
    config = load_config(options.cfg_file, options.overrides)
    device = distributed.start("none", options.device).device
    batch_size = options.batch_size or config.OPTIMIZATION.BATCH_SIZE_PER_GPU
    checkpoints: dict[str, Path | None] = {"trained": options.ckpt} if options.ckpt else {}
    if options.untrained or not options.ckpt:
        checkpoints["untrained"] = None
    results = {}
    for title, ckpt in checkpoints.items():
        loaded = load_model(
            config, options.split, device, ckpt, batch_size, options.workers, options.seed
        )
        print(f"{title}: {loaded.origin}", file=sys.stderr)
        loader = tqdm(loaded.loader, desc=title, disable=not sys.stderr.isatty())
        results[title] = evaluate(loaded.model, loader, device)
    return results, format_table(results, loaded.model.render_heads)

"""Draw the renderings of a pre-trained network for one sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.runs.loaded_model import load_model
from nsmae_plugin.runs.options import ModelOptions
from nsmae_plugin.runtime import distributed
from nsmae_plugin.visualization.reconstruction_pictures import sample_of, save_pictures


@dataclass(frozen=True, kw_only=True)
class VisualizeOptions(ModelOptions):
    """Options of :func:`visualize`: the sample by position in the split, or by nuScenes token."""

    index: int = 0
    token: str | None = None
    output_dir: Path = Path("output/pictures")


def visualize(options: VisualizeOptions) -> list[Path]:
    """Render a sample and write its pictures; return their paths.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        ConfigError, DataError: from the dataset, or a sample that it does not have.
    """
    config = load_config(options.cfg_file, options.overrides)
    device = distributed.start("none", options.device).device
    loaded = load_model(config, options.split, device, options.ckpt, seed=options.seed)
    index = options.index if options.token is None else loaded.index_of(options.token)
    batch = host.to_device(loaded.batch_of(index), device)
    with torch.inference_mode():
        rendered, _ = loaded.model(batch)
    sample = sample_of(batch, rendered, 0, config.DATA_CONFIG.POINT_CLOUD_RANGE)
    where = f"{options.split} sample {index}, {loaded.dataset.infos[index]['token']}"
    caption = f"{options.cfg_file.stem}, {loaded.origin} · {where}"
    return save_pictures(sample, caption, options.output_dir)

"""A small pre-training run with both sensors, to be recorded once and resumed ever after.

As a program it records the run in the working directory, with the version of the plugin that it
finds on the import path: see ``tests/golden/run/README.md``.
"""

import gzip
import shutil
import sys
from pathlib import Path
from unittest import mock

import nsmae_plugin

# isort: split
import spconv.pytorch as spconv
import torch
from torch import nn

import tools.train
from nsmae_plugin import host

FILES = Path(__file__).resolve().parents[1] / "golden" / "run"
STEPS = 2  # of 6, after which the recorded run was interrupted, in the middle of its first epoch
RUN = Path("output/golden/run")

_register = nsmae_plugin.register


class GoldenBackbone(nn.Module):
    """Stand-in for a sparse backbone of millions of weights: means over 20 x 8 x 8 voxels."""

    def __init__(self, model_cfg, input_channels, grid_size, **kwargs):
        super().__init__()
        x, y, z = map(int, grid_size)
        self.shape = [z // 20, y // 8, x // 8]
        self.linear = nn.Linear(input_channels, 2)
        self.num_point_features = 2
        self.backbone_channels = {}

    def forward(self, batch_dict):
        cells = batch_dict["voxel_coords"].long() // torch.tensor([1, 20, 8, 8])
        cells, cell_of_voxel = torch.unique(cells, dim=0, return_inverse=True)
        features = self.linear(batch_dict["voxel_features"])
        total = features.new_zeros(len(cells), 2).index_add(0, cell_of_voxel, features)
        mean = total / cell_of_voxel.bincount()[:, None]
        batch_dict["encoded_spconv_tensor"] = spconv.SparseConvTensor(
            mean, cells.int(), self.shape, batch_dict["batch_size"]
        )
        batch_dict["encoded_spconv_tensor_stride"] = 8
        return batch_dict


def train(world, tag, *options):
    """Run tools/train.py in the working directory on the recorded configuration."""
    path = Path("cfgs/golden/run.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(FILES / "configuration.yaml", path)
    words = ["--cfg_file", path, "--extra_tag", tag, "--workers", "0", "--device", "cpu", *options]
    with mock.patch("nsmae_plugin.register", register):
        return tools.train.main([*map(str, words), "--set", "DATA_CONFIG.DATA_PATH", str(world)])


def register():
    _register()
    host.register("backbone_3d", "GoldenBackbone", GoldenBackbone)


if __name__ == "__main__":
    world = sys.argv[1]
    assert train(world, "whole", "--seed", "1") == 0
    assert train(world, "interrupted", "--seed", "1", "--max_steps", STEPS) == 0
    shutil.copy(RUN / "whole/metrics.jsonl", FILES)
    content = (RUN / "interrupted/ckpt/latest_model.pth").read_bytes()
    (FILES / "latest_model.pth.gz").write_bytes(gzip.compress(content, mtime=0))

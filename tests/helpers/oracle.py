"""A detector that knows the annotations, to draw and score boxes without training.

``OracleDetector`` predicts the annotated boxes of the configured classes in the order of the info
file; in samples without annotations it sees one car ahead.
"""

import json
from pathlib import Path

import torch
import yaml
from torch import nn

from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.training import checkpoint
from tests.helpers.paths import TINY
from tools import infer

PICTURES = ["boxes.json", "cameras.png", "bev.png"]
SHIFT = (0.5, -0.25, 0.125)  # metres, exact in binary
BROKEN = 1e30
AHEAD = [2.0, 12.0, -0.8, 4.5, 1.9, 1.6, 1.2, 1.0, 2.0]  # a car before the vehicle


def or_nan(weights):
    """Huge weights as NaN, as after an overflow. NaN itself is refused when weights are loaded."""
    return torch.where(weights < BROKEN, weights, torch.nan)


class OracleDetector(nn.Module):
    """Box ``k`` scores ``score(k)``; the weight ``shift`` (3,) moves all boxes, in metres."""

    def __init__(self, model_cfg, num_class, dataset):
        super().__init__()
        self.classes = dataset.class_names
        self.infos = {info["token"]: info for info in dataset.infos}
        self.shift = nn.Parameter(torch.zeros(3))  # BROKEN makes it NaN

    def forward(self, batch_dict):
        return [self.predict(one["token"]) for one in batch_dict["metadata"]], {}

    def predict(self, token):
        info = self.infos[token]
        boxes, names = info.get("gt_boxes", [AHEAD]), info.get("gt_names", ["car"])
        known = [position for position, name in enumerate(names) if name in self.classes]
        values = torch.tensor([list(map(float, boxes[one])) for one in known]).reshape(-1, 9)
        labels = [self.classes.index(names[one]) + 1 for one in known]
        values = values.nan_to_num()  # velocities that the annotations do not know
        return {
            "pred_boxes": torch.cat([values[:, :3] + or_nan(self.shift), values[:, 3:]], 1),
            "pred_scores": score(torch.arange(len(known))),
            "pred_labels": torch.tensor(labels, dtype=torch.long),
        }


def score(position):
    """Score of the box at ``position`` of a sample's predictions: 0.9, then 1 % less each."""
    return 0.9 * 0.99**position


def write_config(path, base, root, **data_config):
    """A configuration of the oracle on the dataset configuration ``base``, rooted at ``root``."""
    content = load_config(base)
    content["MODEL"] = {"NAME": "OracleDetector"}
    content["DATA_CONFIG"] |= {"DATA_PATH": str(root), **data_config}
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))  # plain containers
    return path


def write_checkpoint(path, shift=(0.0, 0.0, 0.0)):
    """Weights of an oracle that is wrong by ``shift`` metres."""
    state = {"shift": torch.tensor(shift)}
    checkpoint.write({"epoch": 3, "it": 12, "model_state": state}, path)
    return path


def write_arguments(folder, root):
    """What ``tools/infer.py`` takes to ask an oracle that is wrong by ``SHIFT`` about a world."""
    config = write_config(folder / "oracle.yaml", TINY / "nsmae_pretrain.yaml", root)
    weights = write_checkpoint(folder / "oracle.pth", SHIFT)
    return ["--cfg_file", str(config), "--ckpt", str(weights), "--device", "cpu"]


def register():
    """Enter the oracle into the active host."""
    host.register("detector", "OracleDetector", OracleDetector)


def call(capsys, *arguments, code=0):
    """Run ``tools/infer.py``: the paths that it printed, or the error when ``code`` is 1."""
    assert infer.main(list(map(str, arguments))) == code
    captured = capsys.readouterr()
    if code:
        return captured.err
    return [Path(line) for line in captured.out.splitlines()]


def boxes_of(path):
    """Content of a ``boxes.json``."""
    return json.loads(path.read_text())

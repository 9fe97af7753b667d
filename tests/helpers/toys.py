"""A detector and a dataset that train in milliseconds, started through the tools.

``python -m tests.helpers.toys <arguments of tools/train.py>`` trains them. The environment sets
traps:
``TOY_KILL_AT`` kills the process with SIGKILL in the forward pass of that step, ``TOY_SIGNAL_AT``
``STEP:SIGNAL`` sends that signal to rank 0, ``TOY_NAN_AT`` makes the loss term ``loss_fit`` NaN
there. ``TOY_BROKEN_FRAME`` is an index of the dataset that cannot be read, and with
``TOY_EVALUATE`` there is an evaluation after every epoch.
"""

import contextlib
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
import numpy as np
import torch
import yaml
from easydict import EasyDict
from torch import nn

from nsmae_plugin import host, runs
from nsmae_plugin.cli.train import parse_options
from nsmae_plugin.errors import DataError
from nsmae_plugin.runtime.command_line import errors_in_one_line
from nsmae_plugin.training.update import read_records, update_weights

FEATURES = 4

CONFIG = {
    "CLASS_NAMES": ["car"],
    "DATA_CONFIG": {"DATASET": "ToyDataset", "DATA_PATH": ".", "LENGTH": 10},
    "MODEL": {"NAME": "ToyDetector"},
    "OPTIMIZATION": {
        "BATCH_SIZE_PER_GPU": 2,
        "NUM_EPOCHS": 3,
        "OPTIMIZER": "adam_onecycle",
        "LR": 0.01,
        "WEIGHT_DECAY": 0.01,
        "MOMS": [0.95, 0.85],
        "PCT_START": 0.4,
        "DIV_FACTOR": 10,
        "GRAD_NORM_CLIP": 35,
    },
}


class ToyDataset(host.DatasetTemplate):
    """Sample ``i``: a fixed vector and noise that is drawn anew every time, and its sum."""

    def __init__(self, dataset_cfg, class_names, training=True, root_path=None, logger=None):
        self.dataset_cfg, self.class_names = dataset_cfg, class_names
        self.training, self.logger = training, logger

    def __len__(self):
        return self.dataset_cfg["LENGTH"]

    def __getitem__(self, index):
        if str(index) == os.environ.get("TOY_BROKEN_FRAME"):
            raise DataError(f"frame{index} is broken")
        clean = np.linspace(-1, 1, FEATURES, dtype=np.float32) * (index + 1)
        noise = np.random.normal(size=FEATURES).astype(np.float32)  # noqa: NPY002
        return {
            "frame_id": f"frame{index}",
            "x": clean + 0.1 * noise,
            "y": clean.sum(keepdims=True),
        }

    @staticmethod
    def collate_batch(batch_list, _unused=False):
        batch = {key: np.stack([one[key] for one in batch_list]) for key in ("x", "y")}
        frames = np.array([one["frame_id"] for one in batch_list])
        return {**batch, "frame_id": frames, "batch_size": len(batch_list)}


class ToyDetector(nn.Module):
    """Regression with what makes a resume hard: dropout, and a parameter beside child modules.

    The loss is a mean over samples and there is no BatchNorm, so that without dropout the gradient
    of a batch is the mean of those of its parts.
    """

    def __init__(self, model_cfg=None, num_class=1, dataset=None, dropout=0.5):
        super().__init__()
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.token = nn.Parameter(torch.zeros(FEATURES))
        self.body = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(8, 1)

    def update_global_step(self):
        self.global_step += 1

    def forward(self, batch):
        step = int(self.global_step)
        if str(step) == os.environ.get("TOY_KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        at, _, signum = os.environ.get("TOY_SIGNAL_AT", ":").partition(":")
        if str(step) == at and os.environ.get("RANK", "0") == "0":
            os.kill(os.getpid(), int(signum))
        prediction = self.head(self.body(batch["x"] + self.token)).float()
        loss = (prediction - batch["y"]).square().mean()
        if str(step) == os.environ.get("TOY_NAN_AT"):
            loss = loss * float("nan")
        return {"loss": loss}, {"loss_fit": loss.item(), "loss_other": 0.0}, {}


def register():
    """Enter the toys into the active host."""
    host.register("dataset", "ToyDataset", ToyDataset)
    host.register("detector", "ToyDetector", ToyDetector)


def write_config(folder, **optimization):
    """Write ``folder/cfgs/group/toy.yaml`` and return its path."""
    path = Path(folder) / "cfgs/group/toy.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "OPTIMIZATION": {**CONFIG["OPTIMIZATION"], **optimization}}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def batch(*indices):
    """The joint batch of some samples, without noise."""
    dataset = ToyDataset(EasyDict(LENGTH=100), ["car"])
    state = np.random.get_state()  # noqa: NPY002
    try:
        samples = []
        for index in indices:
            np.random.seed(index)  # noqa: NPY002
            samples.append(dataset[index])
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return dataset.collate_batch(samples)


def free_port():
    """A TCP port of this machine that nobody listens on.

    Below those that systems deal out themselves (from 32768 on Linux): another process could be
    given one of them before it is used here.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


def evaluate(model):
    """The error of some samples, after a while; draws numbers as augmentations might."""
    model.eval()
    with torch.no_grad():
        result = model(host.to_device(batch(1, 2, 3), "cpu"))[0]
    model.train()
    np.random.normal(size=3)  # noqa: NPY002
    torch.rand(2)
    time.sleep(0.01)
    return {"error": result["loss"].item()}


def train_step(run, batches, device="cpu", clip=35, **options):
    """One update of the weights, read at once; returns its numbers."""
    record = update_weights(run, batches, torch.device(device), clip=clip, **options)
    return read_records([record])[0]


@errors_in_one_line
def train(*arguments):
    """Run tools/train.py; returns its exit status."""
    register()
    options = parse_options([str(one) for one in arguments])
    runs.train.train(options, evaluate if os.environ.get("TOY_EVALUATE") else None)
    return 0


if __name__ == "__main__":
    sys.exit(train(*sys.argv[1:]))

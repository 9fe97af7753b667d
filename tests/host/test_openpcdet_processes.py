"""OpenPCDet's scripts in several processes: what they do with devices that are not there.

``tests/host/test_stock_training.py`` runs them in two; here one process calls what
they call.
"""

import multiprocessing

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nsmae_plugin.errors import ConfigError
from nsmae_plugin.runtime import distributed
from tests.helpers.toys import free_port

pytestmark = [
    pytest.mark.openpcdet,
    pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA it is OpenPCDet's own affair"),
]


@pytest.fixture
def utils(openpcdet_host, monkeypatch):
    """``pcdet.utils`` in a process that torchrun might have started; it leaves the group."""
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**environment, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    from pcdet import utils
    from pcdet.utils import common_utils, commu_utils  # noqa: F401

    yield utils
    distributed.stop()


def test_processes_without_devices_speak_gloo_and_count_themselves(utils):
    assert utils.common_utils.init_dist_pytorch(18888, 0, backend="nccl") == (1, 0)
    assert torch.distributed.get_backend() == "gloo"
    assert multiprocessing.get_start_method() == "fork"  # a spawned one would lack the plugin
    assert utils.commu_utils.average_reduce_value(3.0) == 3.0
    assert 3 % torch.cuda.device_count() == 0
    assert not torch.cuda.device_count()
    assert list(range(torch.cuda.device_count())) == []


class Network(nn.Module):
    """Two layers, of which one may rest."""

    find_unused_parameters = True

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, value):
        return self.used(value)


def test_a_model_is_wrapped_without_a_device_and_may_have_parameters_at_rest(utils):
    utils.common_utils.init_dist_pytorch(18888, 0, backend="nccl")
    model = DistributedDataParallel(Network(), device_ids=[0 % torch.cuda.device_count()])
    for _ in range(2):  # the second step needs all gradients of the first to have been seen to
        model(torch.ones(1, 1)).sum().backward()
    assert model.module.used.weight.grad == 2
    assert model.module.idle.weight.grad is None


def test_processes_meet_before_they_look_for_the_checkpoints_to_evaluate(utils, monkeypatch):
    """Rank 0 comes last: it has written the checkpoint of the last epoch before."""
    from pcdet import datasets

    from nsmae_plugin.host.openpcdet import processes

    assert hasattr(datasets.build_dataloader, "__wrapped__")
    utils.common_utils.init_dist_pytorch(18888, 0, backend="nccl")
    done = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: done.append("met"))

    def build(training):
        done.append("built")
        return training

    for training in (True, False):
        assert processes._build_dataloader(build, training=training) is training
    assert done == ["built", "built", "met"]


@pytest.mark.parametrize(
    ("launcher", "variable"), [("pytorch", "MASTER_PORT"), ("slurm", "SLURM_PROCID")]
)
def test_a_launcher_that_started_nothing_is_refused(utils, monkeypatch, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f"--launcher {launcher} needs .*{variable}.*; start"):
        getattr(utils.common_utils, f"init_dist_{launcher}")(18888, 0, backend="nccl")


def test_processes_that_would_all_read_the_same_are_refused(utils, monkeypatch):
    from pcdet import datasets

    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = {"dataset_cfg": None, "class_names": []}
    with pytest.raises(ConfigError, match=r"started 2 processes, .*add --launcher pytorch"):
        datasets.build_dataloader(**settings, batch_size=1, dist=False)
    with pytest.raises(ConfigError, match="--batch_size must be at least 1"):
        datasets.build_dataloader(**settings, batch_size=0, dist=True)

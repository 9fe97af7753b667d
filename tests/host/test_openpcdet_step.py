"""A batch on OpenPCDet's way to its loss, and on ours: the same loss and the same gradients.

Its way is collation, ``load_data_to_gpu`` and ``model_fn_decorator``, with the configuration as its
script reads it; ours is the loader's collation and ``update_weights``.
"""

import copy
import math

import pytest
import torch
from easydict import EasyDict

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.host.batch import share_large_arrays
from nsmae_plugin.optimization import optim
from nsmae_plugin.training.run_state import Progress, Run
from nsmae_plugin.training.update import read_records, update_weights
from tests.helpers.paths import TINY

pytestmark = [pytest.mark.openpcdet, pytest.mark.usefixtures("openpcdet_host")]


def read_as_openpcdet_does(path, root):
    from pcdet.config import cfg_from_list, cfg_from_yaml_file

    config = EasyDict()
    cfg_from_yaml_file(str(path), config)
    cfg_from_list(["DATA_CONFIG.DATA_PATH", str(root)], config)
    return config


def make_network(config):
    """A dataset and, with the weights of a seed, a network in training mode."""
    nsmae_plugin.register()
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    torch.manual_seed(0)
    return dataset, host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset).train()


def gradients(model):
    return {
        name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None
    }


def openpcdets_step(path, root, draw):
    from pcdet.models import model_fn_decorator

    dataset, model = make_network(read_as_openpcdet_does(path, root))
    batch = dataset.collate_batch(draw(dataset))
    torch.manual_seed(1)  # of what the network draws: stochastic depth
    loss, terms, _ = model_fn_decorator()(model, batch)
    loss.backward()
    return loss.item(), terms, gradients(model)


def our_step(path, root, draw):
    config = load_config(path, ["DATA_CONFIG.DATA_PATH", str(root)])
    dataset, model = make_network(config)
    batch = share_large_arrays(dataset.collate_batch(draw(dataset)))
    optimizer = optim.build_optimizer(model, config.OPTIMIZATION)
    run = Run(
        model=model,
        optimizer=optimizer,
        scheduler=optim.build_scheduler(optimizer, config.OPTIMIZATION, 10, 10),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        progress=Progress(),
    )
    torch.manual_seed(1)
    record = update_weights(run, [batch], torch.device("cpu"), clip=math.inf)
    values = read_records([record])[0]
    return values["loss"], values, gradients(model)


@pytest.mark.parametrize("name", ["nsmae_pretrain", "bevfusion_map", "bevfusion_det"])
def test_a_batch_gives_the_same_loss_and_gradients(name, synthetic_root):
    samples = []

    def draw(dataset):
        """The same samples for both: masks and augmentations drawn once, arrays copied."""
        if not samples:
            with seeded(0):
                samples.extend(dataset[index] for index in range(2))
        return copy.deepcopy(samples)

    path = TINY / f"{name}.yaml"
    loss, terms, theirs = openpcdets_step(path, synthetic_root, draw)
    our_loss, our_terms, ours = our_step(path, synthetic_root, draw)
    assert math.isfinite(loss)
    assert our_loss == pytest.approx(loss, rel=1e-5)
    for term, value in terms.items():
        assert our_terms[term] == pytest.approx(float(torch.as_tensor(value).detach()), rel=1e-5), (
            term
        )
    assert ours.keys() == theirs.keys()
    assert any("backbone_3d" in key for key in ours)
    assert any("image_backbone" in key for key in ours)
    for key, gradient in ours.items():
        scale = float(theirs[key].abs().max())
        assert torch.allclose(gradient, theirs[key], rtol=1e-5, atol=1e-5 * scale), key

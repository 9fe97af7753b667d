"""Networks of the tiny recipes on a range of 25.6 m of the synthetic world, for probes."""

import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.experiments.probe.extraction import ExtractOptions
from nsmae_plugin.experiments.probe.features import extract
from nsmae_plugin.runs.loaded_model import data_of_split
from tests.helpers.paths import TINY

SMALL = {
    "DATA_CONFIG.POINT_CLOUD_RANGE": "[-12.8, -12.8, -5.0, 12.8, 12.8, 3.0]",
    "DATA_CONFIG.MAP_CONFIG.XBOUND": "[-12.0, 12.0, 0.5]",
    "DATA_CONFIG.MAP_CONFIG.YBOUND": "[-10.0, 12.0, 0.5]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM": "[64, 96]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TEST": "[0.7, 0.7]",
    "DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE": "[0.2, 0.2, 0.2]",
}


def small_config(root, recipe="bevfusion_multitask", **changes):
    """A recipe on the small range; dotted keys of ``changes`` are written with double _."""
    nsmae_plugin.register()
    words = {**SMALL, "DATA_CONFIG.DATA_PATH": str(root)}
    words |= {key.replace("__", "."): str(value) for key, value in changes.items()}
    if recipe.startswith("camera"):
        del words["DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE"]
    pairs = [word for pair in words.items() for word in pair]
    return load_config(TINY / f"{recipe}.yaml", pairs)


def build_network(config, seed=0, split="train"):
    """A whole network with unusual BatchNorm statistics, in evaluation mode, and its data."""
    data = data_of_split(config.DATA_CONFIG, split)
    dataset = host.build_dataset(data, config.CLASS_NAMES, False)
    torch.manual_seed(seed)
    network = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)
    for norm in network.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return network.eval(), dataset


def write_weights(path, network, without=()):
    """A checkpoint of a network, less some slots."""
    state = network.state_dict()
    kept = {name: value for name, value in state.items() if name.split(".")[0] not in without}
    torch.save({"model_state": kept}, path)
    return path


def extract_small(config, folder, *networks, splits=("train",), tell=None, **options):
    """Features of the training split, with the statistics of the weights unless told otherwise."""
    options = {"batch_size": 2, "statistics_batches": 0, "moments_frames": 2, **options}
    lines = [] if tell is None else tell
    return extract(config, networks, splits, folder, ExtractOptions(**options), lines.append)

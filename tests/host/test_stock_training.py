"""OpenPCDet's own scripts run unmodified and uncompiled, and start from exported weights.

Its training script gets one of its own configurations and, by its own ``--set``, a smaller range
and smaller images; the architectures are those of the files. At a learning rate of zero, what it
saves is what it loaded, but for BatchNorm's statistics.
"""

import re

import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.training.export import export
from tests.helpers.paths import CFGS
from tests.helpers.stock_scripts import start

pytestmark = pytest.mark.openpcdet

STEPS = 3  # of the training script
COUNTED = 1000  # batches that the exported BatchNorm layers claim to have seen
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
SMALL = {
    "DATA_CONFIG.VERSION": "v1.0-mini",
    "DATA_CONFIG.MAX_SWEEPS": "3",
    "DATA_CONFIG.BALANCED_RESAMPLING": "False",
    "DATA_CONFIG.POINT_CLOUD_RANGE": "[-19.2, -19.2, -5.0, 19.2, 19.2, 3.0]",
    "DATA_CONFIG.INFO_PATH.train": "three_frames.pkl",
    "DATA_CONFIG.INFO_PATH.test": "nuscenes_infos_3sweeps_val.pkl",
    "DATA_CONFIG.DATA_AUGMENTOR.DISABLE_AUG_LIST": "gt_sampling",  # needs a database of objects
    "MODEL.DENSE_HEAD.POST_PROCESSING.SCORE_THRESH": "0.0",  # the devkit refuses to find nothing
    "OPTIMIZATION.LR": "0.0",
}
SMALL_CAMERAS = {
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM": "[64, 160]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TRAIN": "[1.0, 1.2]",
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TEST": "[1.0, 1.0]",
    "MODEL.VTRANSFORM.IMAGE_SIZE": "[64, 160]",
    "MODEL.VTRANSFORM.FEATURE_SIZE": "[8, 20]",
    "MODEL.VTRANSFORM.XBOUND": "[-19.2, 19.2, 0.3]",
    "MODEL.VTRANSFORM.YBOUND": "[-19.2, 19.2, 0.3]",
}


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """Export of a network of cfgs/nsmae_pretrain.yaml that is unlike any initialisation."""
    nsmae_plugin.register()
    config = load_config(
        CFGS / "nsmae_pretrain.yaml",
        ["DATA_CONFIG.DATA_PATH", str(data), "DATA_CONFIG.VERSION", "v1.0-mini"]
        + ["DATA_CONFIG.MAX_SWEEPS", "3", "DATA_CONFIG.INFO_PATH.train", "['three_frames.pkl']"],
    )
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    torch.manual_seed(0)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(COUNTED)
        elif value.is_floating_point():
            # Little, so that the untrained detectors do not predict boxes of no extent.
            value.add_(0.001 * torch.randn(value.shape, generator=generator))
    folder = tmp_path_factory.mktemp("run") / "ckpt"
    folder.mkdir()
    torch.save({"model_state": model.state_dict(), "epoch": 50}, folder / "checkpoint_epoch_50.pth")
    path = folder.parent / "nsmae_weights.pth"
    export(folder, path)
    return path


@pytest.fixture(scope="module")
def checkout(openpcdet_copy, exported):
    """bevfusion.yaml initialises Swin from a file that OpenPCDet does not come with: zeros here."""
    weights = torch.load(exported, weights_only=True)["model_state"]
    swin = {
        key.removeprefix("image_backbone."): torch.zeros_like(value)
        for key, value in weights.items()
        if key.startswith("image_backbone.")
    }
    torch.save({"model": swin}, openpcdet_copy / "tools" / "swint-nuimages-pretrained.pth")
    return openpcdet_copy


@pytest.mark.parametrize(
    ("name", "changes", "slots"),
    [
        ("bevfusion", SMALL_CAMERAS, ("backbone_3d", "image_backbone", "neck", "vtransform")),
        ("transfusion_lidar", {}, ("backbone_3d",)),
        ("cbgs_voxel0075_res3d_centerpoint", {}, ("backbone_3d",)),
    ],
)
def test_the_stock_training_script_starts_from_exported_weights(
    name, changes, slots, checkout, data, exported
):
    settings = {"DATA_CONFIG.DATA_PATH": data, **SMALL, **changes}
    outcome = start(
        ["tools/train.py"]
        + ["--cfg_file", f"cfgs/nuscenes_models/{name}.yaml", "--pretrained_model", exported]
        + ["--epochs", "1", "--batch_size", "1", "--workers", "0", "--fix_random_seed"]
        + ["--set", *(part for setting in settings.items() for part in setting)],
        checkout,
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    weights = torch.load(exported, weights_only=True)["model_state"]
    expected = {key for key in weights if key.split(".")[0] in slots}
    log = outcome.stdout + outcome.stderr
    assert f"==> Done (loaded {len(expected)}/" in log
    assert not expected & set(re.findall(r"Not updated weight (\S+):", log))
    assert "NDS" in log  # it went on to evaluate

    saved = torch.load(
        checkout / f"output/nuscenes_models/{name}/default/ckpt/checkpoint_epoch_1.pth",
        weights_only=False,  # the learning rates in the optimiser's state are NumPy scalars
    )["model_state"]
    for key in sorted(expected):
        if not key.endswith(STATISTICS):
            assert torch.equal(saved[key], weights[key]), key
        elif key.endswith("num_batches_tracked"):
            assert int(saved[key]) == COUNTED + STEPS, key
        else:  # most of it is what was loaded
            assert not torch.equal(saved[key], weights[key]), key

"""OpenPCDet's own scripts run unmodified and uncompiled, and start from exported weights.

Its training script gets one of its own configurations and, by its own ``--set``, a smaller range
and smaller images; the architectures are those of the files. At a learning rate of zero, what it
saves is what it loaded, but for BatchNorm's statistics.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config import load_config
from nsmae_plugin.data.infos import read_infos, write_infos
from nsmae_plugin.errors import HostError
from nsmae_plugin.training.export import export

pytestmark = pytest.mark.openpcdet

REPOSITORY = Path(__file__).resolve().parents[1]
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
# With no checkpoint left to evaluate, the script waits 30 s for the next one before it ends.
WITHOUT_WAITING = """
import sys, time
import nsmae_plugin
from nsmae_plugin.host.openpcdet.run import main
time.sleep = lambda seconds: None
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def checkout(openpcdet_root, tmp_path_factory):
    """A copy of OpenPCDet's sources without any build; its scripts write below its root."""
    root = tmp_path_factory.mktemp("OpenPCDet").resolve()
    left_out = shutil.ignore_patterns("*.so", "*.pyd", "src", "__pycache__", "version.py")
    for folder in ("pcdet", "tools"):
        shutil.copytree(openpcdet_root / folder, root / folder, ignore=left_out)
    # bevfusion.yaml initialises Swin from this file, which OpenPCDet does not come with.
    content = {"model": {"patch_embed.proj.bias": torch.zeros(96)}}
    torch.save(content, root / "tools" / "swint-nuimages-pretrained.pth")
    return root


@pytest.fixture(scope="module")
def data(synthetic_root):
    """Data root whose training split is three frames; OneCycle divides by zero with two steps."""
    folder = synthetic_root / "v1.0-mini"
    infos = read_infos(folder / "nuscenes_infos_3sweeps_train.pkl")
    write_infos(folder / "three_frames.pkl", infos[:STEPS])
    return synthetic_root


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """Export of a network of cfgs/nsmae_pretrain.yaml that is unlike any initialisation."""
    nsmae_plugin.register()
    config = load_config(
        REPOSITORY / "cfgs/nsmae_pretrain.yaml",
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


def run(command, root, directory=REPOSITORY):
    """Start Python with the OpenPCDet at ``root``."""
    environment = {**os.environ, "OPENPCDET_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    environment.pop("NSMAE_HOST", None)
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


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
    outcome = run(
        ["-c", WITHOUT_WAITING, "tools/train.py"]
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


def test_a_script_finds_its_folder_its_arguments_and_the_plugin(checkout, tmp_path):
    (checkout / "tools" / "probe.py").write_text(
        "import _init_path, os, sys\n"
        "from train_utils.train_utils import train_model\n"
        "from pcdet.models.view_transforms import __all__ as view_transforms\n"
        "print(__name__, os.getcwd(), sys.argv, 'FactorizedDepthLSSTransform' in view_transforms)\n"
    )
    outcome = run(
        ["-m", "nsmae_plugin.host.openpcdet", "tools/probe.py", "--flag", "x"], checkout, tmp_path
    )
    assert outcome.returncode == 0, outcome.stderr
    tools = checkout / "tools"
    arguments = [str(tools / "probe.py"), "--flag", "x"]
    assert outcome.stdout.splitlines()[-1] == f"__main__ {tools} {arguments} True"


def test_a_script_is_looked_up_in_openpcdet_first_and_then_here(
    openpcdet_root, tmp_path, monkeypatch
):
    from nsmae_plugin.host.openpcdet.run import find_script

    root = openpcdet_root.resolve()
    monkeypatch.chdir(REPOSITORY)  # which has a tools/train.py too
    assert find_script("tools/train.py", root) == root / "tools" / "train.py"
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert find_script("mine.py", root) == tmp_path / "mine.py"


def test_scripts_that_cannot_be_run_are_refused(openpcdet_root, tmp_path, monkeypatch):
    from nsmae_plugin.host.openpcdet.run import find_script, main

    monkeypatch.chdir(tmp_path)
    root = openpcdet_root.resolve()
    with pytest.raises(HostError, match=re.escape(f"{root}/none.py nor {tmp_path}/none.py")):
        find_script("none.py", root)
    with pytest.raises(HostError, match=r"usage: python -m nsmae_plugin\.host\.openpcdet"):
        main([])
    (tmp_path / "pcdet").mkdir()
    for file in ("pcdet/__init__.py", "train.py"):
        (tmp_path / file).touch()
    told = re.escape(f"belongs to the OpenPCDet at {tmp_path}, but {root} was imported")
    with pytest.raises(HostError, match=told):
        find_script("train.py", root)

"""The OpenPCDet host: how it finds, repairs and refuses an installation."""

import shutil
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest
import torch

from nsmae_plugin.errors import HostError
from tests.helpers.programs import run_python

pytestmark = pytest.mark.openpcdet

EXTENSIONS = (
    "iou3d_nms_cuda",
    "roiaware_pool3d_cuda",
    "bev_pool_ext",
    "ingroup_inds_cuda",
    "roipoint_pool3d_cuda",
    "pointnet2_stack_cuda",
    "pointnet2_batch_cuda",
)


@pytest.fixture(scope="module")
def openpcdet(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    return openpcdet


def run(code, root, **environment):
    """Run ``code`` in a fresh interpreter with the OpenPCDet host on the checkout ``root``."""
    host = {"NSMAE_HOST": "openpcdet", "OPENPCDET_ROOT": str(root)}
    return run_python("-W", "ignore", "-c", code, **{**host, **environment})


@pytest.fixture
def checkout(openpcdet_root, tmp_path):
    """A copy of the package that a test may damage; without builds, whatever the original has."""
    builds = shutil.ignore_patterns("*.so", "*.pyd", "src", "__pycache__", "version.py")
    shutil.copytree(openpcdet_root / "pcdet", tmp_path / "pcdet", ignore=builds)
    return tmp_path


def test_the_bare_checkout_works_without_optional_packages(checkout):
    """No build, no version.py, and none of the packages that OpenPCDet imports in passing."""
    code = """
import sys
absent = ("torchvision", "skimage", "SharedArray", "av2", "pandas", "kornia")
sys.modules.update(dict.fromkeys(absent))  # None: importing it raises ModuleNotFoundError
from nsmae_plugin import host
from nsmae_plugin.errors import HostError
from nsmae_plugin.host.openpcdet import DESCRIPTION as found
print(host.NAME, found.version, sorted(found.stand_ins), set(found.extensions.values()))
print([name for name in absent if sys.modules.get(name) is not None])
import pcdet.utils.common_utils as utils, pcdet.datasets as datasets, numpy
for use in (
    lambda: utils.sa_create("x", numpy.zeros(3)),
    lambda: datasets.Argo2Dataset(None, None),
):
    try:
        use()
    except HostError as error:
        print(error)
from pcdet.models.model_utils.centernet_utils import circle_nms
print(circle_nms(numpy.array([[0.0, 0, 0.9], [0.1, 0, 0.8], [5, 0, 0.7]]), 1.0))
"""
    outcome = run(code, checkout)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()[-5:]
    replaced = "['Argo2Dataset', 'SharedArray', 'skimage', 'torchvision']"
    assert lines[0].startswith(f"openpcdet 0.6.0+py0000000 {replaced} ")
    assert lines[1] == "[]"  # the stand-ins are gone once OpenPCDet is imported
    assert "SharedArray.create" in lines[2]
    assert "pip install SharedArray" in lines[2]
    assert "av2 not installed, pandas not installed, kornia not installed" in lines[3]
    assert lines[4] == "[0, 2]"  # compiled by numba


def test_a_build_wins_and_a_broken_torchvision_is_replaced(checkout):
    operators = checkout / "pcdet" / "ops"
    (operators / "bev_pool" / "bev_pool_ext.py").write_text("built = True\n")
    (operators / "ingroup_inds" / "ingroup_inds_cuda.cpython-27.so").write_text("")
    broken = checkout / "site" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "import torchvision.inner\nraise RuntimeError('operator torchvision::nms does not exist')"
    )
    (broken / "inner.py").write_text("")
    code = """
from nsmae_plugin.host.openpcdet import DESCRIPTION as found
import pcdet.ops.bev_pool.bev_pool_ext as build
from pcdet.datasets.processor.data_processor import torchvision
print(build.built, found.extensions["bev_pool_ext"], found.extensions["ingroup_inds_cuda"])
print(found.stand_ins["torchvision"])
print(torchvision.transforms.ToTensor)
"""
    outcome = run(code, checkout, PYTHONPATH=str(checkout / "site"))
    assert outcome.returncode == 0, outcome.stderr
    build, reason, substitute = outcome.stdout.splitlines()[-3:]
    old = "torch-native (ingroup_inds_cuda.cpython-27.so is for another Python)"
    assert build == f"True compiled {old}"
    assert "torchvision::nms" in reason
    assert "nsmae_plugin.host.openpcdet.placeholders" in substitute


def test_a_build_for_another_torch_is_refused_with_the_remedy(checkout):
    """A found but broken extension must not fall back to the substitute silently."""
    build = f"bev_pool_ext{EXTENSION_SUFFIXES[0]}"
    (checkout / "pcdet" / "ops" / "bev_pool" / build).write_bytes(b"not a shared library")
    outcome = run("import nsmae_plugin.host", checkout)
    message = outcome.stderr.splitlines()[-1]
    assert "HostError" in message
    assert "compiled extension bev_pool_ext" in message
    assert "rebuild it" in message


def test_a_missing_spconv_is_named(openpcdet_root):
    code = "import sys; sys.modules['spconv'] = None; import nsmae_plugin.host"
    message = run(code, openpcdet_root).stderr.splitlines()[-1]
    assert "HostError" in message
    assert "pip install spconv" in message


def test_an_incomplete_copy_is_told_from_a_missing_package(checkout):
    (checkout / "pcdet" / "models" / "detectors" / "bevfusion.py").unlink()
    message = run("import nsmae_plugin.host", checkout).stderr.splitlines()[-1]
    assert "pcdet.models.detectors.bevfusion" in message
    assert "The copy is incomplete" in message


def test_a_root_without_openpcdet_is_refused(tmp_path):
    message = run("import nsmae_plugin.host", tmp_path).stderr.splitlines()[-1]
    assert f"OPENPCDET_ROOT={tmp_path} holds no pcdet/__init__.py" in message


def test_asking_for_the_host_where_there_is_none_is_an_error(monkeypatch, openpcdet):
    from nsmae_plugin.host.openpcdet import discovery

    monkeypatch.delenv("OPENPCDET_ROOT")
    monkeypatch.delitem(sys.modules, "pcdet")
    with pytest.raises(HostError, match=r"not installed and OPENPCDET_ROOT is not set"):
        discovery.import_package()


def test_two_copies_at_once_are_refused(monkeypatch, checkout, openpcdet):
    from nsmae_plugin.host.openpcdet import discovery

    monkeypatch.setenv("OPENPCDET_ROOT", str(checkout))
    with pytest.raises(HostError, match=r"was imported from .* before nsmae_plugin"):
        discovery.import_package()


def test_every_extension_is_reported(openpcdet):
    assert tuple(openpcdet.DESCRIPTION.extensions) == EXTENSIONS
    for name, served in openpcdet.DESCRIPTION.extensions.items():
        refusing = name.startswith(("roipoint", "pointnet2"))
        assert served.startswith(("compiled", "refuses" if refusing else "torch-native"))


def test_removed_numpy_names_are_python_types(openpcdet):
    assert (np.int, np.float, np.bool) == (int, float, bool)  # noqa: NPY001
    assert np.zeros(2, dtype=np.int).dtype == np.int64  # noqa: NPY001


def test_ragged_image_infos_are_collated_as_objects(openpcdet):
    info = [[0.48, (32, 176, 736, 432), False, 0], [0.5, (0, 1, 2, 3), True, -3.0]]
    samples = [{"img_process_infos": info, "flip_x": k} for k in (0, 1, 2)]
    batch = openpcdet.DatasetTemplate.collate_batch(samples)
    assert batch["img_process_infos"].shape == (3, 2, 4)
    assert batch["img_process_infos"][2, 1].tolist() == info[1]
    assert batch["flip_x"].tolist() == [0, 1, 2]
    assert batch["batch_size"] == 3
    assert "img_process_infos" in samples[0]
    assert "img_process_infos" not in openpcdet.DatasetTemplate.collate_batch([{"flip_x": 1}])


def test_an_optimizer_state_with_numpy_scalars_can_be_resumed(openpcdet, tmp_path):
    """OpenPCDet's schedulers leave NumPy learning rates in the state that it saves."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=np.float64(0.003))
    path = tmp_path / "checkpoint.pth"
    torch.save({"optimizer_state": optimizer.state_dict(), "it": np.int64(7)}, path)
    loaded = torch.load(path)
    assert loaded["optimizer_state"]["param_groups"][0]["lr"] == 0.003
    assert loaded["it"] == 7


def test_arbitrary_pickles_stay_refused(openpcdet, tmp_path):
    torch.save({"code": Path("/")}, tmp_path / "checkpoint.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        torch.load(tmp_path / "checkpoint.pth")


def test_cuda_on_the_cpu_copies_and_keeps_the_gradient(openpcdet):
    if torch.cuda.is_available():
        pytest.skip("nothing is replaced where there is a CUDA device")
    x = torch.ones(3, requires_grad=True)
    copy = x.cuda()
    assert copy.data_ptr() != x.data_ptr()
    copy.sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
    assert torch.cuda.FloatTensor(2).zero_().tolist() == [0, 0]
    layer = torch.nn.Linear(2, 2)
    assert layer.cuda() is layer


def test_image_transforms_give_torchvisions_results(openpcdet):
    from PIL import Image

    from nsmae_plugin.host.openpcdet import placeholders as transforms

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    both = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)])
    image = both(Image.fromarray(pixels))
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert image[2, 1, 0] == pytest.approx((110 / 255 - 0.5) / 0.25, abs=1e-6)
    assert transforms.ToTensor()(Image.fromarray(pixels[..., 0])).shape == (1, 2, 3)
    assert transforms.ToTensor()(np.full((2, 3, 3), 7.0)).max() == 7  # floats keep their values

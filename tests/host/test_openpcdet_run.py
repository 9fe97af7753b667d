"""How a script of OpenPCDet is found and started, and what its relative paths mean."""

import errno
import os
import re

import pytest

from nsmae_plugin.errors import HostError, OutputError
from tests.helpers.paths import REPOSITORY, TINY
from tests.helpers.programs import run_python
from tests.helpers.stock_scripts import copy_openpcdet, start

pytestmark = pytest.mark.openpcdet


@pytest.fixture
def run_module(openpcdet_root):
    from nsmae_plugin.host.openpcdet import run

    return run


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A directory to start in, with a configuration and weights, and the folder of a script."""
    started_in, scripts = tmp_path / "start", tmp_path / "OpenPCDet" / "tools"
    for path in (
        started_in / "cfgs/mine.yaml",
        started_in / "mine.pth",
        scripts / "cfgs/theirs.yaml",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "OpenPCDet" / "output").mkdir()
    monkeypatch.chdir(started_in)
    return started_in, scripts


def test_a_script_runs_where_its_configuration_is_found(run_module, places):
    started_in, scripts = places
    assert run_module.working_directory(scripts, ["--cfg_file", "cfgs/mine.yaml"]) == started_in
    assert run_module.working_directory(scripts, ["--cfg_file=cfgs/theirs.yaml"]) == scripts
    assert run_module.working_directory(scripts, ["--epochs", "1"]) == scripts
    expected = f"--cfg_file none.yaml: there is no {started_in}/none.yaml nor {scripts}/none.yaml"
    with pytest.raises(HostError, match=re.escape(expected)):
        run_module.working_directory(scripts, ["--cfg_file", "none.yaml"])


def test_checkpoints_are_found_from_the_start_or_from_the_scripts_folder(run_module, places):
    started_in, scripts = places
    arguments = ["--pretrained_model", "mine.pth", "--ckpt_dir=../output", "--workers", "0"]
    assert run_module.locate_inputs(scripts, arguments) == [
        "--pretrained_model",
        f"{started_in}/mine.pth",
        f"--ckpt_dir={scripts}/../output",
        "--workers",
        "0",
    ]
    values = ["--set", "--ckpt", "none.pth"]  # no option: keys of the configuration follow
    assert run_module.locate_inputs(scripts, values) == values
    with pytest.raises(
        HostError, match=r"--ckpt none\.pth: there is no .*start/none\.pth nor .*tools"
    ):
        run_module.locate_inputs(scripts, ["--ckpt", "none.pth"])


def test_a_script_finds_its_folder_its_arguments_and_the_plugin(openpcdet_copy, tmp_path):
    tools = openpcdet_copy / "tools"
    (tools / "probe.py").write_text(
        "import _init_path, os, sys\n"
        "from train_utils.train_utils import train_model\n"
        "from pcdet.models.view_transforms import __all__ as view_transforms\n"
        "print(__name__, os.getcwd(), sys.argv, 'FactorizedDepthLSSTransform' in view_transforms)\n"
    )
    outcome = start(["tools/probe.py", "--flag", "x"], openpcdet_copy, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    arguments = [str(tools / "probe.py"), "--flag", "x"]
    assert outcome.stdout.splitlines()[-1] == f"__main__ {tools} {arguments} True"


def test_a_misspelt_key_ends_in_one_line(openpcdet_copy):
    command = ["tools/train.py", "--cfg_file", "cfgs/tiny/nsmae_pretrain_lidar.yaml"]
    outcome = start([*command, "--set", "OPTIMIZATION.LRR", "1"], openpcdet_copy)
    assert outcome.returncode == 1
    assert "Traceback" not in outcome.stderr
    expected = "error: unknown key OPTIMIZATION.LRR (did you mean LR?)"
    assert outcome.stderr.splitlines()[-1] == expected


def test_a_checkout_that_cannot_be_written_is_named(run_module, openpcdet_root):
    root = openpcdet_root.resolve()
    error = OSError(errno.EROFS, "Read-only file system", str(root / "output" / "tiny"))
    message = r"write below .*output/tiny .*Read-only.* a copy of the"
    with pytest.raises(OutputError, match=message), run_module.unwritable_output_named(root):
        raise error
    with pytest.raises(FileNotFoundError), run_module.unwritable_output_named(root):
        (root / "absent").read_bytes()


SCRIPT = """
from pcdet.config import cfg, cfg_from_list, cfg_from_yaml_file
import nsmae_plugin; nsmae_plugin.register()
import sys
from pcdet.models.detectors import __all__ as detectors
cfg_from_yaml_file(sys.argv[1], cfg)
cfg_from_list(["DATA_CONFIG.DATA_PROCESSOR.mask_voxels.RATIO", "0.5"], cfg)
print(cfg.MODEL.NAME in detectors, cfg.OPTIMIZATION.DECAY_STEP_LIST, cfg.DATA_CONFIG.VERSION)
"""


def test_a_script_of_ones_own_takes_one_line_after_what_it_imports(openpcdet_root, tmp_path):
    """As beside an installed pcdet, which can be imported before the plugin."""
    root = copy_openpcdet(openpcdet_root, tmp_path / "OpenPCDet")
    (root / "pcdet" / "version.py").write_text("__version__ = '0.6.0'\n")
    path = TINY / "nsmae_pretrain.yaml"
    outcome = run_python(
        *("-W", "ignore", "-c", SCRIPT, path),
        cwd=tmp_path,
        without=["OPENPCDET_ROOT", "NSMAE_HOST"],
        PYTHONPATH=f"{REPOSITORY}{os.pathsep}{root}",
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "True [] v1.0-mini"


def test_a_script_is_looked_up_in_openpcdet_first_and_then_here(
    run_module, openpcdet_root, tmp_path, monkeypatch
):
    root = openpcdet_root.resolve()
    monkeypatch.chdir(REPOSITORY)  # which has a tools/train.py too
    assert run_module.find_script("tools/train.py", root) == root / "tools" / "train.py"
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert run_module.find_script("mine.py", root) == tmp_path / "mine.py"


def test_scripts_that_cannot_be_run_are_refused(run_module, openpcdet_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = openpcdet_root.resolve()
    with pytest.raises(HostError, match=re.escape(f"{root}/none.py nor {tmp_path}/none.py")):
        run_module.find_script("none.py", root)
    with pytest.raises(HostError, match=r"usage: python -m nsmae_plugin\.host\.openpcdet"):
        run_module.main([])
    (tmp_path / "pcdet").mkdir()
    for file in ("pcdet/__init__.py", "train.py"):
        (tmp_path / file).touch()
    told = re.escape(f"belongs to the OpenPCDet at {tmp_path}, but {root} was imported")
    with pytest.raises(HostError, match=told):
        run_module.find_script("train.py", root)

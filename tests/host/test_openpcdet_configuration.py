"""Configurations as OpenPCDet's scripts read them: bases, paths, defaults, misspelt keys."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from easydict import EasyDict

import nsmae_plugin
from nsmae_plugin.config.derived import complete, described_data
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS, TINY

pytestmark = pytest.mark.openpcdet

RECIPE = TINY / "nsmae_pretrain.yaml"


@pytest.fixture
def reading(openpcdet_host):
    """``pcdet.config`` with what the host puts in place."""
    nsmae_plugin.register()
    from pcdet import config

    return config


def without_base_names(section):
    if isinstance(section, dict):
        kept = {key: value for key, value in section.items() if key != "_BASE_CONFIG_"}
        return {key: without_base_names(value) for key, value in kept.items()}
    return section


def test_openpcdets_own_configurations_stay_as_they_are(openpcdet_root, reading, monkeypatch):
    """Every file that it ships, against its own functions in the directory that they need."""
    monkeypatch.chdir(openpcdet_root / "tools")
    paths = sorted(Path("cfgs").rglob("*.yaml"))
    assert len(paths) > 50
    unread = []
    for path in paths:
        ours = reading.cfg_from_yaml_file(str(path), EasyDict(LOCAL_RANK=0))
        try:
            original = reading.cfg_from_yaml_file.__wrapped__(str(path), EasyDict(LOCAL_RANK=0))
        except FileNotFoundError:  # its base is relative to the file
            unread.append(path.parent.name)
            continue
        assert ours == without_base_names(original), path
        assert {type(one) for one in ours.values() if isinstance(one, dict)} <= {EasyDict}
    assert set(unread) == {"custom_models"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in (".", "tiny", "research")
        for path in sorted(CFGS.glob(f"{folder}/*.yaml"))
    ],
    ids=lambda path: str(path.relative_to(CFGS).with_suffix("")),
)
def test_a_configuration_of_ours_is_what_our_tools_read(path, reading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = reading.cfg_from_yaml_file(str(path), EasyDict())
    # build_scheduler asks for both
    assert config.OPTIMIZATION.pop("DECAY_STEP_LIST") == []
    assert config.OPTIMIZATION.pop("LR_WARMUP") is False
    expected = load_config(path)
    if "POST_PROCESSING" not in expected.MODEL:  # which the evaluation asks for
        assert config.MODEL.pop("POST_PROCESSING").RECALL_THRESH_LIST
    # Its --set comes later, so that only the builder of the network can complete MODEL.
    config.MODEL = complete(config.MODEL, described_data(config))
    assert config == expected


def test_a_base_may_lie_in_openpcdets_tools(reading, tmp_path, monkeypatch):
    """As in a project that keeps its configurations outside of the checkout."""
    monkeypatch.chdir(tmp_path)
    content = {"DATA_CONFIG": {"_BASE_CONFIG_": "cfgs/dataset_configs/nuscenes_dataset.yaml"}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    config = reading.cfg_from_yaml_file("mine.yaml", EasyDict())
    assert config.DATA_CONFIG.DATASET == "NuScenesDataset"


def test_a_data_path_leads_from_the_start_or_from_openpcdets_tools(reading, tmp_path, monkeypatch):
    from nsmae_plugin.host.openpcdet.configuration import Reader

    started_in, checkout, elsewhere = (tmp_path / name for name in ("start", "checkout", "here"))
    for folder in (
        started_in / "data/mine",
        checkout / "data/theirs",
        checkout / "tools",
        checkout / "pcdet",
        elsewhere / "data/both",
        started_in / "data/both",
    ):
        folder.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    (checkout / "pcdet" / "config.py").touch()
    monkeypatch.setattr(reading, "__file__", str(checkout / "pcdet" / "config.py"))
    reader = Reader(reading, started_in)

    def path_of(written):
        Path("c.yaml").write_text(yaml.safe_dump({"DATA_CONFIG": {"DATA_PATH": written}}))
        return reader.cfg_from_yaml_file(None, "c.yaml", EasyDict()).DATA_CONFIG.DATA_PATH

    assert path_of("data/mine") == str(started_in / "data/mine")
    assert path_of("../data/theirs") == str(checkout / "tools" / "../data/theirs")
    assert path_of("data/both") == "data/both"  # which the working directory has
    assert path_of("data/nowhere") == "data/nowhere"  # for the dataset to complain about
    config = EasyDict(DATA_CONFIG={"DATA_PATH": "x"})
    original = reading.cfg_from_list.__wrapped__
    reader.cfg_from_list(original, ["DATA_CONFIG.DATA_PATH", "data/mine"], config)
    assert Path(config.DATA_CONFIG.DATA_PATH) == started_in / "data/mine"


def test_set_reaches_into_lists_and_is_checked_in_a_configuration_of_ours(reading):
    config = reading.cfg_from_yaml_file(str(RECIPE), EasyDict(ROOT_DIR=Path("/"), LOCAL_RANK=0))
    config.TAG = "as its scripts add it"
    reading.cfg_from_list(["DATA_CONFIG.DATA_PROCESSOR.mask_voxels.RATIO", "0.5"], config)
    masking = [one for one in config.DATA_CONFIG.DATA_PROCESSOR if one.NAME == "mask_voxels"]
    assert [one.RATIO for one in masking] == [0.5]
    reading.cfg_from_list(["OPTIMIZATION.LR", "1"], config)  # an integer where a float stood
    assert config.OPTIMIZATION.LR == 1
    with pytest.raises(ConfigError, match=r"OPTIMIZATION\.LRR.*did you mean LR"):
        reading.cfg_from_list(["OPTIMIZATION.LRR", "1"], config)


def test_a_misspelt_key_of_ours_is_refused_and_openpcdets_are_its_own_affair(
    reading, openpcdet_root, tmp_path
):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_CONFIG_: {RECIPE}\nMODEL: {{NECK: {{OUT_CHANELS: 64}}}}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key MODEL\.NECK\.OUT_CHANELS"):
        reading.cfg_from_yaml_file(str(path), EasyDict())
    theirs = openpcdet_root / "tools/cfgs/nuscenes_models/bevfusion.yaml"
    config = reading.cfg_from_yaml_file(str(theirs), EasyDict())
    with pytest.raises(AssertionError, match="NotFoundKey: LRR"):
        reading.cfg_from_list(["OPTIMIZATION.LRR", "1"], config)


def test_a_script_without_a_configuration_ends_in_words(reading):
    with pytest.raises(ConfigError, match="no configuration was named; add --cfg_file"):
        reading.cfg_from_yaml_file(None, EasyDict())


def test_names_that_a_script_imported_before_are_replaced_as_well(reading, monkeypatch):
    from nsmae_plugin.host.openpcdet.patching import replace

    def answer():
        return 1

    library, script = ModuleType("library"), ModuleType("script")
    library.answer = script.result = answer
    monkeypatch.setitem(sys.modules, "script", script)
    for _ in range(2):  # the second time nothing changes
        replace(library, "answer", lambda original: original() + 1)
    assert library.answer() == script.result() == 2


def test_a_module_is_changed_when_it_is_imported_or_at_once(reading, tmp_path, monkeypatch):
    from nsmae_plugin.host.openpcdet.patching import after_import

    (tmp_path / "a_module_of_a_script.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []

    def action(module):
        seen.append(module.value)

    after_import("a_module_of_a_script", action)
    assert seen == []
    importlib.import_module("a_module_of_a_script")
    assert seen == [1]
    after_import("a_module_of_a_script", action)
    assert seen == [1, 1]
    del sys.modules["a_module_of_a_script"]


def test_openpcdets_modules_get_what_they_read_without_asking(reading):
    """MLP_RATIO 4.0 would make a layer of 128.0 channels there."""
    from nsmae_plugin.host.openpcdet.configuration import adapt_modules

    words = "MODEL.IMAGE_BACKBONE.MLP_RATIO 4.0 MODEL.NECK.END_LEVEL 2"
    model = load_config(TINY / "bevfusion_det.yaml", words.split()).MODEL
    for section, key in (("IMAGE_BACKBONE", "DROP_RATE"), ("DENSE_HEAD", "CLASS_AGNOSTIC")):
        del model[section][key]
    adapt_modules(model)
    assert isinstance(model.IMAGE_BACKBONE.MLP_RATIO, int)
    assert model.IMAGE_BACKBONE.DROP_RATE == 0
    assert model.DENSE_HEAD.CLASS_AGNOSTIC is False
    assert model.NECK.END_LEVEL == -1
    model.IMAGE_BACKBONE.MLP_RATIO = 2.5
    with pytest.raises(ConfigError, match=r"MLP_RATIO 2\.5 must be an integer in OpenPCDet"):
        adapt_modules(model)

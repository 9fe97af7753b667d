"""Reading configurations: merging, overriding, and refusing invalid ones."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from nsmae_plugin.config.load import apply_overrides, load_config, plain, read
from nsmae_plugin.errors import ConfigError
from tests.helpers.paths import CFGS, TINY

RECIPE = TINY / "nsmae_pretrain.yaml"


def edited(tmp_path, old: str, new: str) -> Path:
    """A copy of the tiny configuration with one piece of text, of it or a base, replaced."""
    shutil.copytree(CFGS, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tiny" / RECIPE.name
    encoders = tmp_path / "model_configs" / "tiny_camera_encoders.yaml"
    changed = next(file for file in (path, encoders) if old in file.read_text())
    changed.write_text(changed.read_text().replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    "path",
    sorted(CFGS.glob("*.yaml")) + sorted(TINY.glob("*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_shipped_configuration_is_valid(path):
    config = load_config(path)
    pretraining = path.name.startswith(("nsmae_pretrain", "masked_image"))
    assert (config.MODEL.NAME == "NSMAE") is pretraining
    assert config.DATA_CONFIG.USE_LABELS is ("DENSE_HEAD" in config.MODEL)
    assert ("MAP_CONFIG" in config.DATA_CONFIG) is ("MAP_HEAD" in config.MODEL)


def test_a_base_is_merged_key_by_key_and_lists_are_replaced_whole():
    full = load_config(CFGS / "nsmae_pretrain.yaml")
    small = load_config(CFGS / "nsmae_pretrain_128x352.yaml")
    assert small.DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM == [128, 352]
    assert small.MODEL.VTRANSFORM.FEATURE_SIZE == [16, 44]
    assert small.MODEL.VTRANSFORM.DBOUND == full.MODEL.VTRANSFORM.DBOUND
    assert small.OPTIMIZATION == full.OPTIMIZATION


def test_a_misspelt_key_names_itself_its_place_and_the_right_spelling(tmp_path):
    path = edited(tmp_path, "OUT_CHANNELS: 64", "OUT_CHANELS: 64")
    with pytest.raises(ConfigError, match=r"MODEL\.NECK\.OUT_CHANELS.*did you mean OUT_CHANNELS"):
        load_config(path)


def test_a_misspelt_key_of_a_hook_is_refused():
    path, key = CFGS / "transfusion_lidar.yaml", "HOOK.DisableAugmentationHook.NUM_LAST_EPOCH"
    with pytest.raises(ConfigError, match=rf"{key} \(did you mean NUM_LAST_EPOCHS"):
        load_config(path, [key, "5"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    OUT_CHANNELS: 64\n", "", r"missing key MODEL\.NECK\.OUT_CHANNELS"),
        ("DBOUND: [1.0, 61.0, 1.0]", "DBOUND: [1.0]", r"DBOUND must be a list of 3"),
        ("HEIGHT: 0.2", "HEIGHT: low", r"RENDER_HEADS\.BEVRenderHead\.BIN_HEIGHT must be a posi"),
        ("HEIGHT: 0.2", "HEIGHT: true", r"BIN_HEIGHT must be a positive number, not True"),
        (
            "LR: 0.001",
            "LR: 1e-3",
            r"OPTIMIZATION\.LR must be a positive number, not '1e-3' .*1\.0e-3",
        ),
        ("    NAME: NSMAE\n", "    NAM: NSMAE\n", r"MODEL must be a section with a NAME"),
        ("MODEL:", "MODLE:", r"unknown key MODLE \(did you mean MODEL\?\)"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_config(edited(tmp_path, old, new))


def test_a_misspelt_key_of_a_processor_is_found_inside_the_list():
    with pytest.raises(ConfigError, match=r"DATA_PROCESSOR\.mask_voxels\.RATO"):
        load_config(RECIPE, ["DATA_CONFIG.DATA_PROCESSOR.mask_voxels.RATO", "0.5"])


def test_overrides_reach_sections_and_named_list_entries():
    config = load_config(
        RECIPE,
        ["DATA_CONFIG.DATA_PROCESSOR.mask_voxels.RATIO", "0.5", "OPTIMIZATION.USE_AMP", "True"]
        + ["DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM", "[64, 112]"],
    )
    ratios = {p.NAME: p.get("RATIO") for p in config.DATA_CONFIG.DATA_PROCESSOR}
    assert ratios["mask_voxels"] == 0.5
    assert ratios["mask_image_patches"] == 0.5
    assert config.OPTIMIZATION.USE_AMP is True
    assert config.DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM == [64, 112]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.IMAGE_BACKBONE.INIT_CFG.checkpoint", "swin.pth"),
        ("OPTIMIZATION.LR_SCALE.NECK", "0.5"),
        ("HOOK.DisableAugmentationHook", "{'DISABLE_AUG_LIST': [], 'NUM_LAST_EPOCHS': 1}"),
    ],
)
def test_an_override_adds_a_section_that_may_be_left_out(key, value):
    config = load_config(RECIPE, [key, value])
    for name in key.split("."):
        config = config[name]
    assert str(config) == value


@pytest.mark.parametrize("value", ["None", "{'type': 'Pretrained', 'checkpoint': 'swint.pth'}"])
def test_a_key_may_hold_a_section_or_null(value):
    load_config(RECIPE, ["MODEL.IMAGE_BACKBONE.INIT_CFG", value])


def test_the_keys_of_an_optional_section_are_checked():
    with pytest.raises(ConfigError, match=r"INIT_CFG\.checkpiont.*did you mean checkpoint"):
        load_config(RECIPE, ["MODEL.IMAGE_BACKBONE.INIT_CFG", "{'checkpiont': 'swint.pth'}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["OPTIMIZATION.LR"], "pairs of KEY VALUE"),
        (["OPTIMISATION.LR", "1.0"], r"OPTIMISATION: there is no such section.*OPTIMIZATION"),
        (["MODEL.FUSER.IN_CHANNEL", "1"], r"MODEL\.FUSER: there is no such section"),
        (["MODEL.NECK.INIT_CFG.checkpoint", "a.pth"], r"NECK\.INIT_CFG: there is no such section"),
        (["MODEL.IMAGE_BACKBONE.INIT_CFG.ckpt", "a.pth"], r"unknown key .*INIT_CFG\.ckpt"),
        (["OPTIMIZATION.LRR", "1.0"], r"unknown key OPTIMIZATION\.LRR.*did you mean LR"),
        (["OPTIMIZATION.LR", "fast"], r"OPTIMIZATION\.LR must be"),
        (["OPTIMIZATION.LR", "-1"], r"OPTIMIZATION\.LR must be a positive number, not -1"),
        (["DATA_CONFIG", "[]"], r"DATA_CONFIG must be a section with a DATASET, not \[\]"),
        (["MODEL", "None"], r"MODEL must be a section with a NAME, not None"),
        (["OPTIMIZATION", "1"], r"OPTIMIZATION must be a section, not 1"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(RECIPE, overrides)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("MODEL: [1,")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load_config(broken)
    orphan = tmp_path / "orphan.yaml"
    orphan.write_text("_BASE_CONFIG_: nowhere/base.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere/base\.yaml.*neither beside the file"):
        load_config(orphan)


NESTED = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
BOMB = "\n".join(["a0: &a0 x", *NESTED]).encode()
MERGED = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
MERGED_BOMB = "\n".join(["a0: &a0 {x: 1}", *MERGED]).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MODEL: [1,\n  2: {", "is not valid YAML"),
        (b"MODEL: \xff\n", "is not text in UTF-8"),
        (b"MODEL: a\x00b\n", "is not valid YAML"),
        (BOMB, "stand for more than 100000 values"),
        (MERGED_BOMB, "stand for more than 100000 values"),
        (b"MODEL: {A: 1}\nHOOK: null\nMODEL: {B: 2}\n", "the key MODEL in line 3 repeats line 1"),
        (b"OPTIMIZATION: {LR: 1.0, LR: 2.0}\n", "the key LR in line 1 repeats line 1"),
        (b"MODEL: {NAME: {1: 2}}\n", "a key cannot be called MODEL.NAME.1"),
        (b"MODEL: {items: 1}\n", "a key cannot be called MODEL.items"),
        (b"MODEL: 2026-13-01\n", "is not valid YAML: month must be in 1..12"),
        (b"[" * 2000, "is not valid YAML"),
        (b"MODEL: &a {NAME: *a}\n", "leads back to itself"),
        (b"MODEL: &a [1, *a]\n", "leads back to itself"),
        (b"_BASE_CONFIG_: broken.yaml\n", "leads back to itself"),
        (b"MODEL: {_BASE_CONFIG_: broken.yaml}\n", "leads back to itself"),
        (b"_BASE_CONFIG_: [a.yaml]\n", "_BASE_CONFIG_ must name a file, not ['a.yaml']"),
        (b'_BASE_CONFIG_: "a\\0b"\n', "was found neither beside the file"),
        (None, "is a named pipe"),
    ],
)
def test_what_is_no_configuration_is_said_in_one_line(tmp_path, content, message):
    message = message.replace("[", r"\[")
    broken = tmp_path / "broken.yaml"
    if content is None:
        os.mkfifo(broken)
    else:
        broken.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(broken)
    assert "broken.yaml" in str(caught.value)
    assert str(caught.value).isprintable()  # one line


@pytest.mark.parametrize("section", ["CLASS_NAMES", "DATA_CONFIG", "MODEL", "OPTIMIZATION"])
def test_a_missing_section_is_named(tmp_path, section):
    content = plain(load_config(RECIPE))
    del content[section]
    (tmp_path / "partial.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=f"missing key {section}: expected a "):
        load_config(tmp_path / "partial.yaml")


def test_a_base_that_leads_back_through_another_file_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_CONFIG_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("MODEL: {_BASE_CONFIG_: a.yaml}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: its _BASE_CONFIG_ leads back to itself"):
        load_config(tmp_path / "a.yaml")


def test_an_override_of_an_alias_leaves_the_other_as_it_is(tmp_path):
    path = tmp_path / "aliases.yaml"
    path.write_text("A: &a [{NAME: one, X: 1}]\nB: *a\n")
    config = read(path)
    apply_overrides(config, ["A.one.X", "2"])
    assert (config["A"][0]["X"], config["B"][0]["X"]) == (2, 1)


@pytest.mark.parametrize("text", ["{[]: 1}", "(" * 300, "1 2", "9" * 5000, "[" * 10_000])
def test_text_that_is_no_literal_is_a_string(text):
    config = {"A": {}}
    apply_overrides(config, ["A.B", text])
    assert config["A"]["B"] == text


@pytest.mark.openpcdet
@pytest.mark.parametrize(
    "name", ["bevfusion", "transfusion_lidar", "cbgs_voxel0075_res3d_centerpoint"]
)
def test_openpcdets_own_configurations_are_read_as_they_are(openpcdet_root, name):
    config = load_config(openpcdet_root / f"tools/cfgs/nuscenes_models/{name}.yaml")
    assert config.DATA_CONFIG.DATASET == "NuScenesDataset"
    assert config.DATA_CONFIG.POINT_CLOUD_RANGE[0] == -54.0

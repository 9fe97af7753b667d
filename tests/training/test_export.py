"""An export holds the encoders and nothing else, bit for bit, and says where they come from."""

import json
import logging

import pytest
import torch
from safetensors import safe_open
from torch import nn

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import CheckpointError, ConfigError
from nsmae_plugin.training import run_log, weights
from nsmae_plugin.training.export import export
from nsmae_plugin.training.transfer import load_pretrained
from tests.helpers.paths import TINY
from tools import export_weights

LOGGER = logging.getLogger("export")
ENCODERS = ("backbone_3d", "image_backbone", "neck", "vtransform")


def state():
    """Encoders, what stays behind, and the grid that OpenPCDet would store."""
    slots = (*ENCODERS, "mask_token", "perspective_head", "bev_head")
    model = nn.ModuleDict({s: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for s in slots})
    names = model.state_dict()
    names["vtransform.dx"] = torch.ones(3)
    names["global_step"] = torch.tensor([7])
    return names


def write_run(folder, model_state, **content):
    """``folder/ckpt/checkpoint_epoch_2.pth`` as tools/train.py writes it; returns its path."""
    (folder / "ckpt").mkdir(parents=True)
    path = folder / "ckpt/checkpoint_epoch_2.pth"
    facts = {"epoch": 2, "it": 20, "version": "nsmae_plugin+x", "config_tag": "toy", "host": "h"}
    torch.save({"model_state": model_state, **facts, **content}, path)
    return path


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", state())


def test_the_encoders_are_exported_bit_for_bit_and_nothing_else(run, tmp_path):
    export(run, tmp_path / "out/w.pth", safetensors=True)
    source = torch.load(run, weights_only=True)["model_state"]
    expected = {n for n in source if n.split(".")[0] in ENCODERS and n != "vtransform.dx"}
    for name in ("w.pth", "w.safetensors"):
        found = weights.read(tmp_path / "out" / name)["model_state"]
        assert found.keys() == expected
        assert all(torch.equal(found[key], source[key]) for key in expected)
        assert all(found[key].dtype == source[key].dtype for key in expected)


def test_torch_reads_the_export_without_trust(run, tmp_path):
    export(run, tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert content.keys() == {"model_state", "version", "manifest"}
    assert content["version"] == f"nsmae_plugin+{nsmae_plugin.__version__}"


def test_the_manifest_is_the_same_in_every_file_and_tells_origin_and_content(run, tmp_path):
    manifest, written = export(run.parent, tmp_path / "w.pth", safetensors=True)
    assert [path.name for path in written] == ["w.pth", "w.json", "w.safetensors"]
    assert json.loads(written[1].read_text(encoding="utf-8")) == manifest
    assert torch.load(written[0], weights_only=True)["manifest"] == manifest
    assert weights.read(written[2])["manifest"] == manifest
    facts = {"checkpoint": "checkpoint_epoch_2.pth", "config": "toy", "epoch": 2, "step": 20}
    assert manifest.items() >= {**facts, "host": "h", "modality": "camera+lidar"}.items()
    assert manifest["plugin"] == nsmae_plugin.__version__
    assert tuple(manifest["slots"]) == ENCODERS
    assert manifest["slots"]["neck"] == {
        "neck.0.weight": [4, 3],
        "neck.0.bias": [4],
        "neck.1.weight": [4],
        "neck.1.bias": [4],
        "neck.1.running_mean": [4],
        "neck.1.running_var": [4],
        "neck.1.num_batches_tracked": [],
    }
    assert manifest["inputs"] is None  # no configuration lies above the checkpoint


def test_the_manifest_tells_what_the_encoders_expect(run, tmp_path):
    config = load_config(TINY / "nsmae_pretrain.yaml")
    run_log.write_config(config, run.parents[1] / "toy.yaml")
    found, _ = export(run, tmp_path / "w.pth")
    data = config.DATA_CONFIG
    voxels = next(s for s in data.DATA_PROCESSOR if s.NAME == "transform_points_to_voxels")
    assert found["inputs"]["voxel_size"] == voxels.VOXEL_SIZE
    assert found["inputs"]["point_features"] == ["x", "y", "z", "intensity", "timestamp"]
    assert found["inputs"]["point_cloud_range"] == data.POINT_CLOUD_RANGE
    assert found["inputs"]["image_size"] == data.CAMERA_CONFIG.IMAGE.FINAL_DIM
    assert found["model"]["VTRANSFORM"] == config.MODEL.VTRANSFORM
    assert "BEV_HEAD" not in found["model"]
    again, _ = export(run, tmp_path / "v.pth", cfg_file=run.parents[1] / "toy.yaml")
    assert again == found


@pytest.mark.parametrize(("slot", "modality"), [("backbone_3d", "lidar"), ("neck", "camera")])
def test_one_modality_is_named(tmp_path, slot, modality):
    branch = ("backbone_3d",) if modality == "lidar" else ("image_backbone", "neck", "vtransform")
    kept = {name: value for name, value in state().items() if name.split(".")[0] in branch}
    manifest, _ = export(write_run(tmp_path / "run", kept), tmp_path / "w.pth")
    assert manifest["modality"] == modality
    assert slot in manifest["slots"]


def test_parts_of_a_large_tensor_are_exported_alone(tmp_path):
    large = torch.zeros(1_000_000)
    path = write_run(tmp_path / "run", {"neck.weight": large[:8], "neck.same": large[:8]})
    export(path, tmp_path / "w.pth", safetensors=True)
    assert (tmp_path / "w.pth").stat().st_size < 10_000
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert set(file.keys()) == {"neck.weight", "neck.same"}


def test_a_checkpoint_without_encoders_is_refused(tmp_path):
    path = write_run(tmp_path / "run", {"dense_head.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"no encoder to export: it holds the slots dense_he"):
        export(path, tmp_path / "w.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = write_run(tmp_path / "run", {"neck.0.weight": torch.tensor([1.0, float("nan")])})
    with pytest.raises(CheckpointError, match=r"neck.0.weight is NaN or infinite"):
        export(path, tmp_path / "w.pth")
    assert not (tmp_path / "w.pth").exists()


def test_an_export_never_lands_where_a_run_would_resume_from_it(run, tmp_path):
    with pytest.raises(ConfigError, match="among the checkpoints of the run"):
        export(run, run.parent / "nsmae_weights.pth")
    with pytest.raises(ConfigError, match=r"must end with \.pth"):
        export(run, tmp_path / "w.safetensors")
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_safetensors_that_are_missing_or_damaged_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no weight file"):
        weights.read(tmp_path / "none.safetensors")
    export(run, tmp_path / "w.pth", safetensors=True)
    path = tmp_path / "w.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"may be truncated.*export them again"):
        weights.read(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        weights.read(path)


def tool(*arguments):
    return export_weights.main([str(one) for one in arguments])


def test_the_tool_tells_what_it_wrote_and_why_it_did_not(run, tmp_path, capsys):
    assert tool("--ckpt", run.parent, "--out", tmp_path / "w.pth", "--safetensors") == 0
    output = capsys.readouterr().out
    assert "camera+lidar encoders of toy, epoch 2\n" in output
    assert "image_backbone          7 tensors" in output
    assert "--cfg_file adds it" in output
    assert f"{tmp_path}/w.pth, {tmp_path}/w.json, {tmp_path}/w.safetensors" in output
    assert tool("--ckpt", tmp_path / "none.pth", "--out", tmp_path / "v.pth") == 1
    assert capsys.readouterr().err.startswith("error: there is no checkpoint")


def build(name, root):
    """The network of a tiny configuration, on the active host."""
    nsmae_plugin.register()
    config = load_config(TINY / f"{name}.yaml", ["DATA_CONFIG.DATA_PATH", str(root)])
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True)
    return host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("nsmae_pretrain_lidar", {"backbone_3d"}),
        ("nsmae_pretrain_camera_depth", {"image_backbone", "neck", "vtransform"}),
    ],
)
def test_one_branch_of_a_network_starts_from_the_export_of_both(
    synthetic_root, tmp_path, name, slots, suffix
):
    torch.manual_seed(0)
    source = build("nsmae_pretrain", synthetic_root).state_dict()
    export(write_run(tmp_path / "run", source), tmp_path / "w.pth", safetensors=True)
    torch.manual_seed(1)
    model = build(name, synthetic_root)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = load_pretrained(model, (tmp_path / "w").with_suffix(suffix), LOGGER)
    assert found.keys() == slots
    assert all(one.complete for one in found.values())
    for key, value in model.state_dict().items():
        expected = source[key] if key.split(".")[0] in slots else before[key]
        assert torch.equal(value, expected), key


def test_data_unlike_those_of_the_pretraining_are_pointed_out(synthetic_root, tmp_path, caplog):
    source = build("nsmae_pretrain", synthetic_root)
    path = write_run(tmp_path / "run", source.state_dict())
    config = load_config(
        TINY / "nsmae_pretrain.yaml",
        ["DATA_CONFIG.DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE", "[0.1, 0.1, 0.2]"],
    )
    run_log.write_config(config, path.parents[1] / "toy.yaml")
    export(path, tmp_path / "w.pth")
    load_pretrained(build("nsmae_pretrain_lidar", synthetic_root), tmp_path / "w.pth", LOGGER)
    told = [one for one in caplog.records if one.name == LOGGER.name]  # the dataset warns, too
    warnings = [one.getMessage() for one in told if one.levelno == logging.WARNING]
    assert warnings == ["  voxel_size is [0.2, 0.2, 0.2] here and was [0.1, 0.1, 0.2] before"]

"""Features of networks: what they are, and that the cache gives no others."""

import json

import pytest
import torch
import torch.nn.functional as F

from nsmae_plugin import host
from nsmae_plugin.errors import CheckpointError, ConfigError, DataError, OutputError
from nsmae_plugin.experiments.probe import extraction, row_files
from nsmae_plugin.experiments.probe.encoders import Network
from nsmae_plugin.training.weights import ENCODERS
from tests.helpers.probe_case import build_network, extract_small, small_config, write_weights


@pytest.fixture(scope="module")
def config(synthetic_root):
    return small_config(synthetic_root)


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The checkpoint of a whole network, and what reaches its fuser in evaluation mode."""
    network, dataset = build_network(config, seed=5)
    seen = {"camera": [], "camera_pooled": [], "lidar": []}

    def look(_module, inputs):
        seen["camera"].append(inputs[0]["spatial_features_img"])
        seen["lidar"].append(inputs[0]["spatial_features"])

    def look_at_pooled(_module, inputs):
        seen["camera_pooled"].append(F.avg_pool2d(inputs[0], 2).transpose(2, 3))

    network.fuser.register_forward_pre_hook(look)
    network.vtransform.downsample.register_forward_pre_hook(look_at_pooled)
    with torch.no_grad():
        for first in range(0, len(dataset.infos), 2):
            batch = dataset.collate_batch([dataset[first], dataset[first + 1]])
            network(host.to_device(batch, "cpu"))
    path = write_weights(tmp_path_factory.mktemp("weights") / "trained.pth", network)
    return path, {name: torch.cat(parts) for name, parts in seen.items()}


def refuse(*_arguments, **_options):
    raise AssertionError("nothing is left to compute")


def test_features_are_those_of_the_detection_network(config, trained, tmp_path):
    weights, seen = trained
    lines = []
    found = extract_small(config, tmp_path, Network("a", weights), tell=lines)["a", "train"]
    assert set(found.branches) == {"camera", "camera_pooled", "lidar", "fused"}
    assert seen["lidar"].shape == (6, 256, 16, 16)
    for name, expected in seen.items():
        torch.testing.assert_close(found.branch(name).float(), expected, rtol=1e-3, atol=1e-6)
        assert expected.std() > 1e-4
    fused = torch.cat((found.branch("camera"), found.branch("lidar")), 1)
    assert torch.equal(found.branch("fused"), fused)
    assert not lines
    assert found.untrained == ()
    with pytest.raises(DataError, match=r"no features 'radar', but .*lidar"):
        found.branch("radar")


def test_components_have_variance_one_and_keep_what_varies(config, trained, tmp_path):
    weights, seen = trained
    options = {"channels": 8, "moments_frames": 6}
    found = extract_small(config, tmp_path, Network("a", weights), **options)["a", "train"]
    rows = found.branch("lidar").float().transpose(0, 1).flatten(1).double()
    assert rows.shape == (8, 6 * 16 * 16)
    torch.testing.assert_close(rows.cov(correction=0), torch.eye(8).double(), rtol=0, atol=5e-3)
    # An independent route to the same subspace: its rows explain as much as the first eight
    # principal components can.
    original = seen["lidar"].transpose(0, 1).flatten(1).double()
    centred = original - original.mean(1, keepdim=True)
    left = centred - centred @ rows.T @ torch.linalg.inv(rows @ rows.T) @ rows
    best = torch.linalg.svdvals(centred)[8:].square().sum()
    torch.testing.assert_close(left.square().sum(), best, rtol=1e-3, atol=0)
    assert found.diagnose().features["lidar"].channels == 256


def test_statistics_are_estimated_on_training_frames_as_by_torch(config, trained, tmp_path):
    """Against torch.optim.swa_utils.update_bn over the same batches."""
    weights, _ = trained
    network, dataset = build_network(config, seed=5)
    batches = [
        host.to_device(dataset.collate_batch([dataset[i] for i in pair]), "cpu")
        for pair in ((0, 2), (3, 5))  # four of six frames, evenly spread
    ]

    class LidarBranch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vfe, self.backbone_3d = network.vfe, network.backbone_3d
            self.map_to_bev_module = network.map_to_bev_module

        def forward(self, batch):
            batch = self.map_to_bev_module(self.backbone_3d(self.vfe(dict(batch))))
            return batch["spatial_features"]

    reference = LidarBranch()
    torch.optim.swa_utils.update_bn(batches, reference)
    options = {"statistics_batches": 2}
    found = extract_small(config, tmp_path, Network("a", weights), **options)["a", "train"]
    with torch.no_grad():
        expected = reference.eval()(batches[0])
    rows = found.branch("lidar")[[0, 2]].float()
    torch.testing.assert_close(rows, expected, rtol=2e-3, atol=1e-4)


def test_an_untrained_network_starts_as_a_fine_tuning_with_its_seed(config, tmp_path):
    networks = [Network(f"seed {seed}", None, seed) for seed in (3, 4)]
    found = extract_small(config, tmp_path, *networks)
    network, _ = build_network(config, seed=3)
    path = write_weights(tmp_path / "scratch.pth", network)
    for norm in ("running_mean", "running_var"):  # those of the first day
        content = torch.load(path)
        for name, value in content["model_state"].items():
            if name.endswith(norm):
                value.fill_(float(norm == "running_var"))
        torch.save(content, path)
    same = extract_small(config, tmp_path, Network("scratch", path))["scratch", "train"]
    first, other = found["seed 3", "train"], found["seed 4", "train"]
    assert torch.equal(first.branch("fused"), same.branch("fused"))
    assert not torch.equal(first.branch("lidar"), other.branch("lidar"))
    slots = ("backbone_3d", "image_backbone", "neck", "vtransform")
    assert set(first.untrained) == set(slots)


def test_what_the_weights_lack_is_told(config, trained, tmp_path):
    network, _ = build_network(config, seed=5)
    path = write_weights(tmp_path / "camera.pth", network, without=("vfe", "backbone_3d"))
    for _ in range(2):  # also where features come from the cache
        lines = []
        found = extract_small(config, tmp_path, Network("cameras", path), tell=lines)
        assert found["cameras", "train"].untrained == ("backbone_3d",)
        assert lines == [f"cameras: backbone_3d untrained, since {path} has no weights for it"]
    seen = trained[1]
    features = found["cameras", "train"]
    torch.testing.assert_close(
        features.branch("camera").float(), seen["camera"], rtol=1e-3, atol=1e-6
    )
    assert not torch.allclose(features.branch("lidar").float(), seen["lidar"], rtol=0.1)


def test_lidar_depth_changes_what_is_pooled_and_nothing_else(config, trained, tmp_path):
    weights, seen = trained
    options = {"lidar_depth": True}
    found = extract_small(config, tmp_path, Network("a", weights), **options)["a", "train"]
    own = extract_small(config, tmp_path, Network("a", weights))["a", "train"]
    assert torch.equal(found.branch("lidar"), own.branch("lidar"))
    for name in ("camera", "camera_pooled"):
        assert not torch.allclose(found.branch(name).float(), seen[name], rtol=0.1)
    assert found.diagnose().depth == own.diagnose().depth  # of the network
    assert own.diagnose().depth.cells > 100


def test_cameras_alone_are_compared_with_a_lidar_that_they_do_not_see(synthetic_root, tmp_path):
    config = small_config(synthetic_root, "camera_map")
    assert not config.DATA_CONFIG.USE_LIDAR
    network, dataset = build_network(config, seed=2, split="test")
    path = write_weights(tmp_path / "camera.pth", network)
    seen = []
    network.vtransform.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output["spatial_features_img"])
    )
    batch = host.to_device(dataset.collate_batch([dataset[0], dataset[1]]), "cpu")
    assert "points" not in batch
    with torch.no_grad():
        network(batch)
    networks = Network("cameras", path)
    found = extract_small(config, tmp_path, networks, splits=("test",))["cameras", "test"]
    assert set(found.branches) == {"camera", "camera_pooled"}
    torch.testing.assert_close(found.branch("camera")[:2].float(), seen[0], rtol=1e-3, atol=1e-6)
    assert found.diagnose().depth.cells > 100


def test_a_killed_extraction_goes_on_to_identical_files(config, trained, tmp_path, monkeypatch):
    network = Network("a", trained[0])
    options = {"statistics_batches": 1, "lidar_depth": True}
    extract_small(config, tmp_path / "whole", network, **options)
    append, frames = row_files.RowFiles.append, []

    def killed_in_the_second_batch(rows, part):
        append(rows, part)
        if rows.done == 4:  # written, but not recorded; half a row more is in one file
            content = json.loads((rows.folder / row_files.RECORD).read_text())
            (rows.folder / row_files.RECORD).write_text(json.dumps({**content, "done": 2}))
            with open(rows.folder / "lidar.npy", "ab") as file:
                file.write(b"half a row")
            raise KeyboardInterrupt

    monkeypatch.setattr(row_files.RowFiles, "append", killed_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        extract_small(config, tmp_path / "killed", network, **options)

    def count(rows, part):
        frames.append(len(part["lidar"]))
        append(rows, part)

    monkeypatch.setattr(row_files.RowFiles, "append", count)
    monkeypatch.setattr(extraction, "estimate_statistics", refuse)  # they are kept, too
    extract_small(config, tmp_path / "killed", network, **options)
    assert frames == [2, 2]
    kinds = ("npy", "json")
    names = {
        folder: {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for kind in kinds
            for path in (tmp_path / folder).rglob(f"*.{kind}")
        }
        for folder in ("whole", "killed")
    }
    assert len(names["whole"]) == 6
    assert names["killed"] == names["whole"]


def test_complete_features_are_read_and_changed_ones_computed(
    config, trained, tmp_path, monkeypatch, synthetic_root
):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(trained[0].read_bytes())
    network = Network("a", weights)
    before = extract_small(config, tmp_path, network)["a", "train"].branch("lidar")
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "build_encoders", refuse)
        again = extract_small(config, tmp_path, Network("b", trained[0]))["b", "train"]
        assert torch.equal(again.branch("lidar"), before)
        # Which frames have labels is no part of what a network sees.
        parts = {"DATA_CONFIG__LABEL_FRACTION": 0.5, "DATA_CONFIG__VALIDATION_FRACTION": 0.5}
        other = small_config(synthetic_root, **parts)
        assert torch.equal(
            extract_small(other, tmp_path, network)["a", "train"].branch("lidar"), before
        )
    write_weights(weights, build_network(config, seed=6)[0])
    after = extract_small(config, tmp_path, network)["a", "train"]
    assert not torch.equal(after.branch("lidar"), before)
    assert after.digest != again.digest
    changed = small_config(synthetic_root, DATA_CONFIG__MAX_SWEEPS=2)
    for setting, options in ((changed, {}), (config, {"lidar_depth": True})):
        with monkeypatch.context() as patch:
            patch.setattr(extraction, "build_encoders", refuse)
            with pytest.raises(AssertionError, match="nothing is left"):
                extract_small(setting, tmp_path, network, **options)


def test_two_processes_do_not_write_the_same_features(config, trained, tmp_path, monkeypatch):
    append = row_files.RowFiles.append

    def with_a_second_one(rows, part):
        monkeypatch.setattr(row_files.RowFiles, "append", append)
        with pytest.raises(OutputError, match="another process computes the features in"):
            extract_small(config, tmp_path, Network("a", trained[0]))
        append(rows, part)

    monkeypatch.setattr(row_files.RowFiles, "append", with_a_second_one)
    extract_small(config, tmp_path, Network("a", trained[0]))


def test_features_beyond_float16_are_refused(config, tmp_path):
    network, _ = build_network(config, seed=5)
    network.backbone_3d.conv_out[1].weight.data.fill_(1e9)
    path = write_weights(tmp_path / "huge.pth", network)
    with pytest.raises(
        DataError, match=r"features lidar of huge reach .*e\+\d+, more than float16"
    ):
        extract_small(config, tmp_path, Network("huge", path))


def test_other_encoders_and_missing_depth_are_refused(synthetic_root, config, tmp_path):
    network, _ = build_network(config, seed=5)
    path = write_weights(tmp_path / "head.pth", network, without=ENCODERS)
    with pytest.raises(CheckpointError, match=r"has nothing that Encoders can start from"):
        extract_small(config, tmp_path, Network("head", path))
    lidar = small_config(synthetic_root, "lidar_map")
    with pytest.raises(ConfigError, match="LiDAR's depth in the place"):
        extract_small(lidar, tmp_path, Network("a", None), lidar_depth=True)


def test_damaged_statistics_are_told(config, trained, tmp_path):
    network = Network("a", trained[0])
    extract_small(config, tmp_path, network)
    (path,) = tmp_path.rglob(extraction.STATISTICS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"statistics.pt is damaged: remove it"):
        extract_small(config, tmp_path, network)
    path.unlink()
    extract_small(config, tmp_path, network)

"""The pre-training detector, end to end, with cameras and LiDAR together and alone."""

import numpy as np
import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.load import load_config
from nsmae_plugin.errors import ConfigError
from tests.helpers.bfloat16_check import check_bfloat16_training
from tests.helpers.dataset_specification import DatasetSpecification
from tests.helpers.detector_case import check_batch_left_alone, on_small_range
from tests.helpers.made_up_batch import CORNERS, HEIGHT, VOXEL, WIDTH, made_up_batch
from tests.helpers.paths import TINY

MODES = {
    "both": "nsmae_pretrain.yaml",
    "camera": "nsmae_pretrain_camera.yaml",
    "lidar": "nsmae_pretrain_lidar.yaml",
}
LOSSES = {
    "both": ["rgb", "depth", "bev_depth"],
    "camera": ["rgb", "depth", "bev_depth"],
    "lidar": ["bev_depth"],
}


def build(mode, overrides=(), **loss_config):
    """The tiny network of a mode on a range of 25.6 m, seeded."""
    nsmae_plugin.register()
    config = on_small_range(load_config(TINY / MODES[mode], overrides).MODEL)
    config.LOSS_CONFIG.update(loss_config)
    dataset = DatasetSpecification(CORNERS, [VOXEL] * 3)
    torch.manual_seed(0)
    return host.build_network(model_cfg=config, num_class=1, dataset=dataset)


def train(model, batch, steps, learning_rate=2e-3):
    """Loss terms before each of some Adam steps on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    history = []
    for _ in range(steps):
        result, terms, _ = model(batch)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        model.update_global_step()
        history.append(terms)
    return history


@pytest.mark.parametrize("mode", MODES)
def test_every_term_falls_within_a_few_steps(mode, device):
    model = build(mode).to(device).train()
    history = train(model, made_up_batch(mode, device=device), steps=12)
    for name in LOSSES[mode]:
        first, last = history[0][f"loss_{name}"], history[-1][f"loss_{name}"]
        assert last < 0.9 * first, (name, first, last)


@pytest.mark.parametrize("mode", MODES)
def test_training_returns_openpcdets_triple_with_every_term_twice(mode):
    result, tb_dict, disp_dict = build(mode).train()(made_up_batch(mode))
    assert set(result) == {"loss"}
    assert result["loss"].requires_grad
    names = [f"{kind}_{name}" for kind in ("loss", "weighted") for name in LOSSES[mode]]
    assert list(tb_dict) == names
    # Tensors, so that nothing waits for the device; detached, so that no graph stays alive.
    assert all(value.shape == () and not value.requires_grad for value in tb_dict.values())
    weighted = sum(tb_dict[f"weighted_{name}"] for name in LOSSES[mode])
    assert result["loss"].item() == pytest.approx(weighted.item(), rel=1e-6)
    assert disp_dict == {}


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_returns_renderings_targets_and_terms(mode):
    batch = made_up_batch(mode)
    with torch.no_grad():
        samples, recall = build(mode).eval()(batch)
    assert recall == {}
    assert len(samples) == 2
    rendered = samples[1]
    views = {"rendered_bev_depth": (16, 16)}
    if mode != "lidar":
        views |= {"rendered_depth": (2, 8, 12), "rendered_rgb": (2, 3, 8, 12)}
    for name, shape in views.items():
        target = name.replace("rendered", "target")
        assert rendered[name].shape == rendered[target].shape == shape
        mask = f"{target.removesuffix('_depth')}_mask" if "bev" in target else f"{target}_mask"
        if "rgb" not in name:
            assert rendered[mask].any()
            assert not (rendered[mask.replace("mask", "hidden")] & ~rendered[mask]).any()
    if mode == "camera":  # nothing of the LiDAR goes in
        assert torch.equal(rendered["target_depth_hidden"], rendered["target_depth_mask"])
        assert torch.equal(rendered["target_bev_hidden"], rendered["target_bev_mask"])
    assert list(rendered["loss_terms"])[: len(LOSSES[mode])] == [f"loss_{n}" for n in LOSSES[mode]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stopped", [False, True])
def test_every_parameter_gets_a_gradient_in_every_step(mode, stopped):
    # Distributed training without find_unused_parameters hangs otherwise.
    if mode == "lidar" and stopped:
        pytest.skip("LiDAR alone has no depth in cameras")
    model = build(mode, DEPTH_STOP_EPOCH=1 if stopped else None).train()
    model.steps_per_epoch = 5
    model.global_step += 5
    result, terms, _ = model(made_up_batch(mode))
    result["loss"].backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    if mode != "lidar":
        assert (terms["weighted_depth"].item() == 0) is stopped
    lidar = [p.grad for name, p in model.named_parameters() if name.startswith("backbone_3d")]
    if lidar:
        assert any(grad.abs().sum() > 0 for grad in lidar)


def test_depth_in_the_cameras_trains_until_its_epoch_and_not_after():
    model = build("both", DEPTH_STOP_EPOCH=2).train()
    model.steps_per_epoch = 2
    history = train(model, made_up_batch(), steps=5)
    assert [terms["weighted_depth"] > 0 for terms in history] == [True] * 4 + [False]
    assert all(terms["loss_depth"] > 0 for terms in history)
    for name in ("weighted_rgb", "weighted_bev_depth"):
        assert all(terms[name] > 0 for terms in history)


class EpochOfFour:
    """Data that knows the length of its epoch: two batches of made_up_batch()."""

    epoch_length = 4

    def __len__(self):
        return 4


def test_a_loop_that_says_nothing_of_epochs_ends_depth_at_the_same_step():
    """OpenPCDet's, which calls the network and nothing else."""
    batch = made_up_batch()
    assert batch["batch_size"] == 2
    model = build("both", DEPTH_STOP_EPOCH=1).train()
    model.dataset = EpochOfFour()
    history = train(model, batch, steps=3)
    assert [terms["weighted_depth"] > 0 for terms in history] == [True, True, False]


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_batch_is_left_alone(training):
    check_batch_left_alone(build("both").train(training), made_up_batch())


def test_targets_do_not_depend_on_the_masks():
    model, batch = build("both").eval(), made_up_batch()
    with torch.no_grad():
        (first, _), _ = model(batch)
        batch["image_patch_mask"] = ~batch["image_patch_mask"]
        batch["depth_point_mask"] = torch.ones_like(batch["depth_point_mask"])
        batch["voxel_coords"], batch["voxels"] = batch["voxel_coords"][:9], batch["voxels"][:9]
        batch["voxel_num_points"] = batch["voxel_num_points"][:9]
        (second, _), _ = model(batch)
    for name in ("target_rgb", "target_depth", "target_bev_depth"):
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first["rendered_rgb"], second["rendered_rgb"])


def test_hidden_patches_do_not_reach_the_rendering():
    # What is under the mask may change the target only.
    model, batch = build("both").eval(), made_up_batch()
    with torch.no_grad():
        (first, _), _ = model(batch)
        hidden = batch["image_patch_mask"].repeat_interleave(8, -1).repeat_interleave(8, -2)
        batch["camera_imgs"] = torch.where(hidden[:, :, None], 0.7, batch["camera_imgs"])
        (second, _), _ = model(batch)
    assert torch.equal(first["rendered_rgb"], second["rendered_rgb"])
    assert not torch.equal(first["target_rgb"], second["target_rgb"])


def test_slots_of_the_encoders_are_those_of_stock_detectors():
    stock = {"vfe", "backbone_3d", "map_to_bev_module", "image_backbone", "neck", "vtransform"}
    slots = {name for name, _ in build("both").named_children()}
    assert slots == stock | {"mask_token", "perspective_head", "bev_head"}


def test_one_key_chooses_the_kernels_of_pooling_and_of_rendering():
    pytest.importorskip("triton")
    model = build("camera", ["MODEL.VTRANSFORM.KERNELS", "triton"])
    assert model.vtransform.kernels == model.perspective_head.kernels == "triton"
    model = build("camera")
    assert model.vtransform.kernels == model.perspective_head.kernels == "torch"


def test_a_view_transform_without_factors_is_refused():
    if host.NAME == "builtin":
        pytest.skip("there OpenPCDet's view transform is ours")
    message = r"cannot render DepthLSSTransform: set MODEL\.VTRANSFORM\.NAME to FactorizedL"
    with pytest.raises(ConfigError, match=message):
        build("camera", ["MODEL.VTRANSFORM.NAME", "DepthLSSTransform"])


def test_a_view_of_cameras_that_are_not_there_is_refused():
    with pytest.raises(ConfigError, match="PerspectiveRenderHead cannot render a network without"):
        build("lidar", ["MODEL.RENDER_HEADS", "[{'NAME': 'PerspectiveRenderHead'}]"])


def test_a_checkpoint_holds_no_geometry():
    state = build("both").state_dict()
    names = {name for name in state if not name.startswith(("backbone_3d", "image_backbone"))}
    learnt = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "token")
    assert {name for name in names if not name.endswith(learnt)} == {"global_step"}


@pytest.mark.parametrize("mode", MODES)
def test_no_point_in_view_gives_a_finite_loss_and_gradients(mode):
    batch = made_up_batch(mode)
    batch["points"] = batch["points"][:1]
    batch["points"][:, 1:4] = 1000.0
    batch["depth_point_mask"] = batch["depth_point_mask"][:1]
    model = build(mode).train()
    result, terms, _ = model(batch)
    result["loss"].backward()
    assert result["loss"].isfinite()
    assert terms["loss_bev_depth"] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cameras", [1, 5])
def test_any_number_of_cameras(cameras):
    with torch.no_grad():
        rendered, _ = build("both").eval()(made_up_batch(cameras=cameras))
    assert [len(sample["rendered_rgb"]) for sample in rendered] == [cameras, cameras]


def test_bfloat16_autocast_trains_with_float32_renderings(device):
    check_bfloat16_training(build("both").to(device), made_up_batch(device=device))


def test_data_without_a_modality_of_the_model_is_named():
    model = build("both")
    with pytest.raises(ConfigError, match="no camera_imgs"):
        model(made_up_batch("lidar"))
    with pytest.raises(ConfigError, match="no voxels"):
        model(made_up_batch("camera"))


@pytest.mark.parametrize("mode", MODES)
def test_the_data_set_feeds_every_mode(mode, synthetic_root):
    nsmae_plugin.register()
    config = load_config(TINY / MODES[mode])
    config.DATA_CONFIG.CAMERA_CONFIG.IMAGE.update(
        FINAL_DIM=[HEIGHT, WIDTH], RESIZE_LIM_TRAIN=[0.7, 0.8], RESIZE_LIM_TEST=[0.7, 0.7]
    )
    if mode != "lidar":
        config.MODEL.VTRANSFORM.update(
            IMAGE_SIZE=[HEIGHT, WIDTH], FEATURE_SIZE=[HEIGHT // 8, WIDTH // 8]
        )
    dataset = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True, synthetic_root)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), dataset)
    np.random.seed(0)  # noqa: NPY002 (the dataset draws from the global state)
    batch = host.to_device(dataset.collate_batch([dataset[0], dataset[1]]), "cpu")
    result, _, _ = model.train()(batch)
    result["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        (rendered, _), _ = model.eval()(batch)
    # Nine of ten voxels and depth points are hidden; cells of several show one more often.
    assert rendered["target_bev_mask"].any()
    assert 0.3 < rendered["target_bev_hidden"].sum() / rendered["target_bev_mask"].sum() <= 1
    if mode != "lidar":
        assert 0.02 < rendered["target_depth_mask"].float().mean() < 0.98
        assert rendered["target_rgb"].min() > -1e-6
        assert rendered["target_rgb"].max() < 1 + 1e-6

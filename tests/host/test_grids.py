"""Grids and widths that do not fit together are refused when a network is built, on every host."""

import logging
import sys

import numpy as np
import pytest
import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.config.derived import complete
from nsmae_plugin.errors import ConfigError
from nsmae_plugin.host.lost_voxels import warn_of_losses
from tests.helpers.detector_case import SENSORS, build, make_config, make_dataset


@pytest.fixture(autouse=True)
def registered():
    nsmae_plugin.register()


@pytest.mark.parametrize("recipe", SENSORS)
def test_the_recipes_are_accepted(recipe, caplog):
    build(recipe)
    assert not caplog.records


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("FUSER", {"IN_CHANNEL": 336}, "IN_CHANNEL is 336.* 32 .* 256 make 288"),
        ("VTRANSFORM", {"DOWNSAMPLE": 1}, "BEV grids of camera and LiDAR differ"),
        ("VTRANSFORM", {"XBOUND": [-51.2, 51.2, 0.8]}, "XBOUND covers -51.2 to 51.2 m"),
        ("BACKBONE_2D", {"UPSAMPLE_STRIDES": [1, 2]}, "is 4, but .* cells of 8 voxels"),
        ("BACKBONE_2D", {"UPSAMPLE_STRIDES": [2, 2]}, "cells of 4, 8 voxels"),
        ("BACKBONE_2D", {"LAYER_STRIDES": [4, 8]}, "16 x 16 BEV cells do not divide by 32"),
    ],
)
def test_sizes_that_do_not_fit_are_named(section, changes, message):
    config = make_config("bevfusion_det")
    config.BACKBONE_2D.update(LAYER_STRIDES=[1, 2], UPSAMPLE_STRIDES=[2, 4])
    config.DENSE_HEAD.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE = 4
    complete(config, make_dataset())
    config[section].update(changes)
    with pytest.raises(ConfigError, match=message):
        complete(config, make_dataset())


def with_decoder(**changes):
    config = make_config("camera_det")
    config.BACKBONE_2D = {
        "NAME": "GeneralizedResNetLSSFPN",
        "LAYER_NUMS": [1, 1, 1],
        "LAYER_STRIDES": [2, 2, 1],
        "NUM_FILTERS": [4, 4, 4],
        "OUT_CHANNEL": 4,
        "UPSAMPLE_STRIDE": 2,
        **changes,
    }
    return config


@pytest.mark.parametrize("changes", [{}, {"LAYER_STRIDES": [4, 2, 2], "UPSAMPLE_STRIDE": 4}])
def test_a_decoder_that_comes_back_to_the_cells_of_the_head_is_accepted(changes):
    complete(with_decoder(**changes), make_dataset())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"UPSAMPLE_STRIDE": 1},
            r"is 8, but .* cells of 16 voxels \(LAYER_STRIDES, UPSAMPLE_STRIDE\)",
        ),
        ({"LAYER_STRIDES": [1, 2, 2]}, "is 8, but .* cells of 4 voxels"),
        ({"LAYER_STRIDES": [2, 4, 4]}, "16 x 16 BEV cells do not divide by 32"),
    ],
)
def test_the_decoder_must_end_on_the_grid_of_the_head(changes, message):
    with pytest.raises(ConfigError, match=message):
        complete(with_decoder(**changes), make_dataset())


def test_a_map_head_takes_a_decoder_of_any_stride():
    config = with_decoder(UPSAMPLE_STRIDE=1)
    config.pop("DENSE_HEAD")
    complete(config, make_dataset())


def test_a_backbone_of_another_kind_is_left_to_itself():
    config = make_config("bevfusion_det")
    config.BACKBONE_2D = {"NAME": "SomebodysBackbone"}
    complete(config, make_dataset())


def dataset(lower=(-12.8, -12.8, -5.0), upper=(12.8, 12.8, 3.0), voxel=(0.2, 0.2, 0.2)):
    made = make_dataset()
    made.point_cloud_range = [*lower, *upper]
    made.voxel_size = list(voxel)
    sides = zip(lower, upper, voxel, strict=True)
    made.grid_size = np.array([round((high - low) / edge) for low, high, edge in sides])
    return made


@pytest.mark.parametrize("detector", ["BevFusion", "BEVDetector"])
@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ((-6.4, -12.8, -5.0), (19.2, 12.8, 3.0), "XBOUND covers -12.8 to 12.8 m, .* -6.4 to 19.2"),
        ((-12.8, -6.4, -5.0), (12.8, 19.2, 3.0), "YBOUND covers -12.8 to 12.8 m, .* -6.4 to 19.2"),
        ((-6.4, -6.4, -5.0), (6.4, 6.4, 3.0), "XBOUND covers .* make them equal"),
    ],
)
def test_a_camera_grid_elsewhere_than_the_points_is_refused(detector, lower, upper, message):
    """The maps would have the same size, and be fused displaced."""
    config = make_config("bevfusion_det")
    config.NAME = detector
    with pytest.raises(ConfigError, match=message):
        host.build_network(config, num_class=10, dataset=dataset(lower, upper))


@pytest.mark.openpcdet
def test_the_builder_that_openpcdets_scripts_import_refuses_as_well(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    build_network = sys.modules["pcdet.models"].build_network
    config = make_config("bevfusion_det")
    config.VTRANSFORM.NAME = "DepthLSSTransform"
    moved = dataset((-6.4, -12.8, -5.0), (19.2, 12.8, 3.0))
    with pytest.raises(ConfigError, match="XBOUND covers"):
        build_network(model_cfg=config, num_class=10, dataset=moved)
    assert openpcdet.build_network(config, 10, make_dataset()).vtransform is not None


@pytest.mark.parametrize(
    ("voxel", "message"),
    [
        ((0.15, 0.15, 0.2), "171 x 171 voxels do not divide into BEV cells of 8 x 8: change"),
        ((0.2, 0.2, 0.25), "32 voxels along z .* leave 1 levels of 128 .* set it to 128"),
        ((0.2, 0.2, 0.4), "20 voxels along z are too few .* 24 or more"),
    ],
)
@pytest.mark.parametrize("recipe", ["centerpoint_lidar", "transfusion_lidar"])
def test_voxels_that_the_backbones_cannot_take_are_refused_with_a_remedy(recipe, voxel, message):
    with pytest.raises(ConfigError, match=message):
        host.build_network(make_config(recipe), num_class=10, dataset=dataset(voxel=voxel))


@pytest.mark.parametrize(("height", "features"), [(4.8, 128), (8.0, 256), (11.2, 384)])
def test_the_height_that_map_to_bev_stacks_is_that_of_the_backbone(height, features):
    """24, 40 and 56 voxels: the expected sizes are those of the map that the modules make."""
    made = dataset((-3.2, -3.2, 0.0), (3.2, 3.2, height))
    config = make_config("centerpoint_lidar")
    config.MAP_TO_BEV.NUM_BEV_FEATURES = features
    model = host.build_network(config, num_class=10, dataset=made)
    voxels = torch.tensor([[0, 3, 5, 5], [0, 20, 9, 30], [0, 22, 30, 2]])
    batch = {"voxel_features": torch.rand(3, 5), "voxel_coords": voxels, "batch_size": 1}
    batch = model.map_to_bev_module(model.backbone_3d(batch))
    assert batch["spatial_features"].shape == (1, features, 4, 4)
    config.MAP_TO_BEV.NUM_BEV_FEATURES = features + 128
    with pytest.raises(ConfigError, match=f"set it to {features}"):
        complete(config, made)


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("centerpoint_lidar", "POST_CENTER_LIMIT_RANGE"),
        ("transfusion_lidar", "POST_CENTER_RANGE"),
    ],
)
def test_boxes_that_are_trained_but_never_predicted_are_said(recipe, key, caplog):
    config = make_config(recipe)
    config.DENSE_HEAD.POST_PROCESSING[key] = [-12.8, -10.0, -10.0, 12.8, 12.8, 10.0]
    with caplog.at_level(logging.WARNING):
        build(recipe, config=config)
    (record,) = caplog.records
    assert f"{key} [-12.8, -10, -10, 12.8, 12.8, 10] does not contain" in record.message
    assert "POINT_CLOUD_RANGE [-12.8, -12.8, -5, 12.8, 12.8, 3]" in record.message


def test_voxels_that_leave_a_rest_of_the_range_are_said_in_the_log_of_the_run(caplog):
    made = dataset(upper=(12.85, 12.8, 3.0))
    made.logger = logging.getLogger("a.run")
    with caplog.at_level(logging.WARNING):
        host.build_network(make_config("centerpoint_lidar"), num_class=10, dataset=made)
    (record,) = caplog.records
    assert record.name == "a.run"
    words = "0.2 m does not divide POINT_CLOUD_RANGE along x: 128 voxels end at 12.8 m and not at"
    assert words in record.message


@pytest.mark.parametrize("voxels", [24, 40, 43, 46, 50, 56])
def test_the_topmost_voxels_that_are_lost_are_counted(voxels, caplog):
    """Compared with the backbone itself: a voxel is lost if it makes no row of its output."""
    made = dataset((-3.2, -3.2, 0.0), (3.2, 3.2, 0.2 * voxels))
    config = make_config("centerpoint_lidar")
    config.MAP_TO_BEV.NUM_BEV_FEATURES = 128 * ((voxels + 8) // 16 - 1)
    config.DENSE_HEAD.POST_PROCESSING.POST_CENTER_LIMIT_RANGE[5] = 99.0
    with caplog.at_level(logging.WARNING):
        backbone = host.build_network(config, num_class=10, dataset=made).backbone_3d.eval()
    found = 0
    for top in range(voxels - 10, voxels):
        # With a voxel that is never lost: spconv cannot convolve nothing.
        coords = torch.tensor([[0, 0, 0, 0], [0, top, 16, 16]])
        batch = {"voxel_features": torch.rand(2, 5), "voxel_coords": coords, "batch_size": 1}
        rows = backbone(batch)["encoded_spconv_tensor"].indices
        found += not (rows[:, 2:] > 0).any()
    said = caplog.text
    assert ("the topmost" in said) == (found > 0)
    assert not found or f"the topmost {found} of {voxels} voxels" in said


def test_a_dataset_without_a_range_is_asked_for_none_where_no_head_limits_boxes():
    warn_of_losses({"NAME": "Network"}, dataset=object())

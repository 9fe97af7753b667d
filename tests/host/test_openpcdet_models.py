"""OpenPCDet's own nuScenes configurations train and evaluate through the host, uncompiled.

Architectures are those of the YAML files; ranges, voxels and images are smaller, for speed.
"""

import math

import pytest
import torch

from nsmae_plugin.config.load import load_config

pytestmark = pytest.mark.openpcdet

SMALL_DATA = {
    "VERSION": "v1.0-mini",
    "MAX_SWEEPS": 3,
    "BALANCED_RESAMPLING": False,
    "POINT_CLOUD_RANGE": [-38.4, -38.4, -5.0, 38.4, 38.4, 3.0],
    "INFO_PATH.train": ["nuscenes_infos_3sweeps_train.pkl"],
    "INFO_PATH.test": ["nuscenes_infos_3sweeps_val.pkl"],
    "DATA_AUGMENTOR.DISABLE_AUG_LIST": ["gt_sampling"],  # needs a database of objects
    "DATA_PROCESSOR.transform_points_to_voxels.VOXEL_SIZE": [0.15, 0.15, 0.2],
}
SMALL_CAMERAS = {
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.FINAL_DIM": [64, 160],
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TRAIN": [1.0, 1.2],
    "DATA_CONFIG.CAMERA_CONFIG.IMAGE.RESIZE_LIM_TEST": [1.0, 1.0],
    "MODEL.VTRANSFORM.IMAGE_SIZE": [64, 160],
    "MODEL.VTRANSFORM.FEATURE_SIZE": [8, 20],
    "MODEL.VTRANSFORM.XBOUND": [-38.4, 38.4, 0.6],
    "MODEL.VTRANSFORM.YBOUND": [-38.4, 38.4, 0.6],
    # The YAML names a file of pretrained weights that OpenPCDet does not come with.
    "MODEL.IMAGE_BACKBONE.INIT_CFG": None,
}


@pytest.fixture(scope="module")
def host(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    return openpcdet


def configuration(root, name):
    changes = {f"DATA_CONFIG.{key}": value for key, value in SMALL_DATA.items()}
    if name == "bevfusion":
        changes |= SMALL_CAMERAS
    overrides = [str(part) for change in changes.items() for part in change]
    return load_config(root / "tools" / "cfgs" / "nuscenes_models" / f"{name}.yaml", overrides)


@pytest.mark.parametrize(
    ("name", "detector", "predictions"),
    [
        ("bevfusion", "BevFusion", 200),
        ("transfusion_lidar", "TransFusion", 200),
        ("cbgs_voxel0075_res3d_centerpoint", "CenterPoint", 500),
    ],
)
def test_stock_configurations_train_and_evaluate(
    name, detector, predictions, host, openpcdet_root, synthetic_root, tmp_path, device
):
    torch.manual_seed(0)
    config = configuration(openpcdet_root, name)
    if torch.cuda.is_available() and device.type == "cpu":
        pytest.skip("OpenPCDet uses the GPU where there is one")
    training = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, True, synthetic_root)
    model = host.build_network(config.MODEL, len(config.CLASS_NAMES), training).to(device)
    assert type(model).__name__ == detector
    assert model.module_list

    step(model.train(), host.to_device(training.collate_batch([training[0], training[1]]), device))

    held_out = host.build_dataset(config.DATA_CONFIG, config.CLASS_NAMES, False, synthetic_root)
    annotations = []
    with torch.no_grad():
        for index in range(len(held_out)):
            batch = held_out.collate_batch([held_out[index]])
            found, recall = model.eval()(host.to_device(batch, device))
            assert recall["gt"] > 0
            assert 0 < len(found[0]["pred_boxes"]) <= predictions
            assert found[0]["pred_boxes"].isfinite().all()
            annotations += held_out.generate_prediction_dicts(batch, found, config.CLASS_NAMES)
    text, results = held_out.evaluation(annotations, config.CLASS_NAMES, output_path=tmp_path)
    assert "NDS" in text
    assert math.isfinite(results["mAP"])


def step(model, batch):
    """One optimizer step; every parameter that is trained must receive a finite gradient."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    outputs, terms, _ = model(batch)
    assert torch.isfinite(outputs["loss"])
    assert terms
    outputs["loss"].backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    lacking = [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
    assert lacking == []
    optimizer.step()
    changed = [not torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True)]
    assert sum(changed) >= 0.95 * len(trained)

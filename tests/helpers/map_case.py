"""Map networks of the tiny recipes on a range of 25.6 m, and a made-up batch with its map."""

import torch

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.geometry.bev_grid import map_grid
from tests.helpers.detector_case import labels, make_config, make_dataset
from tests.helpers.made_up_batch import made_up_batch

# recipe -> the mode of its batches
MAPS = {
    "bevfusion_map": "both",
    "camera_map": "camera",
    "lidar_map": "lidar",
    "bevfusion_multitask": "both",
}
CLASSES = ["drivable_area", "walkway", "divider"]
# More columns than rows, and not in the middle: no axis can stand in for the other.
MAP_CONFIG = {
    "CLASSES": CLASSES,
    "XBOUND": [-12.0, 12.0, 0.5],
    "YBOUND": [-9.0, 10.0, 0.5],
    "LINE_WIDTH": 1.0,
}
GRID = map_grid(MAP_CONFIG)
SHAPE = (len(CLASSES), *GRID.shape)


def build(recipe, config=None, **data_config):
    """The seeded network of a recipe on the active host; ``data_config`` replaces MAP_CONFIG."""
    nsmae_plugin.register()
    dataset = make_dataset(**(data_config or {"MAP_CONFIG": MAP_CONFIG}))
    torch.manual_seed(0)
    return host.build_network(
        model_cfg=config or make_config(recipe), num_class=10, dataset=dataset
    )


def mapped_batch(recipe, samples=2, cameras=2, device="cpu"):
    """With ``gt_masks_bev``, half-planes by class, and for the multi-task recipe boxes."""
    batch = made_up_batch(MAPS[recipe], samples=samples, cameras=cameras, device=device)
    for key in ("hidden_voxel_coords", "image_patch_mask", "depth_point_mask"):
        batch.pop(key, None)
    x, y = torch.from_numpy(GRID.centres()).unbind(-1)
    masks = torch.stack([x > 2, y > -3, x + y > 0])
    batch["gt_masks_bev"] = masks.expand(samples, *SHAPE).to(device)
    if recipe == "bevfusion_multitask":
        batch["gt_boxes"] = labels([3, 2, 1][:samples]).to(device)
    return batch

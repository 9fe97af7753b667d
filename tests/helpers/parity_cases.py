"""Cases of the parity tests: configurations of every built-in module, and their inputs."""

import math
from typing import Any

import numpy as np
import spconv.pytorch as spconv
import torch
import torch.nn.functional as F

GRID_SIZE = np.array([40, 32, 40])  # x, y, z

SWIN = {
    "NAME": "SwinTransformer",
    "EMBED_DIMS": 12,
    "DEPTHS": [2, 2, 2, 1],
    "NUM_HEADS": [2, 3, 4, 6],
    "WINDOW_SIZE": 4,
    "MLP_RATIO": 4,
    "DROP_RATE": 0.0,
    "ATTN_DROP_RATE": 0.0,
    "DROP_PATH_RATE": 0.2,
    "PATCH_NORM": True,
    "OUT_INDICES": [1, 2, 3],
    "WITH_CP": False,
    "CONVERT_WEIGHTS": True,
}
FPN = {"IN_CHANNELS": [6, 8, 10], "OUT_CHANNELS": 12, "START_LEVEL": 0, "END_LEVEL": -1}
VIEW = {
    "IMAGE_SIZE": [32, 48],
    "IN_CHANNEL": 8,
    "OUT_CHANNEL": 6,
    "FEATURE_SIZE": [4, 6],
    "XBOUND": [-16.0, 16.0, 1.0],
    "YBOUND": [-12.0, 12.0, 1.0],
    "ZBOUND": [-10.0, 10.0, 20.0],
    "DBOUND": [1.0, 20.0, 1.0],
    "DOWNSAMPLE": 2,
}
BEV = {"LAYER_NUMS": [1, 2], "LAYER_STRIDES": [1, 2], "NUM_FILTERS": [8, 12]}
UP = {"UPSAMPLE_STRIDES": [1, 2], "NUM_UPSAMPLE_FILTERS": [6, 10], "USE_CONV_FOR_NO_STRIDE": True}
DOWN = {"UPSAMPLE_STRIDES": [0.5, 1], "NUM_UPSAMPLE_FILTERS": [6, 10]}

# id -> slot, class, configuration, other arguments of the constructor
CASES = {
    "MeanVFE": ("vfe", "MeanVFE", {}, {"num_point_features": 5}),
    "VoxelResBackBone8x": (
        "backbone_3d",
        "VoxelResBackBone8x",
        {"USE_BIAS": False},
        {"input_channels": 5, "grid_size": GRID_SIZE},
    ),
    "VoxelResBackBone8x with biases": (
        "backbone_3d",
        "VoxelResBackBone8x",
        {"last_pad": 1},
        {"input_channels": 5, "grid_size": GRID_SIZE},
    ),
    "HeightCompression": ("map_to_bev", "HeightCompression", {"NUM_BEV_FEATURES": 256}, {}),
    "SwinTransformer": ("image_backbone", "SwinTransformer", SWIN, {}),
    "SwinTransformer recomputing": (
        "image_backbone",
        "SwinTransformer",
        SWIN | {"WITH_CP": True},
        {},
    ),
    "SwinTransformer without patch norm": (
        "image_backbone",
        "SwinTransformer",
        SWIN | {"PATCH_NORM": False, "OUT_INDICES": [0, 3], "WINDOW_SIZE": 5},
        {},
    ),
    "GeneralizedLSSFPN": ("neck", "GeneralizedLSSFPN", FPN | {"NUM_OUTS": 3}, {}),
    "DepthLSSTransform": ("vtransform", "DepthLSSTransform", VIEW, {}),
    "DepthLSSTransform at full resolution": (
        "vtransform",
        "DepthLSSTransform",
        VIEW | {"DOWNSAMPLE": 1},
        {},
    ),
    "ConvFuser": ("fuser", "ConvFuser", {"IN_CHANNEL": 14, "OUT_CHANNEL": 8}, {}),
    "BaseBEVBackbone": ("backbone_2d", "BaseBEVBackbone", BEV | UP, {"input_channels": 8}),
    "BaseBEVBackbone downwards": (
        "backbone_2d",
        "BaseBEVBackbone",
        BEV | DOWN,
        {"input_channels": 8},
    ),
}


# slot -> keys whose gradients are compared, keys whose values are
READS = {
    "vfe": ("voxels",),
    "backbone_3d": ("voxel_features",),
    "map_to_bev": ("features",),
    "image_backbone": ("camera_imgs",),
    "neck": ("image_features",),
    "vtransform": ("image_fpn",),
    "fuser": ("spatial_features_img", "spatial_features"),
    "backbone_2d": ("spatial_features",),
}
WRITES = {
    "vfe": ("voxel_features",),
    "backbone_3d": ("encoded_spconv_tensor", "multi_scale_3d_features"),
    "map_to_bev": ("spatial_features",),
    "image_backbone": ("image_features",),
    "neck": ("image_fpn",),
    "vtransform": ("spatial_features_img",),
    "fuser": ("spatial_features",),
    "backbone_2d": ("spatial_features_2d",),
}


def make_batch(slot: str) -> dict[str, Any]:
    """The input of a slot's modules, the same at every call."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if slot == "vfe":
        counts = torch.tensor([1.0, 4.0, 2.0, 0.0])
        filled = torch.arange(4) < counts[:, None]
        return {"voxels": noise(4, 4, 5) * filled[..., None], "voxel_num_points": counts}
    if slot in ("backbone_3d", "map_to_bev"):
        return sparse_batch(slot, generator)
    if slot == "image_backbone":
        return {"camera_imgs": noise(2, 3, 3, 50, 90)}
    if slot == "neck":
        sizes = ((6, 7, 12), (8, 4, 6), (10, 2, 3))
        return {"image_features": [noise(4, *size) for size in sizes]}
    if slot == "fuser":
        return {"spatial_features_img": noise(2, 6, 9, 7), "spatial_features": noise(2, 8, 9, 7)}
    if slot == "backbone_2d":
        return {"spatial_features": noise(2, 8, 12, 16)}
    return surround_view(generator)


def sparse_batch(slot: str, generator: torch.Generator) -> dict[str, Any]:
    """120 distinct voxels in each of two samples, dense enough to have neighbours."""
    size = (12, 20, 24)  # z, y, x
    cells = torch.cat([torch.randperm(math.prod(size), generator=generator)[:120] for _ in "ab"])
    samples = torch.arange(2).repeat_interleave(120)
    coordinates = torch.stack((samples, *torch.unravel_index(cells, size)), dim=1)
    features = torch.randn(240, 5, generator=generator)
    if slot == "backbone_3d":
        return {"voxel_features": features, "voxel_coords": coordinates.float(), "batch_size": 2}
    features.requires_grad_()
    volume = spconv.SparseConvTensor(features, coordinates.int(), list(size), batch_size=2)
    return {
        "features": features,
        "encoded_spconv_tensor": volume,
        "encoded_spconv_tensor_stride": 8,
    }


def rigid(roll: float, yaw: float, translation: tuple[float, float, float]) -> torch.Tensor:
    """(4, 4): a turn about x, then about z (radians), then a shift (metres)."""
    (cr, sr), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (roll, yaw))
    matrix = torch.eye(4)
    about_z = torch.tensor([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    matrix[:3, :3] = about_z @ torch.tensor([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    matrix[:3, 3] = torch.tensor(translation)
    return matrix


def surround_view(generator: torch.Generator) -> dict[str, Any]:
    """Two samples of six cameras looking around, with image and LiDAR augmentation."""
    forward = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    camera2lidar = torch.stack(
        [rigid(0, k * math.pi / 3, (0.3, 0.1 * k, -0.2)) @ forward for k in range(6)]
    )
    intrinsics = torch.eye(4)
    intrinsics[:3, :3] = torch.tensor([[40.0, 0, 30], [0, 40, 20], [0, 0, 1]])
    lidar2image = intrinsics @ torch.linalg.inv(camera2lidar)
    image_aug = torch.stack([rigid(0, 0.05 * k - 0.1, (-4 - k, -2, 0)) for k in range(6)])
    image_aug[:, :2, :2] *= torch.tensor([0.8, 0.85, 0.9, 0.8, 0.85, -0.9])[:, None, None]
    image_aug[5, :2, 3] = torch.tensor([50.0, 34.0])
    lidar_aug = torch.stack([rigid(0, 0.4, (0.5, -0.3, 0.2)), rigid(0, -0.7, (-0.2, 0.4, -0.1))])
    lidar_aug[1, :3, :3] *= torch.tensor([[1.05], [-1.05], [1.05]])  # scaled and mirrored in y
    batch = {
        "camera_intrinsics": intrinsics.expand(2, 6, 4, 4),
        "camera2lidar": camera2lidar.expand(2, 6, 4, 4),
        "lidar2image": lidar2image.expand(2, 6, 4, 4),
        "img_aug_matrix": image_aug.expand(2, 6, 4, 4),
        "lidar_aug_matrix": lidar_aug,
        "image_fpn": (torch.randn(12, 8, 4, 6, generator=generator),),
    }
    clouds = [distinct_points(batch, sample, generator) for sample in range(2)]
    batch["points"] = torch.cat(
        [F.pad(cloud, (1, 2), value=sample) for sample, cloud in enumerate(clouds)]
    )
    return batch


def distinct_points(batch: dict, sample: int, generator: torch.Generator) -> torch.Tensor:
    """(P, 3) points in the augmented frame, of which no two fall on the same pixel of a camera.

    Where points collide OpenPCDet keeps an arbitrary one, and we the nearest.
    """
    points = F.pad((torch.rand(400, 3, generator=generator) - 0.5) * 24, (0, 1), value=1.0)
    pixels = torch.einsum("nij,pj->npi", batch["lidar2image"][sample], points)[..., :3]
    pixels[..., :2] /= pixels[..., 2:].clamp(min=1e-5)
    moves = batch["img_aug_matrix"][sample]
    pixels[..., :2] = (
        torch.einsum("nij,npj->npi", moves[:, :3, :3], pixels)[..., :2] + (moves[:, None, :2, 3])
    )
    u, v = pixels[..., 0].floor(), pixels[..., 1].floor()
    height, width = VIEW["IMAGE_SIZE"]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    camera = torch.arange(6)[:, None]
    cell = torch.where(inside, (camera * height + v) * width + u, -1.0 - torch.arange(400))
    _, inverse, count = cell.unique(return_inverse=True, return_counts=True)
    alone = ((count[inverse] == 1) | ~inside).all(dim=0)
    assert (alone & inside.any(dim=0)).sum() > 100
    return (points @ batch["lidar_aug_matrix"][sample].T)[alone, :3]

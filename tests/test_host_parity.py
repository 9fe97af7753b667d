"""The built-in modules against OpenPCDet's own: names, shapes, outputs and gradients.

Both get the same weights and the same input. The bound of 1e-4, relative to the largest value, is
about a hundred times the rounding of float32 in these networks; the deviations seen are below 1e-5.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import spconv.pytorch as spconv
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import nn

from nsmae_plugin.host import builtin
from nsmae_plugin.models.view_transform import STOCK_GRID_KEYS

pytestmark = pytest.mark.openpcdet

BOUND = 1e-4
SMALL = 0.1  # what a normalisation cancels in a gradient leaves rounding errors of larger values
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

SLOTS = [
    "vfe",
    "backbone_3d",
    "map_to_bev_module",
    "image_backbone",
    "neck",
    "vtransform",
    "fuser",
    "backbone_2d",
]

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


@pytest.fixture(scope="module")
def stock(openpcdet_root):
    """OpenPCDet's lookup."""
    from nsmae_plugin.host import openpcdet

    return openpcdet.lookup


def build_pair(stock, case: str) -> tuple[nn.Module, nn.Module]:
    slot, name, config, arguments = CASES[case]
    config = EasyDict(NAME=name, **{key: config[key] for key in config if key != "NAME"})
    ours = builtin.lookup(slot, name)(model_cfg=config, **arguments)
    theirs = stock(slot, name)(model_cfg=config, **arguments)
    randomise(ours)
    kept = {key: theirs.state_dict()[key] for key in STOCK_GRID_KEYS if key in theirs.state_dict()}
    theirs.load_state_dict({**ours.state_dict(), **kept}, strict=True)
    return ours, theirs


def randomise(module: nn.Module) -> None:
    """Weights and running statistics that no module would forgive to be confused."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            spread = 2 / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else 0.5
            value.copy_(noise + 0.5 if name.endswith("running_var") else (noise - 0.5) * spread)


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


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a value, sparse ones made dense (the order of their voxels is free)."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, spconv.SparseConvTensor):
        return [value.dense()]
    values = value.values() if isinstance(value, dict) else value
    return [tensor for one in values for tensor in tensors(one)]


def run(module: nn.Module, slot: str, training: bool) -> tuple[dict, dict[str, torch.Tensor]]:
    """The batch that the module wrote; its outputs, gradients and buffers by name."""
    batch = make_batch(slot)
    inputs = [one.requires_grad_() for key in READS[slot] for one in tensors(batch[key])]
    module.train(training)
    torch.manual_seed(2)  # stochastic depth
    written = module(batch)
    outputs = [one for key in WRITES[slot] for one in tensors(written[key])]
    generator = torch.Generator().manual_seed(3)
    sum((one * torch.randn(one.shape, generator=generator)).sum() for one in outputs).backward()
    results = {f"output {index}": one for index, one in enumerate(outputs)}
    results |= {f"gradient of input {index}": one.grad for index, one in enumerate(inputs)}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            results[f"gradient of {name}"] = parameter.grad
    return written, results | {f"buffer {name}": one for name, one in module.named_buffers()}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_outputs_gradients_and_statistics_agree(stock, case, training):
    slot = CASES[case][0]
    ours, theirs = build_pair(stock, case)
    written, results = run(ours, slot, training)
    expected_written, expected = run(theirs, slot, training)
    assert set(expected_written) <= set(written)
    for key in (
        "encoded_spconv_tensor_stride",
        "spatial_features_stride",
        "multi_scale_3d_strides",
    ):
        assert written.get(key) == expected_written.get(key)
    for name, value in expected.items():
        bound = BOUND * max(SMALL, float(value.detach().abs().max()))
        torch.testing.assert_close(
            results[name], value, atol=bound, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES)
def test_names_shapes_types_and_widths_agree(stock, case):
    ours, theirs = build_pair(stock, case)

    def describe(module):
        state = module.state_dict()
        return {
            name: (tuple(value.shape), value.dtype)
            for name, value in state.items()
            if name not in STOCK_GRID_KEYS
        }

    assert list(describe(ours).items()) == list(describe(theirs).items())
    for width in ("num_bev_features", "num_point_features", "backbone_channels"):
        assert getattr(ours, width, None) == getattr(theirs, width, None)


def test_an_original_swin_checkpoint_loads_to_the_same_weights(stock, tmp_path):
    config = EasyDict(SWIN, DEPTHS=[2, 1], NUM_HEADS=[2, 3], OUT_INDICES=[0, 1])
    config.INIT_CFG = {"type": "Pretrained", "checkpoint": str(tmp_path / "swin.pth")}
    ours = builtin.lookup("image_backbone", "SwinTransformer")(config)
    theirs = stock("image_backbone", "SwinTransformer")(config)
    theirs.load_state_dict(ours.state_dict())
    torch.save({"model": original_layout(ours)}, tmp_path / "swin.pth")
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.init_weights()
    theirs.init_weights()
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)
        assert name.startswith("norm") or "index" in name or not torch.equal(value, before[name])


def original_layout(module: nn.Module) -> dict[str, torch.Tensor]:
    """Random weights under the names of microsoft/Swin-Transformer, trained with windows of 5."""
    names = (
        ("stages.", "layers."),
        ("projection", "proj"),
        ("attn.w_msa", "attn"),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
    )
    state = {}
    for name, value in module.state_dict().items():
        if name.startswith("norm") or name.endswith("index"):
            continue
        for new, old in names:
            name = name.replace(new, old)
        shape = (81, value.shape[1]) if name.endswith("bias_table") else value.shape
        state[name] = torch.randn(shape)
    return state | {"norm.weight": torch.ones(24), "head.weight": torch.ones(10, 24)}


def test_the_templates_pass_on_the_same_information(openpcdet_root):
    from nsmae_plugin.host import openpcdet

    model = EasyDict(
        VFE={"NAME": "MeanVFE"},
        BACKBONE_3D={"NAME": "VoxelResBackBone8x"},
        MAP_TO_BEV={"NAME": "HeightCompression", "NUM_BEV_FEATURES": 256},
        IMAGE_BACKBONE=SWIN,
        NECK={"NAME": "GeneralizedLSSFPN", **FPN, "NUM_OUTS": 3},
        VTRANSFORM={"NAME": "DepthLSSTransform", **VIEW},
        FUSER={"NAME": "ConvFuser", "IN_CHANNEL": 14, "OUT_CHANNEL": 8},
        BACKBONE_2D={"NAME": "BaseBEVBackbone", **BEV, **UP},
    )
    dataset = SimpleNamespace(
        class_names=["car"],
        point_feature_encoder=SimpleNamespace(num_point_features=5),
        grid_size=GRID_SIZE,
        point_cloud_range=[0, 0, 0, 4, 3.2, 4],
        voxel_size=[0.1, 0.1, 0.1],
        depth_downsample_factor=None,
    )
    seen = {}
    for one in (builtin, openpcdet):

        class Chain(one.Detector3DTemplate):
            def __init__(self):
                super().__init__(model, 1, dataset)
                self.module_topology = [*SLOTS, "dense_head"]
                self.module_list = self.build_networks()

            def build_dense_head(self, model_info_dict):
                self.info = {k: v for k, v in model_info_dict.items() if k != "module_list"}
                return None, model_info_dict

        chain = Chain()
        state = [name for name in chain.state_dict() if name.split(".")[-1] not in STOCK_GRID_KEYS]
        kinds = [type(module).__name__ for module in chain.module_list]
        seen[one.NAME] = (chain.info, state, kinds[:5] + kinds[6:])  # 5: our DepthLSSTransform
    assert seen["builtin"] == seen["openpcdet"]

"""The built-in modules against OpenPCDet's own: names, shapes, outputs and gradients.

Both get the same weights and the same input. The bound of 1e-4, relative to the largest value, is
fifty times the largest deviation seen (2e-6), but for the gradients of biases that a batch norm
cancels: their exact value is zero, and 1e-5 of rounding was seen.
"""

from typing import Any

import pytest
import spconv.pytorch as spconv
import torch
from easydict import EasyDict
from torch import nn

from nsmae_plugin.host import builtin
from nsmae_plugin.models.lift_splat import STOCK_GRID_KEYS
from tests.helpers.dataset_specification import DatasetSpecification
from tests.helpers.parity_cases import (
    BEV,
    CASES,
    FPN,
    READS,
    SWIN,
    UP,
    VIEW,
    WRITES,
    make_batch,
)

pytestmark = pytest.mark.openpcdet

BOUND = 1e-4
SMALL = 0.5  # below it the bound is absolute, for the gradients that cancel

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
    type(theirs).init_weights.__wrapped__(theirs)  # OpenPCDet's own
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
    dataset = DatasetSpecification([0, 0, 0, 4, 3.2, 4], [0.1] * 3)
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

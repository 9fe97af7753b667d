"""The Swin Transformer as a whole: shapes, initialisation, options and refusals."""

import pytest
import torch
import torch.nn.functional as F
from easydict import EasyDict
from torch import nn

from nsmae_plugin.host.builtin.modules.swin import PatchEmbed, PatchMerging, SwinTransformer

CONFIG = {
    "NAME": "SwinTransformer",
    "EMBED_DIMS": 8,
    "DEPTHS": [1, 2],
    "NUM_HEADS": [1, 2],
    "WINDOW_SIZE": 2,
    "MLP_RATIO": 2,
    "DROP_RATE": 0.0,
    "ATTN_DROP_RATE": 0.0,
    "DROP_PATH_RATE": 0.0,
    "PATCH_NORM": True,
    "OUT_INDICES": [0, 1],
    "WITH_CP": False,
    "CONVERT_WEIGHTS": True,
}


def make_swin(**changes) -> SwinTransformer:
    torch.manual_seed(0)
    swin = SwinTransformer(EasyDict({**CONFIG, **changes}))
    swin.init_weights()
    return swin


@pytest.mark.parametrize(("height", "width"), [(16, 24), (18, 21)])
def test_stages_halve_the_resolution_rounding_up(height, width, device):
    images = torch.randn(2, 3, 3, height, width, device=device)
    first, second = make_swin().to(device)({"camera_imgs": images})["image_features"]
    rows, columns = -(-height // 4), -(-width // 4)
    assert first.shape == (6, 8, rows, columns)
    assert second.shape == (6, 16, -(-rows // 2), -(-columns // 2))
    assert first.is_contiguous()
    assert second.is_contiguous()


def test_cameras_do_not_see_each_other():
    swin = make_swin().eval()
    images = torch.randn(2, 2, 3, 16, 16)
    together = swin({"camera_imgs": images})["image_features"]
    alone = swin({"camera_imgs": images[1:, 1:]})["image_features"]
    for features, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(features[3:], expected, atol=1e-5, rtol=0)


def test_patches_are_merged_in_the_order_of_unfold():
    merging = PatchMerging(3, normalise=True)
    features = torch.randn(2, 5, 6, 3)
    padded = F.pad(features.permute(0, 3, 1, 2), (0, 0, 0, 1))
    columns = F.unfold(padded, kernel_size=2, stride=2).transpose(1, 2)
    expected = merging.reduction(merging.norm(columns)).view(2, 3, 3, 6)
    torch.testing.assert_close(merging(features), expected)


def test_an_image_is_padded_on_the_right_and_below():
    embed = PatchEmbed(3, 4, normalise=False)
    image = torch.randn(1, 3, 6, 4)
    padded = torch.cat((image, torch.zeros(1, 3, 2, 4)), dim=2)
    assert embed(image).shape == (1, 2, 1, 4)
    assert torch.equal(embed(image), embed(padded))


def test_random_weights_are_narrow_and_biases_zero():
    swin = make_swin(EMBED_DIMS=32, NUM_HEADS=[2, 2])
    weights = [m.weight.detach() for m in swin.modules() if isinstance(m, nn.Linear)]
    spread = torch.cat([weight.flatten() for weight in weights]).std()
    assert spread == pytest.approx(0.02, rel=0.05)
    assert all(
        not m.bias.any()
        for m in swin.modules()
        if isinstance(m, nn.Linear | nn.LayerNorm)
        if m.bias is not None
    )


def test_the_seed_decides_the_random_weights():
    first, second = make_swin().state_dict(), make_swin().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_recomputing_gives_the_same_gradients_with_dropped_paths():
    gradients = []
    for recompute in (False, True):
        swin = make_swin(WITH_CP=recompute, DROP_PATH_RATE=0.5).train()
        torch.manual_seed(1)
        images = torch.randn(4, 1, 3, 16, 16)
        features = swin({"camera_imgs": images})["image_features"]
        sum(one.square().sum() for one in features).backward()
        gradients.append([parameter.grad for parameter in swin.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept, atol=1e-6, rtol=1e-5)


def test_stochastic_depth_grows_with_the_block():
    swin = make_swin(DROP_PATH_RATE=0.4)
    rates = [block.attn.drop.probability for stage in swin.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4])
    assert rates == [
        block.ffn.dropout_layer.probability for stage in swin.stages for block in stage.blocks
    ]


def test_every_second_block_is_shifted_by_half_a_window():
    swin = make_swin(DEPTHS=[1, 3], WINDOW_SIZE=5)
    assert [block.attn.shift for block in swin.stages[1].blocks] == [0, 2, 0]


def test_all_parameters_receive_gradients():
    swin = make_swin()
    features = swin({"camera_imgs": torch.randn(1, 1, 3, 16, 24)})["image_features"]
    sum(one.square().sum() for one in features).backward()
    assert all(parameter.grad is not None for parameter in swin.parameters())


def test_bf16_autocast_runs_and_stays_close():
    swin = make_swin().eval()
    images = torch.randn(1, 1, 3, 16, 24)
    exact = swin({"camera_imgs": images})["image_features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = swin({"camera_imgs": images})["image_features"]
    for one, other in zip(rough, exact, strict=True):
        # bfloat16 has 8 bits: 0.4 % a step, over a dozen layers of values around 1
        torch.testing.assert_close(one.float(), other, atol=0.1, rtol=0)

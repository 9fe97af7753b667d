"""Loading image weights: the published layouts, and what is refused."""

import pytest
import torch
from easydict import EasyDict

from nsmae_plugin.errors import CheckpointError
from nsmae_plugin.host.builtin.modules.swin import SwinTransformer

CONFIG = {
    "EMBED_DIMS": 4,
    "DEPTHS": [1, 1],
    "NUM_HEADS": [1, 2],
    "WINDOW_SIZE": 2,
    "MLP_RATIO": 2,
    "OUT_INDICES": [0, 1],
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.pth"


def make_swin(path=None, **changes) -> SwinTransformer:
    init_cfg = {} if path is None else {"INIT_CFG": {"checkpoint": str(path)}}
    return SwinTransformer(EasyDict({**CONFIG, **init_cfg, **changes}))


def random_state(**changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    state = make_swin(**changes).state_dict()
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else value
        for name, value in state.items()
    }


def assert_loaded(path, expected, **changes) -> None:
    swin = make_swin(path, **changes)
    swin.init_weights()
    for name, value in swin.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_published_wrappings_are_unwrapped(path, prefix, wrapper):
    state = random_state()
    content = {prefix + name: value for name, value in state.items()}
    content["module.head.weight" if "module" in prefix else "head.weight"] = torch.ones(3)
    torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, path)
    assert_loaded(path, state)


def test_a_merged_patch_is_reordered_from_the_original_layout(path):
    """There the 2 x 2 block comes column by column, each entry with all channels."""
    state = random_state()
    original = {
        name.replace("stages.", "layers.")
        .replace("patch_embed.projection", "patch_embed.proj")
        .replace("attn.w_msa", "attn")
        .replace("ffn.layers.0.0", "mlp.fc1")
        .replace("ffn.layers.1", "mlp.fc2"): value
        for name, value in state.items()
    }
    entries = [
        (channel, row, column) for channel in range(4) for row in (0, 1) for column in (0, 1)
    ]
    order = [
        entries.index((c, row, column)) for column in (0, 1) for row in (0, 1) for c in range(4)
    ]
    for name in ("norm.weight", "norm.bias", "reduction.weight"):
        name = f"layers.0.downsample.{name}"
        original[name] = original[name][..., order]
    torch.save({"model": original}, path)
    assert_loaded(path, state, CONVERT_WEIGHTS=True)


def test_output_norms_may_be_absent(path):
    state = random_state()
    torch.save({name: v for name, v in state.items() if not name.startswith("norm")}, path)
    fresh = make_swin().state_dict()
    norms = {name: value for name, value in fresh.items() if name.startswith("norm")}
    assert_loaded(path, {**state, **norms})


def test_a_bias_table_of_another_window_is_interpolated(path):
    state = random_state(WINDOW_SIZE=3)
    for name in state:
        if name.endswith("bias_table"):
            state[name] = torch.full_like(state[name], 0.25)
    torch.save(state, path)
    swin = make_swin(path)
    swin.init_weights()
    table = swin.stages[1].blocks[0].attn.w_msa.relative_position_bias_table
    torch.testing.assert_close(table, torch.full((9, 2), 0.25))


def test_a_missing_file_is_named_with_the_remedy():
    with pytest.raises(CheckpointError, match=r"nowhere\.pth.*does not exist.*remove INIT_CFG"):
        make_swin("nowhere.pth").init_weights()


def test_a_section_without_path_is_refused():
    with pytest.raises(CheckpointError, match="None, which does not exist"):
        make_swin(INIT_CFG={"type": "Pretrained"}).init_weights()


def test_a_damaged_file_is_refused(path):
    torch.save(random_state(), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*image\.pth"):
        make_swin(path).init_weights()


def test_a_file_without_weights_is_refused(path):
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        make_swin(path).init_weights()


def test_weights_of_another_network_are_refused(path):
    torch.save({"conv1.weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"missing, the first is patch_embed\.projection"):
        make_swin(path).init_weights()


def test_the_original_layout_without_conversion_names_the_option(path):
    state = {k.replace("stages.", "layers."): v for k, v in random_state().items()}
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="CONVERT_WEIGHTS: True"):
        make_swin(path, CONVERT_WEIGHTS=False).init_weights()


def test_weights_of_another_width_are_refused(path):
    torch.save(random_state(EMBED_DIMS=8), path)
    with pytest.raises(CheckpointError, match=r"patch_embed.* has shape \(8, .*expected \(4, "):
        make_swin(path).init_weights()

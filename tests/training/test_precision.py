"""What computes in float32 under autocast."""

import copy

import pytest
import torch
from torch import nn

from nsmae_plugin.ops import sparse_conv_cpu
from nsmae_plugin.training.precision import fit_precision


class Slot(nn.Module):
    """Notes the types that it sees, and multiplies."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, batch_dict):
        self.seen = {k: v.dtype for k, v in batch_dict.items() if torch.is_tensor(v)}
        batch_dict["features"] = self.linear(batch_dict["features"])
        return batch_dict


class Detector(nn.Module):
    def __init__(self, *slots):
        super().__init__()
        for slot in slots:
            self.add_module(slot, Slot())
        self.slots = slots

    def forward(self, batch_dict):
        for slot in self.slots:
            batch_dict = self.get_submodule(slot)(batch_dict)
        return batch_dict


SLOTS = ("neck", "backbone_3d", "backbone_2d", "dense_head")
HALVES = [torch.bfloat16, torch.float16]


def make_batch(device):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 8, generator=generator).to(device)
    return {"features": features, "mask": torch.ones(4, dtype=torch.bool), "frame_id": ["a"]}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_backbone_and_head_see_and_give_float32_and_the_others_do_not(device, dtype):
    torch.manual_seed(0)
    detector = fit_precision(Detector(*SLOTS), torch.bfloat16).to(device)
    with torch.autocast(device.type, dtype):
        results = {}
        batch = make_batch(device)
        for slot in SLOTS:
            batch = detector.get_submodule(slot)(batch)
            results[slot] = batch["features"].dtype
    expected = {"neck": dtype, "backbone_2d": dtype}
    assert results == {slot: expected.get(slot, torch.float32) for slot in SLOTS}
    for slot in ("backbone_3d", "dense_head"):
        seen = detector.get_submodule(slot).seen
        assert seen == {"features": torch.float32, "mask": torch.bool}


@pytest.mark.parametrize("half", [True, False])
def test_a_sparse_backbone_multiplies_in_bfloat16_under_autocast(monkeypatch, half):
    monkeypatch.setattr(sparse_conv_cpu, "multiplies_bfloat16", lambda: True)
    seen = []
    detector = Detector("backbone_3d", "backbone_2d")
    for slot in detector.children():
        slot.register_forward_hook(lambda *_: seen.append(sparse_conv_cpu._BFLOAT16.get()))
    fit_precision(detector, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        detector(make_batch("cpu"))
    assert seen == [half, False]


def test_gradients_reach_what_is_in_front(device):
    detector = fit_precision(Detector("neck", "dense_head"), torch.bfloat16).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        detector(make_batch(device))["features"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in detector.parameters())


def test_without_autocast_nothing_changes():
    torch.manual_seed(0)
    plain = Detector(*SLOTS)
    kept = fit_precision(copy.deepcopy(plain), torch.bfloat16)
    assert list(kept.state_dict()) == list(plain.state_dict())
    expected = plain(make_batch("cpu"))["features"]
    assert torch.equal(kept(make_batch("cpu"))["features"], expected)


def test_a_copy_uses_its_own_weights():
    # DistributedDataParallel and averages of weights copy models.
    torch.manual_seed(0)
    kept = fit_precision(Detector("dense_head"), torch.bfloat16)
    other = copy.deepcopy(kept)
    nn.init.zeros_(other.dense_head.linear.weight)
    assert not torch.equal(
        kept(make_batch("cpu"))["features"], other(make_batch("cpu"))["features"]
    )


def test_a_detector_without_these_slots_is_left_alone():
    detector = Detector("neck")
    detector.backbone_3d = None
    assert fit_precision(detector, torch.bfloat16) is detector
    assert not detector.neck._forward_pre_hooks


def test_autocast_is_back_on_after_an_error_in_a_slot(device):
    detector = fit_precision(Detector("dense_head"), torch.bfloat16).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        with pytest.raises(KeyError, match="features"):
            detector({})
        assert torch.is_autocast_enabled(device.type)
    assert not torch.is_autocast_enabled(device.type)


class Convolving(nn.Module):
    """A slot that convolves a map, and one whose module takes a view of it as OpenPCDet's do."""

    def __init__(self):
        super().__init__()
        self.neck, self.dense_head = Convolution(4, 8), Flattening(8, 2)

    def forward(self, batch):
        return self.dense_head(self.neck(batch))["map"]


class Convolution(nn.Conv2d):
    def __init__(self, channels, out_channels):
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, batch):
        self.result = super().forward(batch["map"])
        return {"map": self.result}


class Flattening(nn.Linear):
    def forward(self, batch):
        rows = batch["map"].view(*batch["map"].shape[:2], -1).transpose(1, 2)
        return {"map": super().forward(rows)}


@pytest.mark.parametrize("half", [True, False])
def test_maps_are_channels_last_until_a_head_takes_views_of_them(device, half):
    torch.manual_seed(0)
    plain = Convolving().to(device)
    last = fit_precision(copy.deepcopy(plain), torch.bfloat16)
    fit_precision(plain, None)
    batch = {"map": torch.randn(2, 4, 5, 6, device=device)}
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        expected, result = plain(batch), last(batch)
    assert last.neck.result.is_contiguous(memory_format=torch.channels_last)
    assert result.dtype == torch.float32
    # The order of a sum of 36 products may differ.
    torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2 if half else 1e-6)
    assert list(last.state_dict()) == list(plain.state_dict())

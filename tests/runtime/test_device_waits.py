"""Where a training step asks a device for sizes or numbers: the host waits for all queued work.

On a CPU those operations are watched for; on a GPU CUDA itself reports any wait.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.detectors.test_nsmae import build as build_pretraining
from tests.helpers.made_up_batch import made_up_batch
from tests.helpers.map_case import build as build_map
from tests.helpers.map_case import mapped_batch

ATEN = torch.ops.aten
ASKING = (
    ATEN._local_scalar_dense.default,  # .item(), float(), bool()
    ATEN.equal.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.bincount.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
    ATEN.repeat_interleave.Tensor,
)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)


class Watch(TorchDispatchMode):
    """Names of the asking operations since ``begun`` was set."""

    begun = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        by_mask = function in INDEXING and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if self.begun and (by_mask or function in ASKING):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        self.seen = []
        return super().__enter__()


def waits_behind_the_image_backbone(model, batch):
    """What asks the device from the first layer of the image backbone to the last gradient."""
    on_gpu = next(model.parameters()).is_cuda
    watch = Watch()
    # Windows of attention are planned once for each size of images.
    model(dict(batch))

    def begin(*_):
        watch.begun = True
        if on_gpu:
            torch.cuda.set_sync_debug_mode("error")

    handle = model.image_backbone.register_forward_pre_hook(begin)
    try:
        with watch:
            model(dict(batch))[0]["loss"].backward()
    finally:
        handle.remove()
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    assert watch.begun
    return watch.seen


@pytest.mark.parametrize("mode", ["both", "camera"])
def test_pre_training_asks_for_nothing_once_images_are_queued(mode, device):
    """Geometry, depth maps and targets, whose sizes hang on the data, are made before."""
    model = build_pretraining(mode).to(device).train()
    assert waits_behind_the_image_backbone(model, made_up_batch(mode, device=device)) == []


@pytest.mark.parametrize("recipe", ["bevfusion_map", "camera_map"])
def test_map_training_asks_for_nothing_once_images_are_queued(recipe, device):
    model = build_map(recipe).to(device).train()
    assert waits_behind_the_image_backbone(model, mapped_batch(recipe, device=device)) == []


def test_the_watch_notices_what_a_view_transform_alone_asks_for():
    """Without the detector's preparation the geometry is made behind the backbone."""
    model = build_map("bevfusion_map").train()
    batch = mapped_batch("bevfusion_map")

    def forget(_, inputs):
        del inputs[0]["view_geometry"]

    model.image_backbone.register_forward_pre_hook(forget)
    assert "aten.nonzero.default" in waits_behind_the_image_backbone(model, batch)

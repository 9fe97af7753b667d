"""Requirements of every detector under bfloat16 autocast."""

import pytest
import torch

from nsmae_plugin.training.precision import fit_precision


def check_bfloat16_training(model, batch):
    """The loss is float32 and near that of float32 arithmetic, and every gradient is finite."""
    model = fit_precision(model.train(), torch.bfloat16)
    device = next(model.parameters()).device
    full, _, _ = model(batch)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result, _, _ = model(batch)
    result["loss"].backward()
    assert result["loss"].dtype == torch.float32
    # bfloat16 keeps 8 bits: a few percent after a few dozen layers
    assert result["loss"].item() == pytest.approx(full["loss"].item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())

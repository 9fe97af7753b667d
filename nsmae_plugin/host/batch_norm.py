"""BatchNorm over the rows of sparse tensors, of which a sample with few points may leave one."""

import torch
from torch import nn
from torch.nn import functional as F


class RowBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` that normalises a single value per channel by the running statistics.

    One value has no spread: torch refuses to train on it, and its variance would be NaN. The
    running statistics stay as they are.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or input.numel() > self.num_features or self.running_mean is None:
            return super().forward(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def accept_single_rows(model: nn.Module) -> nn.Module:
    """Make every ``BatchNorm1d`` of a network a :class:`RowBatchNorm1d`; its parameters stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = RowBatchNorm1d
    return model

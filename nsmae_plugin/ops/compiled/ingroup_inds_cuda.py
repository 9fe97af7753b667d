"""Torch-native ``ingroup_inds_cuda``: a running number for the members of each group."""

import torch

__all__ = ["forward"]


def forward(group_inds: torch.Tensor, out_inds: torch.Tensor) -> None:
    """Write into ``out_inds`` (n,) how many earlier elements share the group of each element.

    OpenPCDet's kernel counts with atomics, so its order inside a group is arbitrary; here it is
    the order of the input, one of the orders that the kernel could give.

    Args:
        group_inds: group of each element, (n,) int64.
    """
    if len(group_inds) == 0:
        return
    order = torch.argsort(group_inds, stable=True)
    sorted_groups = group_inds[order]
    position = torch.arange(len(order), device=order.device)
    starts_group = torch.ones_like(position, dtype=torch.bool)
    starts_group[1:] = sorted_groups[1:] != sorted_groups[:-1]
    start = torch.cummax(position * starts_group, dim=0).values
    out_inds[order] = position - start

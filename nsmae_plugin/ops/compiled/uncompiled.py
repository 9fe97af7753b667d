"""Operators without a torch-native substitute: functions that raise HostError.

Only detectors on raw points (PointRCNN, PV-RCNN, ...) call them, but OpenPCDet imports all of them
whatever the detector.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from nsmae_plugin.errors import HostError

OPERATORS = {
    "roipoint_pool3d_cuda": ("forward",),
    "pointnet2_batch_cuda": (
        "ball_query_wrapper",
        "group_points_wrapper",
        "group_points_grad_wrapper",
        "gather_points_wrapper",
        "gather_points_grad_wrapper",
        "farthest_point_sampling_wrapper",
        "three_nn_wrapper",
        "three_interpolate_wrapper",
        "three_interpolate_grad_wrapper",
    ),
    "pointnet2_stack_cuda": (
        "ball_query_wrapper",
        "voxel_query_wrapper",
        "farthest_point_sampling_wrapper",
        "stack_farthest_point_sampling_wrapper",
        "group_points_wrapper",
        "group_points_grad_wrapper",
        "three_nn_wrapper",
        "three_interpolate_wrapper",
        "three_interpolate_grad_wrapper",
        "query_stacked_local_neighbor_idxs_wrapper_stack",
        "query_three_nn_by_stacked_local_idxs_wrapper_stack",
        "vector_pool_wrapper",
        "vector_pool_grad_wrapper",
    ),
}


def refusing_functions(extension: str) -> dict[str, Callable[..., NoReturn]]:
    """For each operator of ``extension`` a function that raises HostError when it is called."""
    return {name: _refusing(extension, name) for name in OPERATORS[extension]}


def _refusing(extension: str, operator: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise HostError(
            f"{extension}.{operator} has no torch-native substitute; compile OpenPCDet to use it: "
            "`python setup.py develop` in its root, with a CUDA toolkit that matches torch"
        )

    refuse.__name__ = operator
    return refuse

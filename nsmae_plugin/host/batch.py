"""Moving a collated batch to the device of the model; the same on every host."""

from typing import Any

import numpy as np
import torch

# As in OpenPCDet's load_data_to_gpu: these keep whatever collation made of them.
UNTOUCHED = frozenset(
    ("frame_id", "metadata", "calib", "image_paths", "ori_shape", "img_process_infos")
)
SHARED_BYTES = 1 << 16  # smaller arrays cost less in a pipe than a file descriptor each


def to_device(batch_dict: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """A new dict with the batch on ``device``.

    Boolean arrays become boolean tensors, other numeric arrays float32 ones (as in OpenPCDet, voxel
    coordinates too). Tensors are moved. Strings, object arrays, lists, numbers and the keys in
    :data:`UNTOUCHED` are passed on as they are. Copies to a GPU are queued, not waited for.
    """
    device = torch.device(device)
    return {
        key: value if key in UNTOUCHED else _move(value, device)
        for key, value in batch_dict.items()
    }


def share_large_arrays(batch_dict: dict[str, Any]) -> dict[str, Any]:
    """A new dict with the tensors of :func:`to_device`, on the CPU, in the place of large arrays.

    Tensors come from a loading process in shared memory, where arrays are copied through a pipe in
    small pieces; and torch's loader pins tensors alone.
    """
    return {
        key: _as_tensor(value) if key not in UNTOUCHED and _is_large(value) else value
        for key, value in batch_dict.items()
    }


def _is_large(value: Any) -> bool:
    return _is_numeric(value) and value.nbytes >= SHARED_BYTES


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == torch.bool else tensor.float()


def _move(value: Any, device: torch.device) -> Any:
    if _is_numeric(value):
        value = _as_tensor(value)
    if not isinstance(value, torch.Tensor):
        return value
    if device.type != "cuda" or value.is_cuda:
        return value.to(device)
    # Copies from other memory wait for the queue of the GPU.
    return (value if value.is_pinned() else value.pin_memory()).to(device, non_blocking=True)

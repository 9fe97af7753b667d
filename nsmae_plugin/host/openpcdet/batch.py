"""Moving a collated batch to the device of the model."""

from typing import Any

import numpy as np
import torch

# As in OpenPCDet's load_data_to_gpu: these keep whatever collation made of them.
UNTOUCHED = frozenset(
    ("frame_id", "metadata", "calib", "image_paths", "ori_shape", "img_process_infos")
)


def to_device(batch_dict: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """A new dict with the batch on ``device``.

    NumPy arrays become tensors as in OpenPCDet's ``load_data_to_gpu`` (float32, ``image_shape``
    int32, ``images`` channels first), except that boolean arrays stay boolean. Tensors are moved.
    Strings, object arrays, lists and the keys in :data:`UNTOUCHED` are passed on as they are.
    """
    return {
        key: value if key in UNTOUCHED else _move(key, value, torch.device(device))
        for key, value in batch_dict.items()
    }


def _move(key: str, value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OUS":
        return value
    tensor = torch.from_numpy(value).to(device)
    if key == "images":  # (B, H, W, 3) -> (B, 3, H, W)
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.int() if key == "image_shape" else tensor.float()

"""Moving a collated batch to the device of the model; the same on every host."""

from typing import Any

import numpy as np
import torch

# As in OpenPCDet's load_data_to_gpu: these keep whatever collation made of them.
UNTOUCHED = frozenset(
    ("frame_id", "metadata", "calib", "image_paths", "ori_shape", "img_process_infos")
)


def to_device(batch_dict: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """A new dict with the batch on ``device``.

    Boolean arrays become boolean tensors, other numeric arrays float32 ones (as in OpenPCDet, voxel
    coordinates too). Tensors are moved. Strings, object arrays, lists, numbers and the keys in
    :data:`UNTOUCHED` are passed on as they are.
    """
    return {
        key: value if key in UNTOUCHED else _move(value, torch.device(device))
        for key, value in batch_dict.items()
    }


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return value
    tensor = torch.from_numpy(value).to(device)
    return tensor if tensor.dtype == torch.bool else tensor.float()

"""The three torchvision transforms that OpenPCDet's image branch uses, with the same results.

torchvision must match the installed torch exactly, which is a frequent reason for a broken
environment; these need nothing but torch and NumPy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """An 8-bit image (H, W, C), PIL or array, to a float32 tensor (C, H, W) in [0, 1].

    Arrays of another type than uint8 keep their values, as in torchvision.
    """

    def __call__(self, image: Image.Image | np.ndarray) -> torch.Tensor:
        array = np.array(image)
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
        return tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts ``mean`` and divides by ``std``, per channel of a (C, H, W) tensor."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = mean, std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype).view(-1, 1, 1)
        return (tensor - mean) / std

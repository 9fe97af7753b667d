"""Made-up labels and features for the probe."""

import numpy as np
import torch

from nsmae_plugin.experiments.probe.frames import ProbeData
from nsmae_plugin.experiments.probe.standardised import Standardised
from nsmae_plugin.geometry.bev_grid import BEVGrid

CELLS = 16  # along x and y, of 2 m
LAYERS = 4
GRID = BEVGrid.from_bounds({"x": [-16, 16, 2], "y": [-16, 16, 2], "z": [-2, 2, 1]})
NAMES = ("car", "pedestrian")
MAPS = ("drivable_area", "walkway")


def made_up_labels(frames: int, seed: int) -> ProbeData:
    """Five boxes a frame in cells far from each other, a sixth of every map, rare occupancy."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(frames):
        places = rng.permutation(25)[:5]  # of a grid of 5 x 5 places, 6 m apart
        centres = np.stack((places % 5, places // 5), 1) * 6.0 - 12 + rng.uniform(-0.9, 0.9, (5, 2))
        sizes = rng.uniform(1, 3, (5, 3))
        z, yaw = rng.uniform(-1, 1, (5, 1)), rng.uniform(-3, 3, (5, 1))
        classes = rng.integers(1, 3, (5, 1))
        boxes.append(np.concatenate((centres, z, sizes, yaw, np.zeros((5, 2)), classes), 1))
    masks = rng.random((frames, len(MAPS), CELLS, CELLS)) < 1 / 6
    layers = rng.random((frames, LAYERS, CELLS, CELLS)) < 0.1
    return ProbeData(
        tokens=[f"{seed}_{frame}" for frame in range(frames)],
        scenes=[f"scene_{frame // 4}" for frame in range(frames)],
        timestamps=np.arange(frames) * 0.5,
        boxes=boxes,
        class_names=NAMES,
        map_masks=masks.astype(np.uint8),
        map_classes=MAPS,
        map_grid=BEVGrid(GRID.x_bound, GRID.y_bound),
        grid=GRID,
        occupied=np.packbits(layers.reshape(frames, -1), axis=1),
    )


def occupancy(labels: ProbeData) -> torch.Tensor:
    """(F, Z, H, W) bool."""
    return torch.from_numpy(np.stack([labels.occupancy(frame) for frame in range(len(labels))]))


def noise(*labels: ProbeData, channels: int = 6) -> Standardised:
    """Features of a training and a test split that say nothing about the labels."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(len(one), channels, CELLS, CELLS, generator=generator) for one in labels]
    return Standardised([(parts[0], parts[1])])


def planted(*parts: torch.Tensor, deviation: float = 0.1) -> Standardised:
    """Features that hold the given maps linearly: mixed, shifted and with a little noise."""
    generator = torch.Generator().manual_seed(1)
    count = parts[0].shape[1]
    mixture = torch.linalg.qr(torch.randn(count + 3, count, generator=generator)).Q
    mixed = [torch.einsum("kc,fcyx->fkyx", mixture, part.float()) + 5 for part in parts]
    noisy = [m + deviation * torch.randn(m.shape, generator=generator) * m.std() for m in mixed]
    return Standardised([(noisy[0].half(), noisy[1].half())])

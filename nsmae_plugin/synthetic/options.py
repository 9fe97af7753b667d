"""The options of a synthetic dataset, checked."""

from dataclasses import dataclass

from nuscenes.utils.splits import create_splits_scenes

from nsmae_plugin.errors import ConfigError

# Database version -> (split of the training scenes, split of the validation scenes).
SPLITS = {"v1.0-mini": ("mini_train", "mini_val"), "v1.0-trainval": ("train", "val")}
VALIDATION_SHARE = 0.2
# The official map locations; scenes are placed on them in turn. Widths and heights in metres.
LOCATIONS = {
    "singapore-onenorth": (1585.6, 2025.0),
    "boston-seaport": (2979.5, 2118.1),
    "singapore-queenstown": (3228.6, 3687.1),
    "singapore-hollandvillage": (2808.3, 2922.9),
}
# Option -> its least and its greatest value.
RANGES = {
    "scenes": (2, 1000),
    "keyframes": (2, 1000),
    "sweeps": (0, 100),
    "cameras": (1, 100),
    "image_size": (32, 8192),
    "azimuths": (36, 36_000),
}
KEYFRAME_INTERVAL_US = 500_000


@dataclass(frozen=True)
class SyntheticOptions:
    """Options of a synthetic dataset.

    Args:
        version: nuScenes database version, a key of :data:`SPLITS`.
        scenes: number of scenes; about four training scenes for each validation scene.
        keyframes: annotated keyframes per scene, at 2 Hz.
        sweeps: LiDAR sweeps between two keyframes, evenly spaced (9 gives nuScenes' 20 Hz).
        cameras: number of cameras; the first six are those of nuScenes.
        image_size: (height, width) in pixels.
        azimuths: LiDAR columns per turn.
        seed: of every random choice; equal options give equal files.

    Raises:
        ConfigError: a value out of its range.
    """

    version: str = "v1.0-mini"
    scenes: int = 10
    keyframes: int = 8
    sweeps: int = 3
    cameras: int = 6
    image_size: tuple[int, int] = (256, 448)
    azimuths: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if self.version not in SPLITS:
            raise ConfigError(
                f"unknown version {self.version!r}: a synthetic dataset is one of {sorted(SPLITS)}"
            )
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not least <= min(values) <= max(values) <= most:
                raise ConfigError(f"{name} is {value}, but must be from {least} to {most}")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, but must be 0 or more")

    @property
    def duration(self) -> float:
        """Seconds from the first keyframe to the last."""
        return (self.keyframes - 1) * KEYFRAME_INTERVAL_US * 1e-6

    def scene_names(self) -> list[str]:
        """Official scene names, training scenes first; both splits hold at least one.

        Raises:
            ConfigError: when the version has fewer scenes than asked for.
        """
        splits = create_splits_scenes()
        train, val = (sorted(splits[name]) for name in SPLITS[self.version])
        number_val = max(1, int(VALIDATION_SHARE * self.scenes))
        number_train = self.scenes - number_val
        if number_train > len(train) or number_val > len(val):
            raise ConfigError(
                f"{self.scenes} scenes are {number_train} + {number_val}, but the splits of "
                f"{self.version} name {len(train)} + {len(val)}: ask for fewer scenes"
            )
        return train[:number_train] + val[:number_val]

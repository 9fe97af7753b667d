"""Writes a whole synthetic dataset as a nuScenes database."""

import json
import multiprocessing
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from nsmae_plugin.errors import ConfigError, DataError
from nsmae_plugin.runtime import stopping
from nsmae_plugin.runtime.cores import usable_cores
from nsmae_plugin.runtime.files import output_errors, replacing_folder, restore
from nsmae_plugin.synthetic import tables
from nsmae_plugin.synthetic.layout import Layout, polygons_of
from nsmae_plugin.synthetic.map_expansion import MapExpansion
from nsmae_plugin.synthetic.options import LOCATIONS, SyntheticOptions
from nsmae_plugin.synthetic.rig import LIDAR_CHANNEL, make_cameras
from nsmae_plugin.synthetic.scene import Place, SceneRecorder, build_layout
from nsmae_plugin.synthetic.stage import MAXIMUM_SPEED
from nsmae_plugin.synthetic.tables import Tables, make_token

# Marks a folder as written by this generator, and says with which options.
MARKER = "synthetic_world.json"
MASK_RESOLUTION = 0.1  # metres per pixel
# nuscenes-devkit looks for the bitmaps of its locations under these names.
MASK_NAMES = {
    "singapore-onenorth": "53992ee3023e5494b90c316c183be829.png",
    "singapore-hollandvillage": "37819e65e09e5547b8a3ceaefba56bb2.png",
    "singapore-queenstown": "93406b464a165eaba6d9de76ca09f5da.png",
    "boston-seaport": "36092f0b03a857c6a3403e25b4b7aab3.png",
}


def write_dataset(
    out: Path, options: SyntheticOptions, workers: int = 1, show_progress: bool = False
) -> Path:
    """Write ``out/<version>/{samples,sweeps,maps,<version>}``.

    The folder appears when it is complete; an interrupted run leaves what was there before. The
    files depend on the options alone, not on ``workers``.

    Raises:
        ConfigError: when the options cannot be met.
        DataError: when ``out/<version>`` holds data that this generator did not write.
        OutputError: when ``out`` cannot be written to.
    """
    target = Path(out) / options.version
    restore(target)
    _check_target(target)
    places = plan(options)
    with replacing_folder(target) as folder, output_errors(target):
        _write_files(folder, options, places, workers, show_progress)
    return target


def _check_target(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise DataError(f"{target} is a file: choose another --out")
    if any(target.iterdir()) and not (target / MARKER).is_file():
        raise DataError(
            f"{target} exists and was not written by this generator ({MARKER} is missing): "
            "choose another --out, or move it away"
        )


def plan(options: SyntheticOptions) -> list[Place]:
    """Place of each scene: a square on one of the locations in turn.

    Raises:
        ConfigError: when the scenes do not fit on the official maps.
    """
    block = Layout.block_size(MAXIMUM_SPEED * options.duration)
    squares = [_squares(extent, block) for extent in LOCATIONS.values()]
    free = [
        (location, square)
        for turn in zip_longest(*squares)
        for location, square in zip(LOCATIONS, turn, strict=True)
        if square is not None
    ]
    if len(free) < options.scenes:
        raise ConfigError(
            f"{options.scenes} scenes of {options.keyframes} keyframes do not fit on the maps, "
            f"which have room for {len(free)}: ask for fewer scenes or fewer keyframes"
        )
    return [Place(index, scene, *free[index]) for index, scene in enumerate(options.scene_names())]


def _squares(extent: tuple[float, float], block: float) -> list[tuple[float, float]]:
    """Corners of the squares of side ``block`` that fit into (width, height), row by row."""
    columns, rows = (range(int(side // block)) for side in extent)
    return [(column * block, row * block) for row in rows for column in columns]


def _write_files(
    root: Path, options: SyntheticOptions, places: list[Place], workers: int, show_progress: bool
) -> None:
    channels = [LIDAR_CHANNEL, *(c.channel for c in make_cameras(options.cameras, (32, 32)))]
    for channel in channels:
        (root / "samples" / channel).mkdir(parents=True)
    (root / "sweeps" / LIDAR_CHANNEL).mkdir(parents=True)
    scenes = list(_record_scenes(root, options, places, workers, show_progress))
    shared = tables.fixed_tables(options.seed)
    shared["sensor"] = [
        {
            "token": make_token(options.seed, "sensor", channel),
            "channel": channel,
            "modality": "lidar" if channel == LIDAR_CHANNEL else "camera",
        }
        for channel in channels
    ]
    maps = _write_maps(root, options, places)
    folder = root / options.version
    folder.mkdir()
    for name, records in tables.merge([shared, *scenes, {"map": maps}]).items():
        _write_json(folder / f"{name}.json", records)
    _write_json(root / MARKER, asdict(options))


def _record_scenes(
    root: Path, options: SyntheticOptions, places: list[Place], workers: int, show_progress: bool
) -> Iterable[Tables]:
    """Tables of each scene, in order; several processes record several scenes at a time."""
    record = partial(_record_scene, options, root)
    bar = partial(tqdm, total=len(places), desc="scenes", disable=not show_progress)
    if min(workers, len(places)) <= 1:
        yield from bar(map(record, places))
        return
    # Spawned, not forked: the caller may have threads.
    context, count = multiprocessing.get_context("spawn"), min(workers, len(places))
    with context.Pool(count, stopping.leave_to_parent) as pool:
        yield from bar(pool.imap(record, places))


def _record_scene(options: SyntheticOptions, root: Path, place: Place) -> Tables:
    return SceneRecorder(options, place, root).record()


def _write_maps(root: Path, options: SyntheticOptions, places: list[Place]) -> list[tables.Record]:
    """Map expansion and mask of each location that has scenes; returns the map table."""
    (root / "maps" / "expansion").mkdir(parents=True)
    records = []
    for location in LOCATIONS:
        here = [place for place in places if place.location == location]
        if not here:
            continue
        layouts = [build_layout(options, place) for place in here]
        block = Layout.block_size(MAXIMUM_SPEED * options.duration)
        canvas = tuple(max(p.block[axis] for p in here) + block for axis in (0, 1))
        expansion = MapExpansion(options.seed, location, canvas)
        for layout in layouts:
            expansion.add(layout)
        _write_json(root / "maps" / "expansion" / f"{location}.json", expansion.as_dict())
        filename = f"maps/{MASK_NAMES[location]}"
        _write_mask(root / filename, layouts, canvas)
        records.append(
            {
                "token": make_token(options.seed, "map", location),
                "log_tokens": [make_token(options.seed, place.name, "log") for place in here],
                "category": "semantic_prior",
                "filename": filename,
            }
        )
    return records


def _write_mask(path: Path, layouts: list[Layout], canvas: tuple[float, ...]) -> None:
    """The bitmap of a location: where one can drive or walk, north up."""
    width, height = (round(metres / MASK_RESOLUTION) for metres in canvas)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for layout in layouts:
        for polygon in [*layout.walkways, *polygons_of(layout.drivable)]:
            pixels = np.asarray(polygon.exterior.coords) / MASK_RESOLUTION
            draw.polygon([(x, height - y) for x, y in pixels], fill=255)
    image.save(path)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=0), encoding="utf-8")


def default_workers() -> int:
    """As many processes as cores, at most eight."""
    return min(8, usable_cores())

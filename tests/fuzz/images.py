"""Camera images: damaged bytes, other formats, sizes and modes, files that are none."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.harness import Case, Draw
from tests.fuzz.mutate import mutate_bytes
from tests.helpers.tiny_frames import HEIGHT, VERSION, WIDTH, dataset, write_frames

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 160 96\n%%EndComments\n(x) print\n%%EOF\n"
FORMATS = ("GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PDF", "EPS")
MODES = ("L", "LA", "P", "RGBA", "1", "CMYK", "YCbCr", "I;16", "F")
KINDS = ("bytes", "format", "mode", "size", "exif", "special")


def images(folder: Path) -> Draw:
    """Read through the dataset. Bytes that change pixels alone are right: nothing tells them."""
    (info,) = write_frames(folder, frames=1, cameras=2)
    info["cams"]["CAM_1"] |= {"width": WIDTH, "height": HEIGHT}
    path = folder / VERSION / info["cams"]["CAM_1"]["data_path"]

    def draw(rng: np.random.Generator) -> Case:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        kind = KINDS[rng.integers(len(KINDS))]
        noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        name = _damage(rng, kind, path, Image.fromarray(noise))

        def run() -> bool:
            sample = dataset(folder, training=False)[0]
            right = all(np.isfinite(np.asarray(one)).all() for one in sample["camera_imgs"])
            return right and kind not in ("format", "exif", "special")

        return Case(f"{kind}: {name}", run, (path.name,))

    return draw


def _damage(rng: np.random.Generator, kind: str, path: Path, image: Image.Image) -> str:
    if kind == "bytes":
        buffer = io.BytesIO()
        image.save(buffer, format=("JPEG", "PNG")[rng.integers(2)])
        name, content = mutate_bytes(rng, buffer.getvalue())
        path.write_bytes(content)
        return name
    if kind == "format":
        name = FORMATS[rng.integers(len(FORMATS))]
        path.write_bytes(EPS) if name == "EPS" else image.save(path, format=name)
        return name
    if kind == "mode":
        name = MODES[rng.integers(len(MODES))]
        plain = image.convert("L") if name == "I;16" else image
        encoding = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF"}.get(name, "PNG")
        plain.convert(name).save(path, format=encoding)
        return name
    if kind == "size":
        width, height = (int(one) for one in rng.integers(1, 60, 2))
        image.resize((width, height)).save(path, format="PNG")
        return f"{width} x {height}"
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = name = int(rng.integers(2, 9))
        image.save(path, exif=exif, format=("JPEG", "PNG")[rng.integers(2)])
        return f"orientation {name}"
    return _special(rng, path)


def _special(rng: np.random.Generator, path: Path) -> str:
    choice = ("pipe", "device", "folder", "sparse", "missing", "huge", "link")[rng.integers(7)]
    if choice == "pipe":
        os.mkfifo(path)
    elif choice == "device":
        path.symlink_to(("/dev/zero", "/dev/null", "/dev/random")[rng.integers(3)])
    elif choice == "folder":
        path.mkdir()
    elif choice == "sparse":
        path.touch()
        os.truncate(path, int(rng.integers(1 << 30, 1 << 38)))
    elif choice == "huge":
        buffer = io.BytesIO()
        Image.new("1", (64, 64)).save(buffer, format="PNG")
        content = bytearray(buffer.getvalue())
        content[16:24] = np.array([60_000, 60_000], ">u4").tobytes()  # (of another checksum)
        path.write_bytes(content)
    elif choice == "link":
        path.symlink_to("/proc/self/mem")
    return choice

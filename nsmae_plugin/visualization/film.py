"""Animated GIFs of the pictures of several frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from nsmae_plugin.runtime import files

FILM_WIDTH = 1600  # pixels


def film_frame(pictures: Sequence[Path], width: int = FILM_WIDTH) -> Image.Image:
    """The pictures of one frame side by side, of equal height, at most ``width`` pixels wide."""
    images = []
    for path in pictures:
        with Image.open(path, formats=("PNG",)) as picture:
            images.append(picture.convert("RGB"))
    height = min(width / sum(one.width / one.height for one in images), images[0].height)
    sizes = [(round(height * one.width / one.height), round(height)) for one in images]
    frame = Image.new("RGB", (sum(size[0] for size in sizes), round(height)), "white")
    left = 0
    for image, size in zip(images, sizes, strict=True):
        frame.paste(image.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0]
    return frame


def save_film(frames: Sequence[Image.Image], seconds: float, path: Path) -> Path:
    """Write a looping GIF that shows every frame for ``seconds``; return ``path``."""
    size = (max(one.width for one in frames), max(one.height for one in frames))
    padded = [Image.new("RGB", size, "white") for _ in frames]
    for canvas, frame in zip(padded, frames, strict=True):
        canvas.paste(frame)
    timing = {"duration": 1000 * seconds, "loop": 0}
    with files.replacing(path) as file:
        padded[0].save(file, "GIF", save_all=True, append_images=padded[1:], **timing)
    return path

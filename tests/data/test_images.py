"""Scaling and cropping of images, against Pillow's two steps on the whole image."""

import numpy as np
import pytest
from PIL import Image

from nsmae_plugin.data import images
from nsmae_plugin.data.images import (
    centre_crop,
    load_crop,
    random_crop,
    scale_and_crop,
)
from nsmae_plugin.data.loader import seeded
from nsmae_plugin.errors import DataError
from nsmae_plugin.formats.image_files import load_image


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    return Image.fromarray(noise).resize((160, 90), Image.Resampling.BOX)


# (crop in pixels of the image scaled to 80 x 45): inside; beyond the right and lower edges; beyond
# the left and upper ones; larger than the image.
CROPS = [(10, 13, 74, 45), (40, 20, 104, 52), (-8, -16, 56, 16), (-10, -10, 90, 60)]


@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_is_what_scaling_and_cropping_one_after_the_other_gives(image, crop):
    result = scale_and_crop(image, 0.5, crop)
    expected = image.resize((80, 45)).crop(crop)
    assert result.size == expected.size == (crop[2] - crop[0], crop[3] - crop[1])
    difference = np.asarray(result).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1  # the filter's coefficients are rounded to 22 bits


def test_a_crop_beside_the_image_is_black(image):
    assert not np.asarray(scale_and_crop(image, 0.5, (200, 0, 232, 32))).any()


@pytest.mark.parametrize("scale", [0.8021815874678055, 0.7605190233752277])
def test_the_last_row_is_there_where_it_is_by_a_hundredth_of_a_pixel(scale):
    """96 x scale is 77.009 and 73.0098; scaling begins at a pixel that is 1/64 too low at most."""
    white, height = Image.new("RGB", (160, 96), "white"), int(96 * scale)
    assert np.asarray(scale_and_crop(white, scale, (16, height - 48, 112, height))).min() > 250


def test_the_scale_is_exact_where_the_size_is_no_whole_number(image):
    """A step from black to white in column 100 lies at 100 x scale, not at 100 x 73 / 160."""
    pixels = np.zeros((90, 160, 3), np.uint8)
    pixels[:, 100:] = 255
    scale = 73.9 / 160
    row = np.asarray(scale_and_crop(Image.fromarray(pixels), scale, (0, 10, 73, 41)))[15, :, 0]
    assert 73 - row.sum() / 255 == pytest.approx(100 * scale, abs=0.02)


def test_training_crops_lie_at_the_lower_edge_and_anywhere_along_the_width():
    with seeded(0):
        drawn = [random_crop((160, 90), (40, 64), (0.6, 0.8)) for _ in range(500)]
    lefts = []
    for scale, (left, top, right, bottom) in drawn:
        assert 0.6 <= scale <= 0.8
        assert (right - left, bottom - top) == (64, 40)
        assert bottom == int(90 * scale)
        assert 0 <= left <= int(160 * scale) - 64
        lefts.append(left)
    assert min(lefts) < 3
    assert max(lefts) > 50


def test_test_crops_take_the_mean_scale_and_the_centre():
    assert centre_crop((160, 90), (40, 64), (0.7, 0.8)) == (0.75, (28, 27, 92, 67))


def write_jpeg(path, pixels):
    Image.fromarray(pixels).save(path, quality=95)
    return path


@pytest.mark.parametrize(
    ("scale", "reduction"), [(1.0, 1), (0.56, 1), (0.55, 2), (0.3, 2), (0.25, 4), (0.1, 8)]
)
def test_an_image_is_decoded_no_larger_than_it_needs_to_be(tmp_path, monkeypatch, scale, reduction):
    path = write_jpeg(tmp_path / "a.jpg", np.zeros((92, 163, 3), np.uint8))
    given = []
    real = images.scale_and_crop
    monkeypatch.setattr(images, "scale_and_crop", lambda *args: given.append(args) or real(*args))
    _, placement, size = load_crop(path, "t", lambda size: (scale, (0, 0, 8, 8)))
    ((decoded, rest, crop),) = given
    assert decoded.size == (-(-163 // reduction), -(-92 // reduction))
    assert rest == pytest.approx(scale * reduction)
    assert (placement, size, crop) == ((scale, (0, 0, 8, 8)), (163, 92), (0, 0, 8, 8))


@pytest.mark.parametrize("scale", [0.25, 0.45, 0.55])
def test_the_content_lies_where_the_matrix_says_after_reduced_decoding(tmp_path, scale):
    """The centre of a white square, against its centre times the scale."""
    pixels = np.zeros((200, 321, 3), np.uint8)
    pixels[101:131, 203:233] = 255
    path = write_jpeg(tmp_path / "dot.jpg", pixels)
    image, _, _ = load_crop(path, "t", lambda size: (scale, (10, 5, 170, 105)))
    weight = np.asarray(image).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:100, :160] + 0.5
    centre = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    # Rounding to 8 bits and what JPEG leaves of the edges: some hundredths of a pixel.
    np.testing.assert_allclose(centre, [218 * scale - 10, 116 * scale - 5], atol=0.03)


# Bounds on mean and root mean square: 1.3 times the largest deviation seen.
@pytest.mark.parametrize(
    ("scale", "mean", "square"),
    [(0.19, 1.4, 2.3), (0.25, 1.3, 2.0), (0.275, 2.4, 4.1), (0.38, 1.0, 1.5), (0.55, 1.0, 1.5)],
)
def test_reduced_decoding_of_real_images_is_off_by_about_a_grey_level(
    real_root, scale, mean, square
):
    paths = sorted((real_root / "v1.0-mini" / "samples").glob("CAM_*/*.jpg"))
    assert len(paths) == 6
    for path in paths:
        size = int(1600 * scale), int(900 * scale)
        crop = (0, size[1] - 128, 300, size[1])
        ours, _, _ = load_crop(path, "t", lambda _, crop=crop: (scale, crop))
        whole = load_image(path, "t").resize(size, box=(0, 0, size[0] / scale, size[1] / scale))
        difference = np.asarray(ours).astype(float) - np.asarray(whole.crop(crop))
        assert 0.1 < np.abs(difference).mean() < mean
        assert np.sqrt((difference**2).mean()) < square
        assert abs(difference.mean()) < 0.1  # neither brighter nor darker


def test_other_formats_are_decoded_whole(tmp_path, image):
    image.save(tmp_path / "a.png")
    ours, _, _ = load_crop(tmp_path / "a.png", "t", lambda size: (0.25, (0, 0, 40, 22)))
    assert np.array_equal(np.asarray(ours), np.asarray(scale_and_crop(image, 0.25, (0, 0, 40, 22))))


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
%%EndComments
(ran) print
%%EOF
"""


@pytest.fixture(params=["whole", "crop"])
def load(request):
    """Both ways to read an image."""
    if request.param == "whole":
        return load_image
    return lambda path, token: load_crop(path, token, lambda _: (1, (0, 0, 8, 8)))[0]


def refuse(load, path, message):
    with pytest.raises(DataError, match=f"the image {path} of sample t .*{message}") as caught:
        load(path, "t")
    assert len(str(caught.value)) < 500


def test_no_other_reader_is_asked(load, tmp_path, monkeypatch):
    """Pillow hands an EPS to Ghostscript, a program."""
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    assert Image.open(path).format == "EPS"
    monkeypatch.setattr("subprocess.Popen", None)
    refuse(load, path, "no image in JPEG or PNG")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
def test_other_formats_are_refused(load, tmp_path, image, kind):
    image.save(tmp_path / "a.jpg", format=kind)
    refuse(load, tmp_path / "a.jpg", "no image in JPEG or PNG")


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_images_that_are_stored_turned_are_refused(load, tmp_path, image, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    image.save(path, exif=exif)
    if orientation == 1:
        load(path, "t")
    else:
        refuse(load, path, f"stored rotated .EXIF orientation {orientation}.; store it")


def test_images_of_more_than_8_bits_are_refused(load, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)
    refuse(load, path, "more than 8 bits")


@pytest.mark.parametrize("limit", [89_478_485, 400_000**2])
def test_images_of_hundreds_of_megapixels_are_refused(load, tmp_path, monkeypatch, limit):
    """One of 20000 x 20000 pixels takes 49 kB in a file, and 1.2 GB decoded.

    The nuscenes-devkit sets the second limit when its maps are imported.
    """
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    refuse(load, path, "more than 179 megapixels")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(load, tmp_path, image, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.convert(mode).save(path)
    assert load(path, "t").mode == "RGB"

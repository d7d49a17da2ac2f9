"""From image to network input: the reference crop to the last bit, padding, modes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from diffcache.errors import ConfigError, DiffcacheError, ImageError
from diffcache.images import Preprocessing, center_crop, decode, to_unit
from diffcache.recipe import canonical_json

from .pictures import encoded, picture

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "center_crop.safetensors")


@pytest.mark.parametrize("key", GOLDEN)
@pytest.mark.parametrize("as_array", [False, True])
def test_center_crop_equals_the_reference(key: str, as_array: bool) -> None:
    size, side = key.split(".to")
    width, height = map(int, size.split("x"))
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(f"image:{size}".encode())))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    cropped = Preprocessing(int(side)).apply(pixels if as_array else Image.fromarray(pixels))
    assert cropped.shape == (3, int(side), int(side))
    if cropped.size >= 40_000:
        cropped = cropped[:, ::4, ::4]
    assert np.array_equal(cropped.transpose(1, 2, 0), GOLDEN[key])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_of_the_size_is_unchanged(mode: str) -> None:
    image = picture(size=(32, 32), mode=mode)
    assert np.array_equal(np.asarray(center_crop(image, 32)), np.asarray(image))  # which lets apply skip it
    for fit in ("crop", "pad"):
        out = Preprocessing(32, 1 if mode == "L" else 3, fit).apply(image)
        assert np.array_equal(out, np.asarray(image).reshape(32, 32, -1).transpose(2, 0, 1))


def test_result_shares_no_memory_with_the_image() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    out = Preprocessing(8, 1).apply(pixels)
    out[:] = 1
    assert not pixels.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from([1, 3]))
def test_crop_takes_any_size(width: int, height: int, size: int, channels: int) -> None:
    out = Preprocessing(size, channels).apply(np.full((height, width), 77, np.uint8))
    assert out.shape == (channels, size, size)
    assert out.dtype == np.uint8
    assert (out == 77).all()


def test_crop_of_an_endless_strip_is_refused_before_it_is_scaled() -> None:
    with pytest.raises(
        ImageError, match=r"^a/x.png: 9000x1 scaled to a shorter side of 256: expected at most \d+ pixels"
    ):
        Preprocessing(256).apply(np.zeros((1, 9000), np.uint8), where="a/x.png")


@pytest.mark.parametrize(("height", "width", "top", "left"), [(28, 28, 2, 2), (32, 5, 0, 13), (1, 32, 15, 0)])
def test_pad_centres_on_black(height: int, width: int, top: int, left: int) -> None:
    out = Preprocessing(32, 1, "pad").apply(np.full((height, width), 255, np.uint8))
    expected = np.zeros((1, 32, 32), np.uint8)
    expected[0, top : top + height, left : left + width] = 255
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("shape", [(33, 2), (2, 33)])
def test_pad_refuses_larger_images(shape: tuple[int, int]) -> None:
    text = rf'^x: fit = "pad" takes images of at most 32x32 pixels, found {shape[1]}x{shape[0]}; with fit = "crop"'
    with pytest.raises(ImageError, match=text):
        Preprocessing(32, 1, "pad").apply(np.zeros(shape, np.uint8), where="x")


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_modes(mode: str, channels: int, fit: str) -> None:
    image = picture(size=(20, 24), mode="RGBA" if mode in ("RGBa", "PA") else "LA" if mode == "La" else "RGB").convert(
        mode
    )
    out = Preprocessing(24, channels, fit).apply(image)
    assert out.shape == (channels, 24, 24)
    assert out.any()


def test_alpha_is_dropped() -> None:
    image = picture(size=(8, 8))
    image.putalpha(0)
    assert np.array_equal(Preprocessing(8).apply(image), Preprocessing(8).apply(picture(size=(8, 8))))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_their_high_byte(kind: str) -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    file = io.BytesIO()
    Image.fromarray(wide).save(file, kind)
    out = Preprocessing(8, 1).apply(decode(file.getvalue(), where="x"))
    assert np.array_equal(out[0], (wide >> 8).astype(np.uint8))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_that_mean_nothing_certain_are_refused(mode: str) -> None:
    for channels in (1, 3):
        with pytest.raises(ImageError, match=f"^a/x.tif: .*mode {mode}"):
            Preprocessing(8, channels).apply(Image.new(mode, (8, 8)), where="a/x.tif")


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8)])
def test_arrays_of_another_kind_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected uint8 of shape"):
        Preprocessing(8).apply(array)


@pytest.mark.parametrize("image", [np.zeros((0, 4), np.uint8), Image.new("RGB", (4, 0))])
def test_images_of_no_pixels_are_refused(image: np.ndarray | Image.Image) -> None:
    for fit in ("crop", "pad"):
        with pytest.raises(ImageError, match=r"^x: expected at least one pixel, got 4x0"):
            Preprocessing(8, 3, fit).apply(image, where="x")


def test_arrays_and_images_agree() -> None:
    for channels in (1, 3):
        for mode in ("L", "RGB"):
            image = picture(size=(50, 41), mode=mode)
            preprocessing = Preprocessing(16, channels)
            assert np.array_equal(preprocessing.apply(image), preprocessing.apply(np.asarray(image)))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture(size=(40, 30)).save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), where="x").size == (40, 30)


def test_plain_values_go_into_a_recipe() -> None:
    preprocessing = Preprocessing(32, 1, "pad")
    assert canonical_json(preprocessing.plain()) == '{"channels":1,"fit":"pad","image_size":32}'
    assert Preprocessing(**preprocessing.plain()) == preprocessing


@pytest.mark.parametrize(
    "wrong", [{"image_size": 0}, {"image_size": 1.5}, {"image_size": True}, {"channels": 2}, {"fit": "x"}]
)
def test_wrong_fields(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"preprocessing: {next(iter(wrong))} must be"):
        Preprocessing(**{"image_size": 32, **wrong})


def test_to_unit() -> None:
    unit = to_unit(np.array([[0, 255, 128]], np.uint8))
    assert unit.dtype == np.float32
    assert unit.tolist() == [[-1.0, 1.0, float(np.float32(128) / np.float32(127.5) - np.float32(1))]]


def test_every_kind_of_file_from_bytes_to_input() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        out = Preprocessing(16).apply(decode(encoded(kind=kind), where=kind))
        exact = Preprocessing(16).apply(picture())
        assert np.abs(out.astype(int) - exact).mean() < 12
    assert issubclass(ImageError, DiffcacheError)

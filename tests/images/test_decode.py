"""Decoding files that nobody vouches for."""

from __future__ import annotations

import io
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffcache.errors import ImageError
from diffcache.images import decode, extensions

from .pictures import encoded, picture

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")


def test_extensions_are_those_that_can_be_decoded() -> None:
    assert {".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".mpo"} <= extensions()
    assert not extensions() & {".eps", ".ps", ".pdf", ".h5", ".mpg", ".wmf", ""}


def test_the_content_tells_the_format() -> None:
    assert decode(encoded(kind="JPEG"), where="x.png").format == "JPEG"


def test_no_other_program_is_run() -> None:
    with pytest.raises(ImageError, match=r"^x.eps: expected an image of a format"):
        decode(encoded(kind="EPS"), where="x.eps")


def test_the_first_frame_counts() -> None:
    file = io.BytesIO()
    picture(1).save(file, "GIF", save_all=True, append_images=[picture(2)])
    first = np.asarray(decode(file.getvalue(), where="x.gif").convert("RGB")).astype(int)
    assert np.abs(first - np.asarray(picture(1))).mean() < np.abs(first - np.asarray(picture(2))).mean()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated(kind: str) -> None:
    data = encoded(kind=kind, size=(200, 150))
    with pytest.raises(ImageError, match=r"^a/x: (cannot be decoded as an image: .|expected an image)"):
        decode(data[: len(data) // 2], where="a/x")


@pytest.mark.parametrize(("data", "found"), [(b"", "an empty file"), (b"<html>  ...", "begins with 3c 68 74 6d 6c")])
def test_not_an_image(data: bytes, found: str) -> None:
    with pytest.raises(ImageError, match=f"^a/x.png: expected an image of a format that Pillow reads, found .*{found}"):
        decode(data, where="a/x.png")


@pytest.mark.parametrize("limit", [40 * 30 - 1, 400, 599])  # Pillow itself warns of the first and refuses the second
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"^a/x.png: .*(pixels)"):
        decode(encoded(), where="a/x.png")


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_where_warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(encoded(), where="a/x.png")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 10_000),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_an_image_or_our_error(kind: str, changes: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(encoded(kind=kind))
    for place, value in changes:
        data[place % len(data)] = value
    with patch.object(Image, "MAX_IMAGE_PIXELS", 1_000_000):
        try:
            assert decode(bytes(data[:cut]), where="x").width > 0
        except ImageError as error:
            assert "\n" not in str(error)

"""IDX files: what is read, and that nothing else does harm."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.errors import ImageError, MissingError
from diffcache.images import open_idx
from diffcache.images.idx import read_idx

from .pictures import idx_bytes

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def write(folder: Path, images: bytes, labels: bytes) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)
    return folder / "images", folder / "labels"


def refused(file: Path, data: bytes, *parts: str, dimensions: tuple[int, ...] = (3, 4), what: str = "images") -> None:
    file.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_idx(file, dimensions=dimensions, what=what)
    line = str(caught.value)
    assert "\n" not in line
    for part in (str(file), "expected", *parts):
        assert part in line


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., None], np.stack([IMAGES] * 3, axis=3)])
def test_reads_plain_and_gzip(tmp_path: Path, images: np.ndarray, packed: bool) -> None:
    source = open_idx(*write(tmp_path, idx_bytes(images, packed=packed), idx_bytes(LABELS, packed=not packed)))
    assert len(source) == 12
    assert list(source.ids) == [str(i) for i in range(12)]
    assert source.ids[-1] == "11"
    assert source.ids[2:4] == ["2", "3"]
    assert source.labels.tolist() == LABELS.tolist()
    assert source.labels.dtype == np.int64
    assert source.class_names == tuple("0123456789")
    assert source.skipped == 0
    for i in (0, 11):
        image = source.load(i)
        assert np.array_equal(image.pixels, images[i])
        shape = "x".join(map(str, images.shape[1:])) + "\n"
        assert image.digest == hashlib.sha256(shape.encode() + images[i].tobytes()).digest()
    for i in (-1, 12):
        with pytest.raises(IndexError):
            source.load(i)


def test_digest_tells_shapes_apart(tmp_path: Path) -> None:
    wide = open_idx(*write(tmp_path / "w", idx_bytes(IMAGES.reshape(12, 2, 10)), idx_bytes(LABELS)))
    tall = open_idx(*write(tmp_path / "t", idx_bytes(IMAGES), idx_bytes(LABELS)))
    assert wide.load(0).digest != tall.load(0).digest


def test_pixels_and_labels_cannot_be_written_to(tmp_path: Path) -> None:
    for packed in (False, True):
        source = open_idx(*write(tmp_path, idx_bytes(IMAGES, packed=packed), idx_bytes(LABELS)))
        assert not source.load(0).pixels.flags.writeable
        assert not source.labels.flags.writeable


def test_class_names(tmp_path: Path) -> None:
    files = write(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS % 3))
    assert open_idx(*files, class_names=["shirt", "shoe", "bag"]).class_names == ("shirt", "shoe", "bag")
    with pytest.raises(ImageError, match=r"labels: expected labels from 0 to 1, .*found 2 for image 2; name all"):
        open_idx(*files, class_names=["shirt", "shoe"])
    with pytest.raises(ImageError, match="that all differ, got 'a' twice"):
        open_idx(*files, class_names=["a", "b", "a"])


def test_numbers_that_differ(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"labels: expected 12 labels, one for each image in .*images, found 11"):
        open_idx(*write(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS[:-1])))


def test_exchanged_files(tmp_path: Path) -> None:
    images, labels = write(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS))
    with pytest.raises(
        ImageError, match="labels: expected images in 3 or 4 dimensions, found 1; are images and labels"
    ):
        open_idx(labels, images)


def test_missing_files(tmp_path: Path) -> None:
    images, labels = write(tmp_path, idx_bytes(IMAGES), idx_bytes(LABELS))
    with pytest.raises(MissingError, match="none: expected an IDX file of images, found nothing"):
        open_idx(tmp_path / "none", labels)
    with pytest.raises(MissingError, match="expected an IDX file of labels, found something that is not a file"):
        open_idx(images, tmp_path)


def test_two_channels(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="1 or 3 channels, found shape 12x5x4x2"):
        open_idx(*write(tmp_path, idx_bytes(np.stack([IMAGES] * 2, axis=3)), idx_bytes(LABELS)))


def test_truncated(tmp_path: Path) -> None:
    data = idx_bytes(IMAGES)
    file = tmp_path / "x"
    refused(file, data[:-1], "240 bytes of values for shape 12x5x4, found 239", "truncated")
    refused(file, gzip.compress(data[:-1]), "240 bytes", "found 239", "truncated")
    refused(file, gzip.compress(data)[:-20], "whole gzip file", "truncated")
    refused(file, gzip.compress(data)[:5], "whole gzip file")
    refused(file, data[:9], "header of 16 bytes, found 9")
    refused(file, b"", "an empty file")
    refused(file, gzip.compress(b""), "an empty file")


def test_goes_on_after_the_end(tmp_path: Path) -> None:
    data = idx_bytes(IMAGES) + b"xyz"
    refused(tmp_path / "x", data, "240 bytes", "found 243", "after the end")
    refused(tmp_path / "x", gzip.compress(data), "240 bytes", "found at least 241", "after the end")
    refused(tmp_path / "x", gzip.compress(idx_bytes(IMAGES)) + b"xyz", "whole gzip file")


def test_damaged_gzip(tmp_path: Path) -> None:
    data = bytearray(idx_bytes(IMAGES, packed=True))
    data[-6] ^= 1  # in the checksum
    refused(tmp_path / "x", bytes(data), "whole gzip file", "CRC")


def test_wrong_magic_and_dimensions(tmp_path: Path) -> None:
    file = tmp_path / "x"
    refused(file, b"\x89PNG\r\n\x1a\n", "00 00 08 03 or 00 00 08 04", "89 50 4e 47")
    refused(file, b"\0\0\x0d\x03" + bytes(12), "unsigned bytes", "00 00 0d 03")
    refused(file, idx_bytes(LABELS), "3 or 4 dimensions, found 1")
    refused(file, b"\0\0\x08\xff", "found 255")
    refused(file, idx_bytes(IMAGES[:0]), "at least one", "0x5x4")
    refused(file, idx_bytes(IMAGES[:, :0]), "at least one", "12x0x4")


@pytest.mark.parametrize("packed", [False, True])
def test_absurd_sizes_allocate_nothing(tmp_path: Path, packed: bool) -> None:
    for sides in ((0xFFFFFFFF,) * 3, (0xFFFFFFFF,) * 4, (2_000_000_000, 1, 1)):
        data = bytes([0, 0, 8, len(sides)]) + np.array(sides, ">u4").tobytes() + bytes(1000)
        tracemalloc.start()
        try:
            refused(tmp_path / "x", gzip.compress(data) if packed else data, "found 1000", "truncated")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_gzip_that_unpacks_to_far_more_than_it_declares(tmp_path: Path) -> None:
    data = gzip.compress(idx_bytes(IMAGES) + bytes(64 << 20), 1)
    tracemalloc.start()
    try:
        refused(tmp_path / "x", data, "found at least 241")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


def valid_or_our_error(folder: Path, images: bytes, labels: bytes) -> None:
    try:
        source = open_idx(*write(folder, images, labels))
    except ImageError as error:
        assert "\n" not in str(error)
        return
    assert len(source) == len(source.labels) == len(source.ids) > 0
    assert source.load(len(source) - 1).pixels.dtype == np.uint8


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=64), magic=st.sampled_from([b"", b"\0\0\x08\x03", b"\0\0\x08\x04", b"\x1f\x8b\x08"]))
def test_random_bytes(scratch: Path, data: bytes, magic: bytes) -> None:
    valid_or_our_error(scratch, magic + data, idx_bytes(LABELS))
    valid_or_our_error(scratch, idx_bytes(IMAGES), magic + data)
    valid_or_our_error(scratch, gzip.compress(magic + data), idx_bytes(LABELS))


@settings(max_examples=150, deadline=None)
@given(
    packing=st.tuples(st.booleans(), st.booleans()),
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 300),
    more=st.binary(max_size=4),
)
def test_damaged_files(
    scratch: Path, packing: tuple[bool, bool], changes: list[tuple[int, int]], cut: int | None, more: bytes
) -> None:
    """Damaged as they are, as packed files, and before they are packed."""
    packed, again = packing

    def damaged(values: np.ndarray) -> bytes:
        data = bytearray(idx_bytes(values, packed=packed))
        for place, value in changes:
            data[place % len(data)] = value
        data = data[:cut] + more
        return gzip.compress(bytes(data)) if again else bytes(data)

    valid_or_our_error(scratch, damaged(IMAGES), idx_bytes(LABELS))
    valid_or_our_error(scratch, idx_bytes(IMAGES), damaged(LABELS))


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([(), (1,), (3,)]),
    st.booleans(),
)
def test_what_is_written_is_read(
    scratch: Path, sides: tuple[int, int, int], channels: tuple[int, ...], packed: bool
) -> None:
    values = np.random.default_rng(sides).integers(0, 256, sides + channels, dtype=np.uint8)
    (scratch / "x").write_bytes(idx_bytes(values, packed=packed))
    assert np.array_equal(read_idx(scratch / "x", dimensions=(3, 4), what="images"), values)

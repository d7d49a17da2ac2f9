"""Images in an .npz file: what is read, that memory does not hold them, and that nothing else does harm."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diffcache.config import SplitConfig
from diffcache.errors import ImageError, MissingError
from diffcache.images import npz_arrays, open_npz, open_split

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
WRITERS = {"plain": np.savez, "compressed": np.savez_compressed}


def refused(file: Path, *parts: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_npz(file)
    line = str(caught.value)
    assert "\n" not in line and str(file) in line and "expected" in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., :1].copy(), IMAGES[..., 0].copy()])
def test_images_are_read_by_row(tmp_path: Path, how: str, images: np.ndarray) -> None:
    WRITERS[how](tmp_path / "a.npz", images, LABELS)
    source = open_npz(tmp_path / "a.npz")
    assert len(source) == 6 and list(source.ids) == list("012345")
    assert source.labels.tolist() == [-1] * 6 and source.class_names == () and source.skipped == 0
    for i in (0, 5):
        image = source.load(i)
        assert np.array_equal(image.pixels, images[i])
        shape = "x".join(map(str, images.shape[1:])) + "\n"
        assert image.digest == source.content_hash(i) == hashlib.sha256(shape.encode() + images[i].tobytes()).digest()
    assert source.where(2) == f"{tmp_path / 'a.npz'}[2]" and source.stamp(2) is None
    with pytest.raises(ValueError, match="read-only"):
        source.pixels[0] = 0
    for i in (-1, 6):
        with pytest.raises(IndexError):
            source.load(i)


@pytest.mark.parametrize("how", WRITERS)
def test_they_are_not_held_in_memory(tmp_path: Path, how: str) -> None:
    WRITERS[how](tmp_path / "a.npz", np.zeros((500, 64, 64, 3), np.uint8))
    tracemalloc.start()
    source = open_npz(tmp_path / "a.npz")
    source.load(499)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20 < source.pixels.nbytes
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


def test_as_an_image_set_it_has_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", IMAGES, LABELS.astype(np.uint8))
    config = SplitConfig(format="npz", path=tmp_path / "a.npz")
    source = open_split(config)
    assert source.labels.tolist() == LABELS.tolist() and source.class_names == ("0", "1", "2")
    assert open_split(config, class_names=["x", "y", "z", "w"]).class_names == ("x", "y", "z", "w")
    with pytest.raises(ImageError, match=r"a\.npz: arr_1: expected labels from 0 to 1, .* found 2; name all classes"):
        open_split(config, class_names=["x", "y"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "a label for each of the 6 images, found int64 of shape 5"),
        (LABELS * 0.5, "expected whole numbers"),
        (LABELS - 1, "expected labels from 0 to 1, .* found -1"),
        (np.array([None] * 6, object), "found a damaged one or none: Object arrays"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", IMAGES, labels)
    with pytest.raises(ImageError, match=message):
        open_split(SplitConfig(format="npz", path=tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", IMAGES)
    with pytest.raises(ImageError, match=r"expected an array arr_1 .* found arr_0"):
        open_split(SplitConfig(format="npz", path=tmp_path / "b.npz"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES.astype(np.float32), "expected uint8 from 0 to 255, found float32"),
        (IMAGES > 9, "found bool"),
        (np.array([b"cos\nsystem\n"], object), "found Python objects, which are pickled and never loaded"),
        (IMAGES.transpose(0, 3, 1, 2).copy(), "found 6x3x5x4; channels come last"),
        (IMAGES[0, 0], "found 4x3"),
        (IMAGES[:0], "found 0x5x4x3"),
        (np.asfortranarray(IMAGES), "use np.ascontiguousarray"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, images: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", images)
    refused(tmp_path / "a.npz", "arr_0: expected", message)


def test_files_that_hold_none(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    with pytest.raises(MissingError, match=r"expected an \.npz file of images, found nothing"):
        open_npz(file)
    with pytest.raises(MissingError, match="something that is not a file"):
        open_npz(tmp_path)
    for data in (b"", b"PK", np.arange(99).tobytes()):
        file.write_bytes(data)
        refused(file, "found a damaged one or none")
    np.savez(file, images=IMAGES)
    refused(file, "an array arr_0", "found images")
    np.savez(file, mu=np.zeros(3), sigma=np.eye(3))
    assert npz_arrays(file) == ("mu", "sigma")
    refused(file, "it holds statistics, and no images")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", b"\x80\x04N.")
    refused(file, "found a damaged one or none")


@pytest.mark.parametrize("how", WRITERS)
def test_damage_is_one_line(tmp_path: Path, how: str) -> None:
    """Wherever a byte is changed or the file is cut: images, or one line that names the file."""
    whole = io.BytesIO()
    WRITERS[how](whole, IMAGES)
    data, file = whole.getvalue(), tmp_path / "a.npz"
    random = np.random.default_rng(0)
    cases = [data[:cut] for cut in random.integers(0, len(data), 40)]
    for place in random.integers(0, len(data), 120):
        cases.append(data[:place] + bytes([data[place] ^ int(random.integers(1, 256))]) + data[place + 1 :])
    for case in cases:
        file.write_bytes(case)
        try:
            open_npz(file).load(0)
        except ImageError as error:
            assert str(file) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_lies_allocates_nothing(tmp_path: Path, compression: int) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)})
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(100))
    refused(file, "12,288,000,000,000 bytes for 1000000000x64x64x3, found 100")
    data = file.read_bytes()  # and its directory, which says how long it would be
    place, size = data.index(b"PK\x01\x02") + 24, len(header.getvalue()) + 3 * 10**9
    file.write_bytes(data[:place] + struct.pack("<I", size) + data[place + 4 :])
    refused(file, "arr_0: expected")

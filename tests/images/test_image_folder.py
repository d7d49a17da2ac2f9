"""Class folders: order, labels, what is left out, what is refused."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from diffcache.errors import ImageError, MissingError
from diffcache.images import folder, open_folder

from .pictures import MakeTree, encoded

PNG = encoded()
KINDS = {"a.png": "PNG", "b.jpg": "JPEG", "c.gif": "GIF", "d.webp": "WEBP", "e.tiff": "TIFF", "f.bmp": "BMP"}


def refused(root: Path, *parts: str, error: type[Exception] = ImageError, **choice: object) -> None:
    with pytest.raises(error) as caught:
        open_folder(root, **choice)
    line = str(caught.value)
    assert "\n" not in line
    for part in (str(root), *parts):
        assert part in line


def test_reads_every_common_format(tree: MakeTree) -> None:
    files = {f"cat/{name}": encoded(k, kind) for k, (name, kind) in enumerate(KINDS.items())}
    source = open_folder(tree(files))
    assert source.ids == tuple(f"cat/{name}" for name in KINDS)
    for i, data in enumerate(files.values()):
        image = source.load(i)
        assert image.pixels.size == (40, 30)
        assert image.digest == hashlib.sha256(data).digest()


def test_order_labels_and_names(tree: MakeTree) -> None:
    names = [
        "b/2.png",
        "b/10.png",
        "B/x.PNG",
        "a/z/deep/1.jpeg.png",
        "a/A.png",
        "a-1/x.png",
        "\u00e9/x.png",
        "a/\u4e2d.png",
    ]
    source = open_folder(tree(dict.fromkeys(names, PNG)))
    assert source.ids == tuple(sorted(names))
    assert source.class_names == ("B", "a", "a-1", "b", "\u00e9")
    assert [source.class_names[label] for label in source.labels] == [name.split("/")[0] for name in source.ids]
    assert source.labels.dtype == np.int64
    assert not source.labels.flags.writeable
    assert len(source) == len(names)


def test_order_is_not_that_of_the_file_system(tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({f"{c}/{k}.png": PNG for c in "cab" for k in range(7)})
    expected = open_folder(root)
    real = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            with real(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(folder.os, "scandir", Backwards)
    again = open_folder(root)
    assert again.ids == expected.ids
    assert np.array_equal(again.labels, expected.labels)


def test_other_and_hidden_files_are_left_out_and_the_others_counted(tree: MakeTree) -> None:
    files = {"a/1.png": PNG, "a/notes.txt": b"", "a/png": b"", "labels.csv": b"", "a/b/figure.eps": b""}
    hidden = {"a/.png": PNG, "a/.x.png": PNG, ".git/1.png": PNG, "a/.thumbs/1.png": PNG, ".DS_Store": b""}
    source = open_folder(tree({**files, **hidden}))
    assert source.ids == ("a/1.png",)
    assert source.skipped == 4


def test_missing_root(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "expected a folder", "found nothing", error=MissingError)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "found a file", error=MissingError)


def test_empty_root(tree: MakeTree) -> None:
    refused(tree({}), "expected one folder of images a class", "found no folder")
    refused(tree({"readme.txt": b""}), "found no folder")


def test_images_in_the_root(tree: MakeTree) -> None:
    refused(tree({"a/1.png": PNG, "stray.jpg": PNG}), "stray.jpg directly in it", "<class>")


def test_class_without_images(tree: MakeTree) -> None:
    refused(tree({"a/1.png": PNG, "empty/notes.txt": b""}), "empty", "found none")


def test_one_order_of_classes_for_two_splits(tree: MakeTree) -> None:
    root = tree(
        {f"train/{c}/1.png": PNG for c in ("cat", "dog", "eel")} | {"test/eel/1.png": PNG, "test/dog/1.png": PNG}
    )
    train = open_folder(root / "train")
    test = open_folder(root / "test", class_names=train.class_names)
    assert test.class_names == ("cat", "dog", "eel")
    assert test.labels.tolist() == [1, 2]
    assert open_folder(root / "train", class_names=["eel", "dog", "cat"]).labels.tolist() == [2, 1, 0]


def test_unknown_class(tree: MakeTree) -> None:
    refused(tree({"catt/1.png": PNG}), "catt", "did you mean 'cat'?", class_names=["cat", "dog"])


def test_unknown_class_among_very_many_is_still_one_short_line(tree: MakeTree) -> None:
    with pytest.raises(ImageError) as caught:
        open_folder(tree({"zzz/1.png": PNG}), class_names=[f"n{k:08}" for k in range(1000)])
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("names", [(), ("a", "b", "a")])
def test_useless_class_names(tree: MakeTree, names: tuple[str, ...]) -> None:
    refused(tree({"a/1.png": PNG}), "expected class names that all differ", class_names=names)


def test_links_inside_the_root_are_followed(tree: MakeTree) -> None:
    root = tree({"a/1.png": PNG, "b/1.png": PNG})
    (root / "b/2.png").symlink_to("../a/1.png")
    (root / "c").symlink_to("a")
    assert open_folder(root).ids == ("a/1.png", "b/1.png", "b/2.png", "c/1.png")


def test_the_root_may_be_a_link(tree: MakeTree, tmp_path: Path) -> None:
    root = tree({"a/1.png": PNG})
    (root / "a/2.png").symlink_to(root / "a/1.png")
    (tmp_path / "link").symlink_to(root)
    assert open_folder(tmp_path / "link").ids == ("a/1.png", "a/2.png")


@pytest.mark.parametrize("link", ["a/2.png", "a/below", "b", "a/notes.txt"])
def test_links_out_of_the_root_only_by_choice(tree: MakeTree, tmp_path: Path, link: str) -> None:
    root = tree({"a/1.png": PNG})
    outside = tmp_path / "set-2"  # begins with the root's own name
    outside.mkdir()
    (outside / "1.png").write_bytes(PNG)
    (root / link).symlink_to(outside / "1.png" if "." in link else outside)
    refused(root, link, str(outside), "follow_links")
    source = open_folder(root, follow_links=True)
    assert len(source) == (1 if link.endswith("txt") else 2)
    assert all(source.load(i).pixels.size == (40, 30) for i in range(len(source)))


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_loops_of_links_end(tree: MakeTree, target: str) -> None:
    root = tree({"a/1.png": PNG})
    (root / "a/loop").symlink_to(target)
    refused(root, "loop", "contains it", follow_links=True)


def test_links_upon_links_do_not_multiply(tree: MakeTree) -> None:
    root = tree({f"a/{k}/1.png": PNG for k in range(30)})
    for k in range(29):
        for name in "xy":
            (root / f"a/{k}/{name}").symlink_to(f"../{k + 1}")
    refused(root, "another link leads to")


def test_broken_link(tree: MakeTree) -> None:
    root = tree({"a/1.png": PNG})
    (root / "a/2.png").symlink_to("gone.png")
    refused(root, "2.png", "which is no file")


def test_pipe_named_like_an_image(tree: MakeTree) -> None:
    root = tree({"a/1.png": PNG})
    os.mkfifo(root / "a/2.png")
    refused(root, "2.png", "a pipe")


def test_names_that_are_not_utf8(tree: MakeTree) -> None:
    root = tree({"a/1.png": PNG})
    bad = os.path.join(os.fsencode(root), b"a", b"\xff.png")  # noqa: PTH118
    try:
        Path(os.fsdecode(bad)).write_bytes(PNG)
    except OSError:
        pytest.skip("this file system refuses such names itself")
    refused(root, "\\udcff.png", "UTF-8")


def test_an_error_stays_one_line_whatever_the_name(tree: MakeTree) -> None:
    source = open_folder(tree({"a/x\n\x1b[31m.png": b"no image"}))
    with pytest.raises(ImageError, match=re.escape("x\\n\\x1b[31m.png: expected an image")) as caught:
        source.load(0)
    assert "\n" not in str(caught.value)


def test_file_gone_after_listing(tree: MakeTree) -> None:
    root = tree({"a/1.png": PNG})
    source = open_folder(root)
    (root / "a/1.png").unlink()
    with pytest.raises(MissingError, match=re.escape(f"{root}/a/1.png: the image was there")):
        source.load(0)


def test_file_too_large(tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_folder(tree({"a/1.png": PNG}))
    monkeypatch.setattr(folder, "MAX_FILE_BYTES", len(PNG) - 1)
    with pytest.raises(ImageError, match=f"at most {len(PNG) - 1} bytes, found {len(PNG)}"):
        source.load(0)


@pytest.mark.parametrize("i", [-1, 1])
def test_row_outside(tree: MakeTree, i: int) -> None:
    with pytest.raises(IndexError, match="rows go from 0 to 0"):
        open_folder(tree({"a/1.png": PNG})).load(i)

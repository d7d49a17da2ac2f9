"""Hashes of files of weights: what is remembered, and when it is not believed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from diffcache.backbones import weights_file
from diffcache.backbones.weights_file import content_hash, file_hash, forget_hash
from diffcache.errors import MissingError


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was read."""
    seen: list[str] = []
    digest = hashlib.file_digest

    def count(file: Any, *arguments: Any) -> Any:
        seen.append(Path(file.name).name)
        return digest(file, *arguments)

    monkeypatch.setattr(weights_file.hashlib, "file_digest", count)
    return seen


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.pt"
    path.write_bytes(b"first")
    return path


def test_is_sha256_and_is_read_once(weights: Path, reads: list[str]) -> None:
    assert file_hash(weights) == hashlib.sha256(b"first").hexdigest()
    assert file_hash(weights) == hashlib.sha256(b"first").hexdigest()
    assert reads == ["w.pt"]


def test_changes_with_the_content(weights: Path) -> None:
    file_hash(weights)
    stamp = weights.stat().st_mtime_ns
    weights.write_bytes(b"other")  # of the same size
    os.utime(weights, ns=(stamp, stamp + 1))
    assert file_hash(weights) == hashlib.sha256(b"other").hexdigest()


def test_the_same_content_elsewhere_has_the_same_hash(weights: Path, tmp_path: Path, reads: list[str]) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(b"first")
    link = tmp_path / "link.pt"
    link.symlink_to(weights)
    assert file_hash(weights) == file_hash(copy) == file_hash(link)
    assert reads == ["w.pt", "copy.pt"]


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"a', b"\xff\xfe", b'{"x": 5}'])
def test_a_damaged_memory_costs_only_time(weights: Path, own_memory: Path, content: bytes) -> None:
    file_hash(weights)
    memory = own_memory / "diffcache" / "weights.json"
    (key,) = json.loads(memory.read_text())
    memory.write_bytes(content.replace(b"x", json.dumps(key).encode()[1:-1]))
    assert file_hash(weights) == hashlib.sha256(b"first").hexdigest()
    assert list(json.loads(memory.read_text())) == [key]


def test_a_memory_that_cannot_be_written(weights: Path, own_memory: Path, reads: list[str]) -> None:
    own_memory.write_text("a file where the folder should be")
    assert file_hash(weights) == file_hash(weights) == hashlib.sha256(b"first").hexdigest()
    assert reads == ["w.pt", "w.pt"]
    assert own_memory.read_text() == "a file where the folder should be"


def test_a_user_without_a_home(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~nobody-of-this-name")
    monkeypatch.chdir(tmp_path)
    assert file_hash(weights) == hashlib.sha256(b"first").hexdigest()


def test_not_there(tmp_path: Path) -> None:
    for function in (file_hash, content_hash, forget_hash):
        with pytest.raises(MissingError, match="no such file of weights"):
            function(tmp_path / "w.pt")


def test_the_content_is_read_whatever_is_remembered(weights: Path, reads: list[str]) -> None:
    file_hash(weights)
    assert content_hash(weights) == content_hash(weights) == hashlib.sha256(b"first").hexdigest()
    assert reads == ["w.pt"] * 3


def test_what_is_forgotten_is_read_again(weights: Path, tmp_path: Path, reads: list[str]) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"other")
    file_hash(weights), file_hash(other)
    forget_hash(weights)
    file_hash(other)
    assert reads == ["w.pt", "other.pt"]
    file_hash(weights)
    assert reads == ["w.pt", "other.pt", "w.pt"]

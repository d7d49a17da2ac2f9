"""What is read from a bucket is damaged or hostile until it was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffcache.cache.buckets import credentials
from diffcache.cache.buckets.contents import committed_rows, cut
from diffcache.cache.buckets.manifest import (
    DataFile,
    Listed,
    Manifest,
    Piece,
    SmallFile,
    now,
    seal_stores,
    unseal_stores,
)
from diffcache.cache.buckets.place import PART, is_url
from diffcache.cache.files import sealed
from diffcache.errors import CacheError
from diffcache.setting import Setting

SHA = "0" * 64
CHUNK = "features.zarr/segment-00000/t90.b24.pool2/c.0.0.0.0"
MANIFEST = Manifest(
    images="toys",
    split="train",
    fingerprint=SHA,
    pushed=now(),
    committed={0: {Setting(90, 24, 2): ((0, 5), (8, 9))}},
    files={"store.json": SmallFile(3, None, SHA)},
    data={CHUNK: DataFile(7, "abc", SHA, (Piece(0, 4, SHA), Piece(4, 3, SHA)))},
)


def test_there_and_back() -> None:
    assert Manifest.unseal(MANIFEST.seal(), "x") == MANIFEST
    listed = Listed(images="toys", split="train", fingerprint=SHA, backbone="toy", rows=3, pushed=now())
    assert unseal_stores(seal_stores({listed.place: listed}), "x") == {listed.place: listed}


def test_pieces_over_some_bytes() -> None:
    one = MANIFEST.data[CHUNK]
    assert [piece.offset for piece in one.over(0, 4)] == [0]
    assert [piece.offset for piece in one.over(3, 5)] == [0, 4]
    assert [piece.offset for piece in one.over(4, 7)] == [4]
    assert one.over(4, 4) == ()


WRONG: dict[str, Any] = {
    "a newer format": {"format_version": 2},
    "a path that leaves the store": {"files": {"../store.json": [3, None, SHA]}},
    "an absolute path": {"files": {"/etc/passwd": [3, None, SHA]}},
    "a path with a dot": {"files": {"a/./b": [3, None, SHA]}},
    "no checksum": {"files": {"store.json": [3, None, "x"]}},
    "a size below zero": {"files": {"store.json": [-3, None, SHA]}},
    "data that is none of features": {"data": {"store.json": [0, None, SHA, []]}},
    "pieces with a gap": {"data": {CHUNK: [7, None, SHA, [[0, 3, SHA], [4, 3, SHA]]]}},
    "pieces that end early": {"data": {CHUNK: [7, None, SHA, [[0, 3, SHA]]]}},
    "a JSON file larger than any": {"files": {"store.json": [2**28 + 1, None, SHA]}},
    "a large piece": {"data": {CHUNK: [2**23 + 1, None, SHA, [[0, 2**23 + 1, SHA]]]}},
    "an empty piece": {"data": {CHUNK: [0, None, SHA, [[0, 0, SHA]]]}},
    "rows that overlap": {"committed": {"segment-00000": {"t90/b24/pool2": [[0, 5], [4, 6]]}}},
    "no rows": {"committed": {"segment-00000": {"t90/b24/pool2": [[5, 5]]}}},
    "no setting": {"committed": {"segment-00000": {"t90": []}}},
    "no segment": {"committed": {"segment-0": {}}},
    "a name that is a path": {"images": "../x"},
    "no time": {"pushed": "yesterday"},
    "one field more": {"more": 1},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused(what: str) -> None:
    values = {**sealed.unseal(MANIFEST.seal(), "x"), **WRONG[what]}
    with pytest.raises(CacheError, match=r"^s3://b/manifest\.json"):
        Manifest.unseal(sealed.seal(values), "s3://b/manifest.json")


def test_any_changed_byte_is_noticed() -> None:
    data = MANIFEST.seal()
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(CacheError):
            Manifest.unseal(bytes(changed), "x")


def test_where_pieces_are_cut() -> None:
    small = PART // 4
    assert cut([0, small, 2 * small]) == [(0, 2 * small)]
    assert cut([0, *(small * n for n in range(1, 7))]) == [(0, PART), (PART, 6 * small)]
    assert cut([0, 5, 5 + PART, 9 + PART]) == [(0, 5), (5, 5 + PART), (5 + PART, 9 + PART)]
    assert cut([0, 2 * PART + 1]) == [(0, PART), (PART, 2 * PART), (2 * PART, 2 * PART + 1)]
    assert cut([0]) == []


def test_committed_rows_of_nothing() -> None:
    assert committed_rows([]) == {}


def test_what_a_url_is() -> None:
    assert all(map(is_url, ("s3://b/x", "gs://b", "http://h/x", "https://h", "file:///x", "az://c/x")))
    assert not any(map(is_url, ("cache", "/a/b", "c:\\x", "ftp://x", 5)))


def test_credentials_of_files(tmp_path: Path) -> None:
    keys, said = tmp_path / "credentials", tmp_path / "config"
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n[lab]\naws_access_key_id = c\n")
    said.write_text("[profile lab]\nregion = eu-1\nendpoint_url = http://here\n")
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(keys), "AWS_CONFIG_FILE": str(said)}
    assert credentials.from_files(env) == {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    lab = {**env, "AWS_PROFILE": "lab"}
    found = {"aws_access_key_id": "c", "aws_region": "eu-1", "aws_endpoint": "http://here"}
    assert credentials.from_files(lab) == found
    named = {**lab, "AWS_ACCESS_KEY_ID": "z", "AWS_REGION": "us", "AWS_ENDPOINT_URL": "http://there"}
    assert credentials.from_files(named) == {}
    assert credentials.endpoint(named) == "http://there"
    keys.write_bytes(b"\xff[")
    assert credentials.from_files(env) == {}

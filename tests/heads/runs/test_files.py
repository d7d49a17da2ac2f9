"""Files whole or absent, and the threads that a training uses."""

import errno
import os
from pathlib import Path

import pytest
import torch

import diffcache.heads
from diffcache.heads.runs.files import drop_drafts, write_bytes, write_json
from diffcache.heads.training.threads import threads_for


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"first")

    def fail(fd):
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the disk is broken"):
            write_bytes(path, b"half")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"


def test_what_a_killed_process_left_goes(tmp_path, monkeypatch):
    kept = tmp_path / "a.json"
    write_json(kept, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # a killed process tidies nothing
        patch.setattr(os, "fsync", lambda fd: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_bytes(tmp_path / "b.bin", b"half")
    assert len(list(tmp_path.iterdir())) == 2
    drop_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_small_steps_use_one_thread_and_the_number_is_restored():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads_for(1000, device=torch.device("cpu")) as threads:
            assert threads == torch.get_num_threads() == 1
        with threads_for(10**12, device=torch.device("cpu")) as threads:
            assert threads == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_public_name_is_there():
    for name in diffcache.heads.__all__:
        assert getattr(diffcache.heads, name).__doc__
    assert dir(diffcache.heads) == sorted(diffcache.heads.__all__)
    with pytest.raises(AttributeError, match="train_haed"):
        _ = diffcache.heads.train_haed

"""Files whole or absent, one process in a folder, and the threads that a training uses."""

import threading

import pytest
import torch

import diffcache.heads
from diffcache.heads.files import alone, write_bytes, write_whole
from diffcache.heads.threads import threads_for


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"first")

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, fail)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"


def test_the_second_waits_and_says_so(tmp_path):
    waiting, inside = threading.Event(), threading.Event()

    def second():
        with alone(tmp_path, on_wait=waiting.set):
            inside.set()

    with alone(tmp_path, on_wait=lambda: pytest.fail("nobody else is here")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        assert not inside.is_set()
    assert inside.wait(10)
    thread.join()


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

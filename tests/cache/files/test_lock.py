"""A lock that its holder's death releases, forks of the holder or not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from diffcache.cache.files import lock
from diffcache.cache.files.lock import clear_lock, exclusive, hold, left_unfinished
from diffcache.errors import CacheError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_another_thread_waits_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
        import os, sys, threading, time
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from diffcache.cache.files.lock import hold

        waits, had = threading.Event(), threading.Event()

        def wait():
            with hold(Path(sys.argv[2]), what="x", on_event=lambda event: waits.set()):
                had.set()
                time.sleep(60)

        threading.Thread(target=wait, daemon=True).start()
        assert waits.wait(20)
        time.sleep(0.3)  # now it is in the system's call
        if os.fork() == 0:
            os.close(1), os.close(2)
            time.sleep(20)
            os._exit(0)
        print("forked", flush=True)
        assert had.wait(20)
        os._exit(0)  # as a kill
    """
    path = tmp_path / "lock"
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(ROOT), str(path)]
    with hold(path, what="x"):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout
        assert other.stdout.readline() == "forked\n"
    assert other.wait(timeout=30) == 0
    other.stdout.close()
    begun = time.monotonic()
    with hold(path, what="x"):
        assert time.monotonic() - begun < 10


def test_the_text_that_a_thread_left_after_an_error_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(RuntimeError), hold(path, what="x"):
        raise RuntimeError
    assert left_unfinished(path)
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)  # another's, who has not written yet
    with pytest.raises(CacheError, match="x: in use by another process"), hold(path, what="x", wait=False):
        pass
    os.close(fd)
    with hold(path, what="x"):
        for wait in (True, False):
            already = pytest.raises(CacheError, match="this thread is writing to it already")
            with already, hold(path, what="x", wait=wait):
                pass
    with hold(path, what="x", wait=False):
        pass


@pytest.fixture(params=["a byte for each key", "a file for each key"])
def helpers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock file of helpers, as it is on Linux and elsewhere."""
    monkeypatch.setattr(lock, "_BY_KEY", request.param == "a byte for each key")
    return tmp_path / "helpers.lock"


def test_helpers_keep_apart_by_key(helpers: Path) -> None:
    with exclusive(helpers, "one", patience=0):
        with exclusive(helpers, "two", patience=0):
            pass
        for _ in range(2):
            with pytest.raises(CacheError, match="to be free within 0 s"), exclusive(helpers, "one", patience=0):
                pass
    with exclusive(helpers, "one", patience=0):
        pass


def test_a_helper_waits_for_another_one(helpers: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with exclusive(helpers, "one", patience=30):
            order.append("second")

    other = threading.Thread(target=second)
    with exclusive(helpers, "one", patience=0):
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join(30)
    assert order == ["first", "second"]


def test_who_clears_waits_for_all_keys_and_leaves_nothing(helpers: Path) -> None:
    with exclusive(helpers, "one", patience=0):
        (there,) = helpers.parent.iterdir()
        with pytest.raises(CacheError, match="to be free within 0 s"):
            clear_lock(there, patience=0)
        assert there.exists()
    for path in helpers.parent.iterdir():
        clear_lock(path, patience=0)
    assert not list(helpers.parent.iterdir())
    clear_lock(helpers, patience=0)  # it isn't there
    assert not list(helpers.parent.iterdir())


def test_who_waits_while_it_is_cleared_takes_the_new_file(helpers: Path) -> None:
    had = threading.Event()

    def late() -> None:
        with exclusive(helpers, "one", patience=30):
            had.set()
            time.sleep(0.5)

    with exclusive(helpers, None, patience=0):
        other = threading.Thread(target=late)
        other.start()
        time.sleep(0.1)
        helpers.unlink()
    assert had.wait(30)
    with pytest.raises(CacheError, match="to be free within 0 s"), exclusive(helpers, "one", patience=0):
        pass
    other.join(30)


def test_a_killed_helper_holds_nothing(tmp_path: Path) -> None:
    code = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from pathlib import Path
        from diffcache.cache.files.lock import exclusive

        with exclusive(Path(sys.argv[2]), "one", patience=0):
            print("has it", flush=True)
            time.sleep(60)
    """
    path = tmp_path / "helpers.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(ROOT), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    assert other.stdout.readline() == "has it\n"
    with pytest.raises(CacheError, match="to be free"), exclusive(path, "one", patience=0):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with exclusive(path, "one", patience=10):
        pass

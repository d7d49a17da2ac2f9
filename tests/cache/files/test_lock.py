"""A lock that its holder's death releases, forks of the holder or not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from diffcache.cache.files.lock import hold, left_unfinished
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

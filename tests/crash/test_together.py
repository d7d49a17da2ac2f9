"""Several processes at one store: writers wait for each other, and readers see what is committed and nothing else."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from diffcache.cache import open_cache
from diffcache.cache.checking.verify import verify_store
from diffcache.errors import MissingError, NotCachedError
from diffcache.setting import Setting
from tests import tiny
from tests.crash import store_model

ROOT = Path(__file__).resolve().parents[2]

# Each commit is noted; after it the command waits as long as there is a file "hold".
COMMAND = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from diffcache.cache import layout, part
layout.RANGE_ROWS = 16
signs, commit = Path(sys.argv[1]), part.Part.commit

def noted(self, *args, **kwargs):
    receipt = commit(self, *args, **kwargs)
    with (signs / "commits").open("a") as file:
        file.write(f"{{self._store.path}} {{self.rows}} {{self.pass_}}\\n")
    while (signs / "hold").exists():
        time.sleep(0.02)
    return receipt

part.Part.commit = noted
sys.argv = ["diffcache", *sys.argv[2:]]
from diffcache.cli import main
main(prog_name="diffcache")
"""


class Together:
    """An experiment, and the commands that run on it at once."""

    def __init__(self, folder: Path) -> None:
        self.world = tiny.make(folder / "world", train=7, test=2)  # 21 images, two ranges; 6, one range
        self.signs, self.cache = folder / "signs", folder / "cache"
        self.signs.mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str) -> subprocess.Popen[str]:
        """`diffcache extract`, under way."""
        command = [sys.executable, "-c", COMMAND, str(self.signs), "extract", str(self.world.file)]
        command += ["--cache", str(self.cache), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def hold(self) -> None:
        """Whoever commits next waits."""
        (self.signs / "hold").touch()

    def go(self) -> None:
        """Nobody waits any more."""
        (self.signs / "hold").unlink()

    @property
    def commits(self) -> Counter[str]:
        """What was committed, and how often."""
        path = self.signs / "commits"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def check(self) -> None:
        """Everything was computed once, and the stores are whole."""
        assert set(self.commits.values()) == {1}, self.commits
        stores = open_cache(self.cache).stores()
        assert len(stores) == 4
        assert all(verify_store(store, threads=1).ok for store in stores)


@pytest.fixture
def together(tmp_path: Path):
    made = Together(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def line_with(stream: IO[str] | None, text: str) -> str:
    """The first line with a text; the process must not end before."""
    assert stream is not None
    said = []
    for line in stream:
        said.append(line)
        if text in line:
            return line.rstrip("\n")
    raise AssertionError(f"{text!r} was not said:\n{''.join(said)}")


@pytest.mark.parametrize("existing", [False, True])
def test_the_second_waits_says_for_whom_and_finds_all_done(together: Together, existing: bool) -> None:
    if existing:
        first = together.start("--t", "5")
        assert first.wait(timeout=120) == 0
    before = together.commits
    together.hold()
    first = together.start()
    until(lambda: together.commits != before)
    second = together.start()
    said = line_with(second.stderr, "waiting")
    told = f"waiting for process {first.pid} on {platform.node()} (diffcache extract {together.world.file} --cache "
    assert told in said
    together.go()
    out = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], out
    assert out[1][0].count("all cached") >= 1
    line = next(line for line in out[1][0].splitlines() if line.split()[:2] == ["textures/train", "tiny"])
    assert "all cached" in line, "the store that it waited for"
    together.check()
    # 2 ranges of train and 1 of test, of 2 passes; and the pixels
    assert len(together.commits) == 3 * 2 + 3


def test_both_started_at_once_make_one_store_and_compute_all_once(together: Together) -> None:
    both = [together.start(), together.start()]
    out = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], out
    together.check()
    assert len(together.commits) == 3 * 2 + 3


def test_whoever_waits_goes_on_when_the_holder_is_killed(together: Together) -> None:
    together.hold()
    first = together.start()
    until(lambda: together.commits)
    second = together.start()
    line_with(second.stderr, f"waiting for process {first.pid}")
    assert len(together.commits) == 1
    first.kill()
    assert first.wait(timeout=10) == -9
    together.go()
    out = second.communicate(timeout=120)
    assert second.returncode == 0, out
    together.check()
    assert len(together.commits) == 3 * 2 + 3, "what the killed one had committed was not computed again"


WRITER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from diffcache.cache import part
from tests.crash import store_model
commit = part.Part.commit

def slow(self, *args, **kwargs):
    receipt = commit(self, *args, **kwargs)
    time.sleep(0.03)
    return receipt

part.Part.commit = slow
store_model.small()
store_model.run(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_reader_sees_committed_rows_and_the_right_bytes(tmp_path: Path, format: str) -> None:
    """A store is made, filled, marked and grown while it is read, by a reader that opens it anew each time."""
    shapes = {**store_model.EARLY, **store_model.LATER}
    rows = store_model.FIRST + store_model.GROWTH
    meant = {setting: store_model.values(setting, shape, 0, rows) for setting, shape in shapes.items()}
    for values in meant.values():
        values[list(store_model.ZEROS)] = 0
    hashes = store_model.hashes(0, rows)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), format], stderr=subprocess.PIPE, text=True)
    seen: dict[Setting, set[tuple[int, int]]] = {setting: set() for setting in shapes}
    try:
        end = time.monotonic() + 60
        while True:
            done = writer.poll() is not None
            for setting in shapes:
                try:
                    features = open_cache(tmp_path).features(
                        images="toys", split="train", setting=setting, partial=True
                    )
                except (NotCachedError, MissingError):
                    assert not done
                    continue
                here = np.flatnonzero(features.committed)
                assert features.gather(here).tobytes() == meant[setting][here].tobytes(), str(setting)
                content = features.store.content_hashes()[here]
                assert content.tobytes() == hashes[here].tobytes()
                assert features.store.marks.items() <= (store_model.MARKED | store_model.MARKED_LATER).items()
                if len(here):
                    assert features.ids == store_model.samples(0, len(features)).ids
                seen[setting].add((len(features), len(here)))
            if done:
                break
            assert time.monotonic() < end
        assert writer.wait() == 0, writer.stderr.read() if writer.stderr else ""
    finally:
        writer.kill()
        writer.communicate()
    for setting, states in seen.items():
        assert (rows, rows) in states, f"{setting} is complete at the end"
    assert sum(0 < count < total for states in seen.values() for total, count in states) >= 5, seen
    whole = b"".join(meant[setting].tobytes() for setting in sorted(meant))
    features_ = [open_cache(tmp_path).features(images="toys", split="train", setting=s) for s in sorted(meant)]
    assert hashlib.sha256(b"".join(f[:].tobytes() for f in features_)).digest() == hashlib.sha256(whole).digest()

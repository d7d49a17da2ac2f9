"""Full disks: at every call that takes room, by a fault that is put in; and on a small disk."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("disk_model.py")
ROOT = SCRIPT.parents[2]


def fill_disk(format: str, work: tuple[str, ...], faults: int, seed: int) -> None:
    command = [sys.executable, str(SCRIPT), "--format", format, "--work", *work]
    command += ["--faults", str(faults), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert done.stdout.count("one clear error each, equal bytes at the end") == len(work)


@pytest.mark.parametrize(("format", "work"), [("zarr", ("store", "grow")), ("hdf5", ("convert", "extract"))])
def test_a_few_full_disks(format: str, work: tuple[str, ...]) -> None:
    fill_disk(format, work, 6, random.SystemRandom().randrange(2**31))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("work", ["store", "convert", "extract", "grow"])
def test_every_full_disk(format: str, work: str) -> None:
    fill_disk(format, (work,), 0, 0)


# --- a small disk -----------------------------------------------------------------------------


class Disk:
    """A disk in memory, of a size that can be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def limit(self, room: int, *, files: int = 100_000) -> None:
        """Let it hold so many bytes and files; what is there stays."""
        options = f"remount,size={room},nr_inodes={files}"
        subprocess.run(["mount", "-o", options, str(self.place)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=64M,nr_inodes=100000", "tmpfs", str(place)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


WORK = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from diffcache.errors import DiskFullError
from tests.crash import store_model
store_model.small()
try:
    store_model.run(Path(sys.argv[1]), sys.argv[2])
except DiskFullError as error:
    print(error)
"""


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock")
    }


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_small_disk_that_grows(tmp_path: Path, disk: Disk, format: str) -> None:
    """The same run on a disk that is a little larger each time: it goes on each time, and says what it needs."""

    def run(place: Path) -> str:
        command = [sys.executable, "-c", WORK.format(root=str(ROOT)), str(place), format]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(tmp_path / "whole") == ""
    used = sum(-(-path.stat().st_size // 4096) for path in (tmp_path / "whole").rglob("*") if path.is_file())
    root, said = disk.place / "cache", []
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        disk.limit(int(share * used) * 4096)
        said.append(run(root))
    for more in (2, 20, 200):
        disk.limit(64 << 20, files=sum(1 for _ in disk.place.rglob("*")) + more)
        said.append(run(root))
    full = [line for line in said if line]
    assert len(full) >= 5, said
    for line in full:
        assert line.count("\n") == 1
        assert "needs " in line
        assert "make room" in line
    disk.limit(64 << 20)
    assert run(root) == ""
    assert contents(root) == contents(tmp_path / "whole")


def test_the_command_on_a_small_disk(tmp_path: Path, disk: Disk) -> None:
    """What a plan sees is refused before anything is written, what it cannot see when it happens; both in a line."""
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from tests import tiny
        tiny.make(Path(sys.argv[1]), train=3, test=1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "world")], check=True)
    cache = disk.place / "cache"

    def extract() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "diffcache", "extract", str(tmp_path / "world" / "pipeline.toml")]
        return subprocess.run(
            [*command, "--cache", str(cache), "--t", "5", "--pool", "0"], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    disk.limit(64 << 10)
    refused = extract()
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1].startswith("diffcache: ")
    assert "nothing was written" in refused.stderr
    assert not any(disk.place.iterdir())

    disk.limit(64 << 20, files=60)
    full = extract()
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    (line,) = (line for line in full.stderr.splitlines() if line.startswith("diffcache: "))
    assert "make room" in line

    disk.limit(64 << 20)
    assert extract().returncode == 0
    stores = sorted(json.loads(path.read_text())["split"] for path in cache.glob("*/*/*/store.json"))
    assert stores == ["test", "test", "train", "train"]

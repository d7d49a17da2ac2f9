"""Kills `diffcache extract` at random instants, of a growing image set, and checks that nothing committed is lost.

    python tests/crash/extract_model.py --format zarr --kills 100

The command extracts the tiny network of the tests, several passes and two draws with augmentation, from two splits
of which one has an image that cannot be read; then from the same splits with more images. Each trial kills some of
these commands. After each kill the stores are opened, and every range that is committed is compared with what
uninterrupted commands wrote. At the end all is compared: features, ids, labels, content hashes, marks, stamps, and
receipts but for their provenance.

A command is killed by itself at its n-th call that changes the disk (a write is then torn in half), or by its parent
after a random time. Most of them run in forks of this process, which has imported all that they need; every tenth is
started as a person would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from diffcache.cache import Store, layout, open_cache
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import segment_name
from diffcache.cache.receipts import binding
from tests import tiny
from tests.crash.store_model import child, count_calls

ROOT = Path(__file__).resolve().parents[2]

# several ranges and chunks out of few images
RANGE_ROWS, CHUNK_BYTES = 16, 8 * 1024
layout.RANGE_ROWS, layout.CHUNK_BYTES = RANGE_ROWS, CHUNK_BYTES

OPTIONS = ("--draws", "2", "--augmentation", "crop_flip", "--on-unreadable", "mark")
STARTED = f"""
import sys
from diffcache.cache import layout
layout.RANGE_ROWS, layout.CHUNK_BYTES = {RANGE_ROWS}, {CHUNK_BYTES}
from diffcache.cli import main
main(prog_name="diffcache")
"""


# --- the images -------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """The experiment; its images are a link to those before or after the growth."""
    tiny.make(folder, train=13, test=6)
    (folder / "images").rename(folder / "before")
    broken = folder / "before" / "train" / "brick" / "004.png"
    broken.write_bytes(broken.read_bytes()[:90])
    # Copies keep the time stamps. The new images come before, between and after those that are there.
    shutil.copytree(folder / "before", folder / "after")
    random_ = np.random.default_rng(7)
    for split, names in (("train", ("bark/000a.png", "brick/005x.png", "sand/x.png")), ("test", ("bark/zz.png",))):
        for name in names:
            tiny.picture(random_, 1).save(folder / "after" / split / name)
    (folder / "after" / "train" / "sand" / "009b.png").write_bytes(b"no image")


def point(folder: Path, to: str) -> None:
    """Let the images be those ``before`` or ``after``; their paths, which reasons of marks name, stay the same."""
    (folder / "images").unlink(missing_ok=True)
    (folder / "images").symlink_to(to)


# --- the command ------------------------------------------------------------------------------


def arguments(folder: Path, cache: Path, format: str) -> list[str]:
    """Of the command line."""
    return ["extract", str(folder / "pipeline.toml"), "--cache", str(cache), "--format", format, *OPTIONS]


def load() -> None:
    """Import all that a command does; nothing of it computes, so that each fork starts threads of its own."""
    import h5py  # noqa: F401
    import torch._dynamo  # noqa: F401 - counting operations does it
    import zarr  # noqa: F401

    import diffcache.cli
    import diffcache.experiments
    import diffcache.extraction.run  # noqa: F401


def extract(folder: Path, cache: Path, format: str, *, more: tuple[str, ...] = ()) -> None:
    """The command in this process."""
    import torch

    from diffcache.cli import main

    torch.set_num_threads(1)  # the network is tiny, and processors few
    sys.argv = ["diffcache", *arguments(folder, cache, format), *more]
    try:
        main(prog_name="diffcache")
    except SystemExit as done:
        if done.code:
            raise


def extract_killed(folder: Path, cache: Path, format: str, *, kill_at: int) -> None:
    """The command, which dies at its n-th call."""
    count_calls(kill_at, None)
    extract(folder, cache, format)


def quietly(work: Any, out: Path) -> None:
    """Do it with standard output and error in a file, which is shown where something fails."""
    with out.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    work()


def started(folder: Path, cache: Path, format: str, *, kill_after: float) -> int:
    """The command as a person starts it, killed some time after it has said what it will do; its status."""
    command = [sys.executable, "-c", STARTED, *arguments(folder, cache, format)]
    where: Any = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **where)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("to do:"):
            time.sleep(kill_after)
            process.kill()
            break
    said = process.stderr.read()
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(command)}: {status}\n{said}")
    return status


# --- the checks -------------------------------------------------------------------------------


def stores_of(cache: Path) -> dict[str, Store]:
    """The stores of a cache, by their place in it."""
    if not cache.is_dir():
        return {}
    opened = open_cache(cache)
    assert not opened.damaged, opened.damaged
    return {store.path.relative_to(cache).as_posix(): store for store in opened.stores()}


def wholes(folder: Path, name: str, rows: int) -> Store:
    """The store at ``name`` as an uninterrupted run makes it whose first segment has so many rows."""
    for reference in ("grown", "direct"):
        store = stores_of(folder / reference)[name]
        if store.segments[0].rows == rows:
            return store
    raise AssertionError(f"{name}: no uninterrupted run makes a first segment of {rows} rows")


def facts(store: Store) -> dict[tuple[str, str], str]:
    """(range, setting) to the checksum that a receipt gives."""
    return {
        (str(receipt.rows), str(setting)): checksum
        for receipt in store.receipts
        for setting, checksum in receipt.settings.items()
    }


def raw(store: Store, setting: Any, rows: Any) -> bytes:
    """The features of a range, read from the files."""
    found = bytearray()
    for path, offset, first, end in store.array(setting, segment=rows.segment).features.pieces(rows.start, rows.stop):
        with (store.path / path).open("rb") as file:
            file.seek(offset)
            found += file.read((end - first) * store.array(setting, segment=rows.segment).features.row_bytes)
    return bytes(found)


def check(folder: Path, cache: Path, seen: Path) -> None:
    """Every committed range is what an uninterrupted run writes, and none that was seen before is gone."""
    before = json.loads(seen.read_text()) if seen.exists() else {}
    after: dict[str, list[str]] = {}
    for name, store in stores_of(cache).items():
        assert not store.damaged, store.damaged
        whole = wholes(folder, name, store.segments[0].rows)
        number = len(store.segments)
        assert store.segments == whole.segments[:number]
        assert store.samples().ids == whole.samples().ids[: store.rows]
        assert store.marks.items() <= whole.marks.items(), store.marks
        expected, got = facts(whole), facts(store)
        assert got.items() <= expected.items(), f"{name}: {set(got.items()) - set(expected.items())}"
        content, meant = store.content_hashes(), whole.content_hashes()
        for receipt in store.receipts:
            rows, base = receipt.rows, store.segments[receipt.rows.segment].first_row
            here = slice(base + rows.start, base + rows.stop)
            assert (content[here] == meant[here]).all(), f"{name}: content hashes of {rows}"
            for setting, checksum in receipt.settings.items():
                data = raw(store, setting, rows)
                assert data == raw(whole, setting, rows), f"{name}: {setting} {rows}"
                assert hashlib.sha256(binding(store.fingerprint, setting, rows) + data).hexdigest() == checksum
        after[name] = sorted(receipt.checksum for receipt in store.receipts)
        found = verify_store(store, threads=1)
        assert not found.damage, [str(fault) for fault in found.damage]
    for name, receipts in before.items():
        lost = set(receipts) - set(after.get(name, ()))
        assert not lost, f"{name}: {len(lost)} committed receipts are gone"
    seen.write_text(json.dumps(after))


def compare(folder: Path, cache: Path) -> None:
    """Finished stores hold what those of uninterrupted runs do."""
    stores = stores_of(cache)
    assert stores.keys() == stores_of(folder / "grown").keys()
    for name, store in stores.items():
        whole = wholes(folder, name, store.segments[0].rows)
        assert receipts(store) == receipts(whole), f"{name}: receipts"
        got, expected = files(store), files(whole)
        different = sorted(path for path in got.keys() | expected.keys() if got.get(path) != expected.get(path))
        assert not different, f"{name}: {different}"
        assert store.marks == whole.marks
        assert all(store.is_complete(setting) for setting in store.settings)
        found = verify_store(store, threads=1)
        assert found.ok, found
        assert not found.leftovers, found.leftovers


def receipts(store: Store) -> list[dict[str, Any]]:
    """All that receipts say but for their provenance, which has times and commands."""
    values = [json.loads(receipt.seal()) for receipt in store.receipts]
    return [{key: value for key, value in some.items() if key not in ("provenance", "checksum")} for some in values]


def files(store: Store) -> dict[str, str]:
    """SHA-256 of every file of a store; receipts and the lock left out."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and (name := path.relative_to(store.path).as_posix()) != "lock"
        if not name.startswith("receipts/")
    }


def check_images(cache: Path) -> None:
    """The uninterrupted runs wrote what this model is about."""
    stores = stores_of(cache)
    assert {store.backbone for store in stores.values()} == {"tiny", "pixels"}
    train = next(store for store in stores.values() if (store.backbone, store.split) == ("tiny", "train"))
    assert [segment.rows for segment in train.segments] == [39, 4]
    assert len(train.marks) == 2
    assert {setting.draw for setting in train.settings} == {0, 1}
    assert len(train.receipts) == 4 * 4
    place = train.path / get_format(train.format).folder / segment_name(0)
    if train.format == "zarr":
        assert len(list(place.glob("t5.b3.pool4/c.*"))) > 1


# --- the trials -------------------------------------------------------------------------------


class Trials:
    """The folder in which everything happens."""

    def __init__(self, folder: Path, format: str, seed: int) -> None:
        self.folder, self.format, self.seed = folder, format, seed
        self.world, self.out, self.seen = folder / "world", folder / "said", folder / "seen.json"
        self.cache = folder / "killed"

    def child(self, work: Any, what: str, **options: Any) -> int:
        """Do it in a fork; what went wrong there goes wrong here."""
        status = child(partial(quietly, work, self.out), **options)
        if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"{self.format}, seed {self.seed}: {what} failed\n{self.out.read_text()[-4000:]}")
        return status

    def finish(self, cache: Path) -> None:
        """A command that nobody kills, and one more that finds all cached and looks at images whose stamps are lost."""
        for _ in range(2):
            self.child(partial(extract, self.world, cache, self.format), "a command that nobody killed")
        said = self.out.read_text()
        stores = [line for line in said.splitlines() if re.search(r"/[0-9a-f]{16}$", line)]
        assert stores, said
        assert all("all cached" in line for line in stores), said

    def references(self) -> tuple[int, float]:
        """Uninterrupted runs; how many calls one makes, and how long it takes."""
        self.child(partial(make, self.world), "making the images")
        point(self.world, "before")
        begun = time.perf_counter()
        self.child(partial(extract, self.world, self.world / "grown", self.format), "the first run")
        seconds = time.perf_counter() - begun
        self.finish(self.world / "grown")
        point(self.world, "after")
        for reference in ("grown", "direct"):
            self.finish(self.world / reference)
        self.child(partial(check_images, self.world / "grown"), "the uninterrupted runs")
        point(self.world, "before")
        read, write = os.pipe()

        def counting() -> None:
            count_calls(None, write)
            extract(self.world, self.folder / "counted", self.format)

        self.child(counting, "counting")
        total = int(os.read(read, 100))
        os.close(read)
        os.close(write)
        return total, seconds

    def trial(self, draw: random.Random, most: int, total: int, seconds: float) -> tuple[int, list[str]]:
        """Commands that are killed, before and after the images have grown; how many were, and where."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.seen.unlink(missing_ok=True)
        kills, where = 0, []
        # The set may grow although nothing, or not all, of what was there before has been extracted.
        before, after = draw.choice(((1, 0), (0, 1), (1, 1), (1, 1), (2, 1), (1, 2)))
        for images, wanted, finished in (("before", before, draw.random() < 0.6), ("after", after, True)):
            point(self.world, images)
            for _ in range(min(wanted, most - kills)):
                status, what = self.killed(draw, total, seconds)
                kills += bool(status)
                where.append(f"{images} {'killed' if status else 'done'} {what}")
                self.child(partial(check, self.world, self.cache, self.seen), f"after {where}: the check")
            if finished:
                self.finish(self.cache)
                self.child(partial(check, self.world, self.cache, self.seen), f"after {where}: the check")
        self.child(partial(compare, self.world, self.cache), f"after {where}: the comparison")
        return kills, where

    def killed(self, draw: random.Random, total: int, seconds: float) -> tuple[int, str]:
        """One command that is killed; its status, and where it was to die."""
        kind = draw.random()
        if kind < 0.6:
            at = draw.randint(1, total)
            dying = partial(extract_killed, self.world, self.cache, self.format, kill_at=at)
            return self.child(dying, f"a command that was to be killed at call {at}"), f"at call {at}"
        after = draw.uniform(0, seconds)
        if kind < 0.9:
            dying = partial(extract, self.world, self.cache, self.format)
            return self.child(dying, f"a command that was to be killed after {after} s", kill_after=after), (
                f"after {after:.2f} s"
            )
        return started(self.world, self.cache, self.format, kill_after=after), f"{after:.2f} s after it had begun"


def main() -> None:
    """The trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("zarr", "hdf5"), required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)

    load()
    with tempfile.TemporaryDirectory(prefix="diffcache-extract-") as name:
        trials = Trials(Path(name), options.format, options.seed)
        begun = time.perf_counter()
        total, seconds = trials.references()
        print(f"{options.format}: a command makes {total} calls in {seconds:.1f} s", flush=True)
        kills, number = 0, 0
        while kills < options.kills:
            number += 1
            died, where = trials.trial(draw, options.kills - kills, total, seconds)
            kills += died
            print(f"  trial {number}: {'; '.join(where) or 'nothing killed'}", flush=True)
        print(
            f"{options.format}: {kills} kills in {number} trials, {time.perf_counter() - begun:.0f} s: "
            f"nothing committed was lost, equal at the end"
        )


if __name__ == "__main__":
    main()

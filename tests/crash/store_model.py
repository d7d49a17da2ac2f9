"""Kills the writer of a store at random instants and checks that nothing committed is lost.

    python tests/crash/store_model.py --format zarr --kills 100

A run makes a store, adds settings, writes their ranges out of order with stamps, adds a setting
later, marks a row, grows the store, marks rows of both segments and fills the new rows. All of it is
deterministic, and a run goes on where a killed one stopped. Each trial kills some runs of the same
store, checks the store after each kill, and compares every byte of it with an uninterrupted run's at
the end. No network, no images.

A run is killed either by itself at its n-th call that changes the disk (a write is then torn in
half), for n anywhere in the run, or by its parent after a random time, which also hits the
libraries' own writes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from diffcache.cache import RowRange, Samples, Store, layout, open_cache
from diffcache.cache.files.mapping import map_blocks
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import segment_name
from diffcache.cache.receipts import binding
from diffcache.cache.stamps import read_stamps, write_stamps
from diffcache.cache.statistics import combine, measure
from diffcache.recipe import Recipe
from diffcache.setting import Setting

RECIPE = Recipe("toy", {"width": 8}, None, {"steps": 1000}, {"image_size": 8})
CLASSES = ("cat", "dog", "owl")
FIRST, GROWTH = 300, 130
EARLY = {Setting(90, 4, 2): (16, 2, 2), Setting(90, 7, 1): (24, 1, 1)}
LATER = {Setting(30, 7, 2): (24, 2, 2), Setting(None, 1, 3): (1, 3, 3), Setting(90, 4, 2, 1): (16, 2, 2)}
BLOCKS = {1: "input.0", 4: "middle", 7: "output.1"}
MARKED = {77: "cannot be decoded"}
MARKED_LATER = {5: "changed since", FIRST + 3: "cannot be decoded", FIRST + 129: "is gone"}
ZEROS = tuple(row for row in MARKED_LATER if row >= FIRST)
"""Rows that are marked before they are written."""


def small() -> None:
    """Several chunks and ranges out of few rows, in this process; a test that imports this module keeps its own."""
    layout.CHUNK_BYTES, layout.RANGE_ROWS = 8 * 1024, 64


# --- what is written: a function of its place alone -------------------------------------------


def samples(start: int, stop: int) -> Samples:
    """The samples of some rows."""
    return Samples([f"{CLASSES[i % 3]}/{i:05d}é.png" for i in range(start, stop)], np.arange(start, stop) % 3, CLASSES)


def values(setting: Setting, shape: tuple[int, int, int], start: int, stop: int) -> np.ndarray[Any, Any]:
    """The features of some rows, counted over the store."""
    key = int.from_bytes(hashlib.sha256(str(setting).encode()).digest()[:4], "big")
    rows = [np.random.default_rng([key, row]).standard_normal(shape) for row in range(start, stop)]
    return np.asarray(rows, dtype=np.float16)


def hashes(start: int, stop: int) -> np.ndarray[Any, Any]:
    """The content hashes of some rows."""
    digests = b"".join(hashlib.sha256(b"image %d" % row).digest() for row in range(start, stop))
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)


def stamps(start: int, stop: int) -> np.ndarray[Any, Any]:
    """The stamps of some rows' files."""
    return np.stack([np.arange(start, stop) + 1000, np.arange(start, stop) * 7 + 1], axis=1).astype(np.int64)


# --- the run ----------------------------------------------------------------------------------


def run(root: Path, format: str) -> None:
    """The whole work, or what is left of it."""
    cache = open_cache(root, create=True)
    found = cache.stores()
    grown = bool(found) and found[0].rows > FIRST
    store = cache.create_store(
        images="toys",
        split="train",
        recipe=RECIPE,
        samples=samples(0, FIRST + GROWTH if grown else FIRST),
        format=format,
        backbone="toy-8",
        group_size=16,
    )
    with store.writing() as writer:
        if grown:  # before any of the new rows is written, as in a run that nobody kills
            mark(writer, MARKED_LATER)
        writer.add_arrays(EARLY, block_names=BLOCKS)
        fill(writer, EARLY)
    with store.writing() as writer:
        writer.add_arrays(LATER, block_names=BLOCKS)
        fill(writer, LATER)
        mark(writer, MARKED)
    with store.writing() as writer:
        if store.rows == FIRST:
            writer.add_segment(samples(FIRST, FIRST + GROWTH))
        mark(writer, MARKED_LATER)
        writer.add_arrays({**EARLY, **LATER}, block_names=BLOCKS)
        fill(writer, {**EARLY, **LATER})
    with store.writing():  # sets the committed and marked bytes that a kill left behind
        for rows, first in all_ranges(store):
            write_stamps(store.path, rows, stamps(first, first + rows.rows))  # a kill may have lost them


def mark(writer: Any, reasons: dict[int, str]) -> None:
    """Mark rows, of several segments at once, unless all of them are marked."""
    if not reasons.keys() <= writer.store.marks.keys():
        writer.mark(reasons)


def all_ranges(store: Store) -> Iterator[tuple[RowRange, int]]:
    """Each range, with its first row counted over the store."""
    for segment in store.segments:
        for rows in layout.ranges(segment.number, segment.rows, store.range_rows):
            yield rows, segment.first_row + rows.start


def fill(writer: Any, shapes: dict[Setting, tuple[int, int, int]]) -> None:
    """Write what is missing, pass by pass, ranges out of order."""
    store = writer.store
    for pass_ in sorted({setting.pass_ for setting in shapes}):
        wanted = [setting for setting in shapes if setting.pass_ == pass_]
        missing = store.missing(wanted)
        ranges = sorted({rows for setting in wanted for rows in missing[setting]})
        random.Random(str(pass_)).shuffle(ranges)
        for rows in ranges:
            lacking = [setting for setting in wanted if rows in missing[setting]]
            base = store.segments[rows.segment].first_row
            with writer.begin(rows, lacking) as part:
                for start in range(rows.start, rows.stop, 16):
                    stop = min(start + 16, rows.stop)
                    for setting in lacking:
                        part.write(setting, start, values(setting, shapes[setting], base + start, base + stop))
                first, end = base + rows.start, base + rows.stop
                part.commit(hashes(first, end), provenance={"group_size": 16}, stamps=stamps(first, end))


# --- the checks -------------------------------------------------------------------------------


def check(root: Path, seen: set[str]) -> set[str]:
    """Everything that receipts promise is there; the receipts seen before are too.

    Returns:
        the checksums of the receipts.
    """
    if not root.is_dir():
        return set()
    cache = open_cache(root)
    assert not cache.damaged, cache.damaged
    found: set[str] = set()
    for store in cache.stores():
        assert not store.damaged, store.damaged
        assert len(store.samples()) == store.rows
        assert store.marks.items() <= (MARKED | MARKED_LATER).items()
        for rows, first in all_ranges(store):
            found_stamps, meant = read_stamps(store.path, rows), stamps(first, first + rows.rows)
            assert not found_stamps.any() or (found_stamps == meant).all(), f"stamps of {rows}"
            assert store.ledger.at(rows) or not found_stamps.any(), f"stamps of {rows} before its receipt"
        content = store.content_hashes()
        for receipt in store.receipts:
            found.add(receipt.checksum)
            rows, base = receipt.rows, store.segments[receipt.rows.segment].first_row
            here = content[base + rows.start : base + rows.stop]
            assert hashlib.sha256(here.tobytes()).hexdigest() == receipt.content, f"content hashes of {rows}"
            for setting, expected in receipt.settings.items():
                array = store.array(setting, segment=rows.segment)
                blocks = np.concatenate(map_blocks(store.path, array.features))
                raw = binding(store.fingerprint, setting, rows) + blocks[rows.start : rows.stop].tobytes()
                assert hashlib.sha256(raw).hexdigest() == expected, f"{setting} {rows}"
                groups = range(rows.start, rows.stop, 16)
                kept = [[k for k in range(s, min(s + 16, rows.stop)) if base + k not in ZEROS] for s in groups]
                meant = combine(measure(blocks[some]) for some in kept)
                assert receipt.statistics[setting] == meant, f"statistics of {setting} {rows}"
        check_plain(store)
    assert seen <= found, f"{len(seen - found)} committed receipts are gone"
    return found


def check_plain(store: Store) -> None:
    """The libraries read every array that is listed, and its committed bytes promise no more than receipts do."""
    for segment in store.segments:
        marked = np.concatenate(map_blocks(store.path, segment.marked))
        own = [row - segment.first_row for row in store.marks if row in segment.store_rows]
        assert set(np.flatnonzero(marked)) <= set(own), "marked bytes run ahead of the marks"
        folder = store.path / get_format(store.format).folder / segment_name(segment.number)
        if store.format == "hdf5":
            import h5py

            for path in sorted(folder.iterdir()):
                with h5py.File(path, "r") as file:
                    for name in file:
                        file[name][:]
        for setting in store.settings_by_segment[segment.number]:
            name = layout.array_name(setting)
            array = store.array(setting, segment=segment.number)
            mapped = np.concatenate(map_blocks(store.path, array.features))
            if store.format == "zarr":
                import zarr

                group = zarr.open_group(folder, mode="r")
                features, committed = group[name][:], group[f"{name}.committed"][:]
            else:
                with h5py.File(folder / f"{name}.h5", "r") as file:
                    features, committed = file["features"][:], file["committed"][:]
            assert features.tobytes() == mapped.tobytes(), f"{setting}: the library reads other bytes"
            assert (committed <= store.ledger.committed(setting, segment)).all(), (
                f"{setting}: committed bytes run ahead"
            )


def check_values(root: Path) -> None:
    """A finished store holds what was meant."""
    cache = open_cache(root)
    (store,) = cache.stores()
    expected, rows = samples(0, FIRST + GROWTH), FIRST + GROWTH
    assert store.samples().ids == expected.ids
    assert (store.samples().labels == expected.labels).all()
    assert (store.content_hashes() == hashes(0, rows)).all()
    assert store.marks == MARKED | MARKED_LATER
    for rows_, first in all_ranges(store):
        assert (read_stamps(store.path, rows_) == stamps(first, first + rows_.rows)).all()
    for setting, shape in {**EARLY, **LATER}.items():
        features = cache.features(images="toys", split="train", setting=setting)
        meant = values(setting, shape, 0, rows)
        meant[list(ZEROS)] = 0
        assert features[:].tobytes() == meant.tobytes(), str(setting)


def contents(root: Path) -> dict[str, str]:
    """SHA-256 of every file of a cache; locks left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("lock", ".lock")
    }


# --- killing ----------------------------------------------------------------------------------

COUNTED = (
    *("open", "mkdir", "rename", "unlink", "rmdir", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate"),
    *("close", "preadv"),
)


def count_calls(kill_at: int | None, report: int | None) -> None:
    """Count the calls that touch the disk; die at one of them, or tell the sum at the end."""
    calls = 0

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                if name == "pwrite":
                    fd, data, offset = args
                    call(fd, bytes(data)[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    write = os.write
    for name in COUNTED:
        setattr(os, name, counted(name, getattr(os, name)))
    if report is not None:
        run_exit.append(lambda: write(report, str(calls).encode()))


def run_killed(root: Path, format: str, *, kill_at: int) -> None:
    """A run that dies at its n-th call."""
    count_calls(kill_at, None)
    run(root, format)


run_exit: list[Callable[[], Any]] = []


def child(work: Callable[[], Any], *, kill_after: float | None = None) -> int:
    """Do work in a forked process, killed after some seconds; its exit status as ``waitpid`` has it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            for last in run_exit:
                last()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def checked(root: Path, seen: set[str]) -> set[str]:
    """:func:`check` in a process of its own: nothing of this one has touched zarr or HDF5 when it forks."""
    read, write = os.pipe()

    def work() -> None:
        found = check(root, seen)
        with os.fdopen(write, "w") as pipe:
            pipe.write("\n".join(sorted(found)))

    pid_status = child(work)
    os.close(write)
    with os.fdopen(read) as pipe:
        found = set(pipe.read().split())
    if pid_status:
        raise SystemExit("the store does not hold what it promises; see above")
    return found


def finish(root: Path, format: str) -> None:
    """A run that is not killed, and the check of what it left."""
    if child(lambda: (run(root, format), check_values(root))):
        raise SystemExit("a run failed; see above")


def main() -> None:
    """The trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("zarr", "hdf5"), required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    small()

    import h5py  # noqa: F401 - once, before the forks
    import zarr  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="diffcache-crash-") as folder:
        place = Path(folder)
        begun = time.perf_counter()
        finish(place / "whole", options.format)
        seconds = time.perf_counter() - begun
        expected = contents(place / "whole")
        read, write = os.pipe()

        def counting() -> None:
            count_calls(None, write)
            run(place / "counted", options.format)

        child(counting)
        total = int(os.read(read, 100))
        assert contents(place / "counted") == expected, "two uninterrupted runs differ"
        print(f"{options.format}: a run makes {total} calls in {seconds:.1f} s; {len(expected)} files", flush=True)

        kills, trials = 0, 0
        while kills < options.kills:
            root, trials, seen = place / "killed", trials + 1, set[str]()
            for _ in range(min(draw.choice((1, 1, 2, 3)), options.kills - kills)):
                if draw.random() < 0.7:
                    at = draw.randint(1, total)
                    status = child(partial(run_killed, root, options.format, kill_at=at))
                    what = f"call {at}"
                else:
                    after = draw.uniform(0, seconds)
                    status = child(partial(run, root, options.format), kill_after=after)
                    what = f"{after:.3f} s"
                died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                if status and not died:
                    raise SystemExit(f"seed {options.seed}, kill {kills}: a run that went on failed; see above")
                kills += died
                seen = checked(root, seen)
                print(f"  trial {trials}: {'killed' if died else 'done'} at {what}, {len(seen)} receipts", flush=True)
            finish(root, options.format)
            got = contents(root)
            different = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
            if different:
                raise SystemExit(f"seed {options.seed}: {len(different)} files differ at the end: {different[:5]}")
            shutil.rmtree(root)
        print(f"{options.format}: {kills} kills in {trials} trials: nothing committed was lost, equal bytes at the end")


if __name__ == "__main__":
    main()

"""Lets the disk be full at every call that needs room, and checks what comes of it.

    python tests/crash/disk_model.py --format zarr --work store --faults 0

The work is the run of a store of :mod:`tests.crash.store_model` (creation, arrays, ranges, marks, stamps, growth), a
conversion and an export of such a store, or `diffcache extract` of new and of added images. In each trial one call that
takes room on the disk fails, or that one and all after it. It must end in one DiskFullError that says what to do, and
the same work, when there is room again, in the bytes of work that was never disturbed.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import diffcache
from diffcache.cache import layout, open_cache
from diffcache.cache.exchange.convert import convert_store
from diffcache.cache.exchange.export import export_features
from diffcache.errors import DiskFullError
from tests.crash import extract_model, store_model
from tests.crash.store_model import child, contents

PATIENT = {"lock.hold", "weights_file._write"}
"""Functions that go on without what they could not write: the lock's holder, the remembered hash of weights."""
PACKAGE = str(Path(diffcache.__file__).parent)
MODES = ("once", "from then on")


class FullDisk:
    """Fails the n-th call that takes room on the disk, counted from 1; counts them where n is 0.

    Attributes:
        calls: how many there were.
        where: the innermost function of the library that was in a call that failed.
    """

    def __init__(self, fail_at: int, *, lasting: bool) -> None:
        self.fail_at, self.lasting = fail_at, lasting
        self.calls, self.where = 0, ""
        self._lock = threading.Lock()
        self._real: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> FullDisk:
        for name in ("posix_fallocate", "pwrite", "fsync", "fdatasync", "rename", "replace"):
            self._put(os, name, lambda *args, **_: True)
        self._put(os, "mkdir", lambda path, *_, **__: not Path(path).exists())
        self._put(os, "open", lambda path, flags, *_, **__: bool(flags & os.O_CREAT) and not Path(path).exists())
        for place in (builtins, io):
            self._put(place, "open", lambda file, mode="r", *_, **__: isinstance(mode, str) and mode[0] in "wxa")
        return self

    def __exit__(self, *_: object) -> None:
        for place, name, call in self._real:
            setattr(place, name, call)

    def _put(self, place: Any, name: str, takes_room: Callable[..., bool]) -> None:
        call = getattr(place, name)
        self._real.append((place, name, call))

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if takes_room(*args, **kwargs) and not self._room():
                path = args[0] if args and isinstance(args[0], str | bytes | os.PathLike) else None
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return call(*args, **kwargs)

        setattr(place, name, wrapper)

    def _room(self) -> bool:
        with self._lock:
            self.calls += 1
            full = bool(self.fail_at) and (self.calls >= self.fail_at if self.lasting else self.calls == self.fail_at)
        if full and not self.where:
            frames = reversed(traceback.extract_stack())
            self.where = next((named(frame) for frame in frames if frame.filename.startswith(PACKAGE)), "")
        return not full


def named(frame: traceback.FrameSummary) -> str:
    """``disk.write_whole``."""
    return f"{Path(frame.filename).stem}.{frame.name}"


# --- the work ---------------------------------------------------------------------------------


class Work:
    """Something that writes; ``do`` it into a folder, ``seen`` is what it must leave there."""

    range_rows = 128

    def __init__(self, folder: Path, format: str) -> None:
        self.folder, self.format = folder, format

    def prepare(self) -> None:
        """What must be there before, made in a process of its own."""

    def start(self, target: Path) -> None:
        """Bring a new folder to where the work begins."""

    def do(self, target: Path) -> None:
        """All of it, or what is left."""
        raise NotImplementedError

    def seen(self, target: Path) -> dict[str, str]:
        """SHA-256 of what must be equal."""
        return contents(target)


class StoreWork(Work):
    """Creation, arrays, ranges, marks, stamps, growth."""

    def do(self, target: Path) -> None:
        store_model.run(target / "cache", self.format)


class ConvertWork(Work):
    """A conversion to the other format and back, plain and compressed, and exports."""

    def prepare(self) -> None:
        store_model.run(self.folder / "source", self.format)

    def do(self, target: Path) -> None:
        (source,) = open_cache(self.folder / "source").stores()
        other = {"zarr": "hdf5", "hdf5": "zarr"}[self.format]
        for name, options in (("other", {"format": other}), ("small", {"compression": "zstd"})):
            root = target / name
            if not (root.is_dir() and open_cache(root).stores()):
                convert_store(source, root, **options)
        features = open_cache(self.folder / "source").features(images="toys", split="train", setting="t90/b4/pool2")
        for ending in ("npy", "safetensors"):
            export_features(features, target / f"features.{ending}", replace=True)


class ExtractWork(Work):
    """The command, of new images or of added ones."""

    range_rows = 16

    def prepare(self) -> None:
        extract_model.make(self.folder / "world")
        for split in ("train", "test"):
            for path in sorted((self.folder / "world").glob(f"*/{split}/*/*.png")):
                if path.stem > "005" and path.stem[0].isdigit():
                    path.unlink()
        extract_model.point(self.folder / "world", "before")

    def start(self, target: Path) -> None:
        extract_model.point(self.folder / "world", "before")

    def do(self, target: Path) -> None:
        options = ("--t", "5", "--b", "3", "--draws", "1")
        world = self.folder / "world"
        try:
            extract_model.extract(world, target / "cache", self.format, more=options)
        except SystemExit as done:
            raise CommandFailed(done.code) from None

    def seen(self, target: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, store in extract_model.stores_of(target / "cache").items():
            found |= {f"{name}/{path}": digest for path, digest in extract_model.files(store).items()}
            found |= {f"{name}/receipt {k}": json.dumps(v) for k, v in enumerate(extract_model.receipts(store))}
        return found


class GrowWork(ExtractWork):
    """The command, of images that were added."""

    def prepare(self) -> None:
        super().prepare()
        ExtractWork.do(self, self.folder / "ungrown")

    def start(self, target: Path) -> None:
        shutil.copytree(self.folder / "ungrown", target)
        extract_model.point(self.folder / "world", "after")


class CommandFailed(Exception):
    """The command ended with a status other than 0; what it said is in the file of its output."""


WORKS = {"store": StoreWork, "convert": ConvertWork, "extract": ExtractWork, "grow": GrowWork}


# --- the trials -------------------------------------------------------------------------------


class Trials:
    """Trials of one kind of work in one format."""

    def __init__(self, folder: Path, kind: str, format: str) -> None:
        self.work = WORKS[kind](folder, format)
        self.folder, self.what = folder, f"{kind} {format}"
        self.target, self.out, self.result = folder / "target", folder / "said", folder / "result.json"

    def child(self, work: Callable[[], None], what: str) -> None:
        """Do it in a fork; what goes wrong there goes wrong here."""
        if child(partial(extract_model.quietly, work, self.out)):
            raise SystemExit(f"{self.what}, {what}:\n{self.out.read_text()[-6000:]}")

    def reference(self) -> int:
        """The undisturbed work; how many calls of it take room."""

        def counting() -> None:
            self.work.start(self.folder / "whole")
            with FullDisk(0, lasting=False) as disk:
                self.work.do(self.folder / "whole")
            self.again(self.folder / "whole")
            (self.folder / "whole.json").write_text(json.dumps(self.work.seen(self.folder / "whole")))
            self.result.write_text(json.dumps(disk.calls))

        self.child(self.work.prepare, "before the work")
        self.child(counting, "the undisturbed work")
        calls: int = json.loads(self.result.read_text())
        return calls

    def again(self, target: Path) -> None:
        """The work once more, which finds it done and looks at what was lost of no consequence."""
        self.work.do(target)

    def trial(self, fail_at: int, mode: str, *, same_process: bool) -> str:
        """One disturbed run and one with room; the function that found no room."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.result.unlink(missing_ok=True)
        what = f"call {fail_at}, {mode}"

        def disturbed() -> None:
            self.work.start(self.target)
            with FullDisk(fail_at, lasting=mode != "once") as disk:
                text = self.error()
            self.result.write_text(json.dumps([disk.where, text]))
            if same_process:
                self.finish()

        def finish() -> None:
            self.finish()

        self.child(disturbed, what)
        where, text = json.loads(self.result.read_text())
        if text is None:
            assert where in PATIENT or not where, f"{self.what}, {what}: {where} swallowed it"
        else:
            assert "\n" not in text, f"{self.what}, {what}: {text}"
            for part in ("needs ", " free ", "make room", "run again"):
                assert part in text, f"{self.what}, {what}, in {where}: {text}"
        if not same_process:
            self.child(finish, f"{what}, the run with room")
        return f"{where}: {text or 'goes on'}"

    def error(self) -> str | None:
        """The line of the error that the work ends in; None where it ends well."""
        try:
            self.work.do(self.target)
        except DiskFullError as error:
            return str(error)
        except CommandFailed as failed:
            sys.stdout.flush()
            sys.stderr.flush()
            assert failed.args == (1,), failed.args
            said = self.out.read_text()
            assert "Traceback" not in said
            (line,) = (line for line in said.splitlines() if line.startswith("diffcache: "))
            return line
        return None

    def finish(self) -> None:
        """The same with room."""
        self.work.do(self.target)
        self.again(self.target)
        expected, got = json.loads((self.folder / "whole.json").read_text()), self.work.seen(self.target)
        different = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
        assert not different, f"{len(different)} differ at the end: {different[:5]}"


def run(kind: str, format: str, *, faults: int, seed: int) -> str:
    """So many trials, or one for each call where that is 0."""
    draw, begun = random.Random(seed), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="diffcache-full-") as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/home"
        trials = Trials(Path(name), kind, format)
        layout.RANGE_ROWS = trials.work.range_rows
        calls = trials.reference()
        places = draw.sample(range(1, calls + 1), min(faults, calls)) if faults else range(1, calls + 1)
        chosen = [(at, draw.choice(MODES)) for at in places]
        print(f"{trials.what}: {calls} calls take room; {len(chosen)} trials", flush=True)
        said: dict[str, int] = {}
        for at, mode in chosen:
            line = trials.trial(at, mode, same_process=draw.random() < 0.5)
            said[line.partition(":")[0]] = said.get(line.partition(":")[0], 0) + 1
        found = ", ".join(f"{where or 'others'} {count}" for where, count in sorted(said.items()))
        return (
            f"{trials.what}: {len(chosen)} full disks, {time.perf_counter() - begun:.0f} s, "
            f"found by {found}: "
            f"one clear error each, equal bytes at the end"
        )


def main() -> None:
    """The trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("zarr", "hdf5"), required=True)
    parser.add_argument("--work", choices=tuple(WORKS), nargs="+", required=True)
    parser.add_argument("--faults", type=int, default=20, help="trials of each work; 0 for one of each call")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import h5py  # noqa: F401 - once, before the forks
    import hdf5plugin  # noqa: F401
    import numcodecs.blosc  # noqa: F401
    import zarr  # noqa: F401

    if {"extract", "grow"} & set(options.work):
        extract_model.load()
    for kind in options.work:
        print(run(kind, options.format, faults=options.faults, seed=options.seed), flush=True)


if __name__ == "__main__":
    main()

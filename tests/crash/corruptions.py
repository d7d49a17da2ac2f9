"""Damages complete stores at random and checks that all of it is found and repaired, and nothing whole is recomputed.

    python tests/crash/corruptions.py --format zarr --corruptions 200 --seed 0

Each trial takes a copy of a complete store of two segments, several settings and marked rows, and does 1 to 4 things
to it: bits flipped, files cut off, deleted or swapped, receipts edited (some sealed again, so that only what they say
is wrong), files, folders and links that do not belong there. Each of them alone must be found by verify. All together
are repaired, in some trials by repairs that are killed on the way, with the images at hand or not. Then exactly what
is missing is computed again, and the store must hold what the undamaged one does. What was computed again must have
been damaged: its bytes or its receipt.

One of the files that say what the store is (store.json and those of the segments) is always spared; without any of
them there is nothing to repair. The file of the lock is left alone, since nobody reads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from diffcache.cache import Store, layout, open_cache
from diffcache.cache.checking.repair import UNKNOWN_REASON, repair_store
from diffcache.cache.checking.verify import verify_store
from diffcache.cache.files import sealed
from diffcache.cache.files.mapping import map_blocks
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.layout import segment_name
from diffcache.cache.stamps import write_stamps
from diffcache.setting import Setting
from tests.crash.store_model import (
    BLOCKS,
    EARLY,
    FIRST,
    GROWTH,
    LATER,
    RECIPE,
    child,
    count_calls,
    hashes,
    samples,
    values,
)

# several chunks and ranges out of few rows
layout.CHUNK_BYTES = 8 * 1024
layout.RANGE_ROWS = 64

SHAPES = {**EARLY, **LATER}
ROWS = FIRST + GROWTH
MARKS = {5: "cannot be decoded", 77: "cannot be decoded", FIRST + 3: "is gone"}
KEPT = ("lock",)


# --- the store --------------------------------------------------------------------------------


def the_store(root: Path) -> Path:
    """Folder of the one store of a cache."""
    (place,) = root.glob(f"toys/train/{RECIPE.fingerprint[:16]}")
    return place


def make(root: Path, format: str) -> None:
    """The complete store."""
    cache = open_cache(root, create=True)
    store = cache.create_store(
        images="toys",
        split="train",
        recipe=RECIPE,
        samples=samples(0, FIRST),
        format=format,
        backbone="toy-8",
        group_size=16,
    )
    with store.writing() as writer:
        writer.add_segment(samples(FIRST, ROWS))
        writer.mark(MARKS)
        compute(writer)
        for rows in store.missing([Setting(1, 1, 1)])[Setting(1, 1, 1)][:3]:
            write_stamps(store.path, rows, np.arange(1, 2 * rows.rows + 1).reshape(-1, 2) + rows.start)


def compute(writer: Any) -> list[tuple[str, int, int]]:
    """Write what is missing; (setting, segment, first row) of each range that was."""
    store, written = writer.store, []
    writer.add_arrays(SHAPES, block_names=BLOCKS)
    for pass_ in sorted({setting.pass_ for setting in SHAPES}):
        wanted = [setting for setting in SHAPES if setting.pass_ == pass_]
        missing = store.missing(wanted)
        for rows in sorted({rows for setting in wanted for rows in missing[setting]}):
            lacking = [setting for setting in wanted if rows in missing[setting]]
            base = store.segments[rows.segment].first_row
            with writer.begin(rows, lacking) as part:
                for setting in lacking:
                    data = values(setting, SHAPES[setting], base + rows.start, base + rows.stop)
                    part.write(setting, rows.start, data)
                    written.append((str(setting), rows.segment, rows.start))
                part.commit(hashes(base + rows.start, base + rows.stop), provenance={"group_size": 16})
    return written


# --- the damage -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """Something that is done to a store; nothing where another damage left nothing to do it to."""

    what: str
    touches: frozenset[str]
    do: Callable[[Path], None]


def contents(root: Path) -> dict[str, str]:
    """What is at each path below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif name not in KEPT:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def draw_damage(draw: random.Random, place: Path) -> Damage:
    """A random damage to the store at ``place``, which is whole."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.name not in KEPT]
    by_size = draw.random() < 0.3
    weights = [path.stat().st_size if by_size else 1 for path in files]
    path = draw.choices(files, weights)[0]
    if draw.random() < 0.15:  # the few that much depends on
        path = draw.choice([p for p in files if p.parent.name in ("segments", "marks") or p.parent == place])
    name, size = path.relative_to(place).as_posix(), path.stat().st_size
    kind = draw.choice(("flip", "flip", "flip", "cut", "delete", "swap", "edit", "edit", "foreign"))
    if kind == "flip":
        at, bit = draw.randrange(size), draw.randrange(8)
        return Damage(f"bit {bit} of byte {at} of {name}", frozenset([name]), partial(flip, name, at, bit))
    if kind == "cut":
        at = draw.choice((0, size - 1, draw.randrange(size)))
        return Damage(f"{name} cut to {at} of {size} bytes", frozenset([name]), partial(cut, name, at))
    if kind == "delete" and path.parts[-3] == "stamps":
        return draw_damage(draw, place)  # without it nothing is lost and nothing wrong
    if kind == "delete":
        return Damage(f"{name} deleted", frozenset([name]), partial(delete, name))
    if kind == "swap":
        near = [p for p in files if p.parent == path.parent and p != path]
        other = draw.choice(near if near and draw.random() < 0.5 else [p for p in files if p != path])
        there = other.relative_to(place).as_posix()
        return Damage(f"{name} swapped with {there}", frozenset([name, there]), partial(swap, name, there))
    if kind == "edit":
        path = draw.choice([p for p in files if p.parts[-3] == "receipts"])
        return edit(draw, path.relative_to(place).as_posix(), json.loads(path.read_bytes()))
    folders = [place, *(p for p in sorted(place.rglob("*")) if p.is_dir() and p.name != "tmp")]
    folder = draw.choice(folders).relative_to(place)
    new = (folder / draw.choice(("notes.txt", "x", ".hidden", "segment-00000.copy", "c.9.0.0.0", "a.json"))).as_posix()
    what = draw.choice(("file", "folder", "link", "full folder"))
    return Damage(f"foreign {what} {new}", frozenset([new]), partial(foreign, new, what))


def flip(name: str, at: int, bit: int, place: Path) -> None:
    path = place / name
    if path.is_file() and at < path.stat().st_size:
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << bit
        path.write_bytes(data)


def cut(name: str, at: int, place: Path) -> None:
    if (place / name).is_file():
        os.truncate(place / name, min(at, (place / name).stat().st_size))


def delete(name: str, place: Path) -> None:
    (place / name).unlink(missing_ok=True)


def swap(name: str, other: str, place: Path) -> None:
    if (place / name).is_file() and (place / other).is_file():
        (place / name).rename(place / "aside")
        (place / other).rename(place / name)
        (place / "aside").rename(place / other)


def foreign(name: str, what: str, place: Path) -> None:
    path = place / name
    if not path.parent.is_dir() or path.exists() or path.is_symlink():
        return
    if what == "link":
        path.symlink_to("/etc/hostname")
    elif what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        if what == "full folder":
            (path / "inside").write_text("mine too")


def edit(draw: random.Random, name: str, values: dict[str, Any]) -> Damage:
    """A receipt that says something else, under a valid seal."""
    values.pop("checksum")
    setting = draw.choice(sorted(values["settings"]))
    which = draw.choice(("range", "segment", "setting", "checksum", "content", "samples", "fingerprint", "drop"))
    other = hashlib.sha256(str(draw.random()).encode()).hexdigest()
    if which == "range":
        values["rows"] = [start + 64 * draw.choice((1, -1)) for start in values["rows"]]
        values["rows"] = [max(0, values["rows"][0]), max(1, values["rows"][1])]
    elif which == "segment":
        values["segment"] = draw.choice((1 - values["segment"], 2, 7))
    elif which == "setting":
        wrong = str(draw.choice([s for s in SHAPES if str(s) != setting]))
        values["settings"][wrong] = values["settings"].pop(setting)
        if draw.random() < 0.5:
            values["t"], values["draw"] = Setting.parse(wrong).t, Setting.parse(wrong).draw
            values["settings"] = {wrong: values["settings"][wrong]}
    elif which == "checksum":
        values["settings"][setting] = other
    elif which == "drop":
        del values["settings"][setting]
        values["statistics"].pop(setting, None)
        values["settings"] = values["settings"] or {"t5/b5/pool5": other}
    else:
        values[which] = other
    data, to = sealed.seal(values), name
    if draw.random() < 0.5:  # and a name that fits what it says now
        from diffcache.cache.receipts import Receipt
        from diffcache.errors import CacheError

        try:
            to = Receipt.unseal(data, "edited").path(Path()).as_posix()
        except CacheError:
            to = name

    def do(place: Path) -> None:
        if (place / name).is_file() and (place / to).parent.is_dir():
            (place / name).unlink()
            (place / to).write_bytes(data)

    return Damage(f"another {which} in {name}" + (f", now {to}" if to != name else ""), frozenset([name, to]), do)


def draw_damages(draw: random.Random, place: Path, most: int) -> list[Damage]:
    """One to four; one of the files that say what the store is stays whole."""
    headers = {path.relative_to(place).as_posix() for path in (place / "store.json", *(place / "segments").iterdir())}
    damages: list[Damage] = []
    wanted = min(draw.randint(1, 4), most)
    while len(damages) < wanted:
        damage = draw_damage(draw, place)
        if not headers <= {name for one in (*damages, damage) for name in one.touches}:
            damages.append(damage)
    return damages


# --- what may be computed again ---------------------------------------------------------------


def unhealthy(whole: Path, place: Path) -> set[tuple[str, int, int]]:
    """(setting, segment, first row) of the ranges whose bytes or receipt are not those of the whole store."""
    store, bad = Store.open(whole), set()
    for receipt in store.receipts:
        rows = receipt.rows
        name = receipt.path(whole).relative_to(whole)
        gone = not same_file(whole / name, place / name)
        for setting in receipt.settings:
            features = store.array(setting, segment=rows.segment).features
            if gone or not same_rows(whole, place, features, rows.start, rows.stop):
                bad.add((str(setting), rows.segment, rows.start))
    return bad


def same_file(a: Path, b: Path) -> bool:
    return b.is_file() and a.read_bytes() == b.read_bytes()


def same_rows(whole: Path, place: Path, extents: Any, start: int, stop: int) -> bool:
    for path, offset, first, end in extents.pieces(start, stop):
        size = (end - first) * extents.row_bytes
        if not (place / path).is_file():
            return False
        if (whole / path).read_bytes()[offset:][:size] != (place / path).read_bytes()[offset:][:size]:
            return False
    return True


# --- a trial, in processes of its own ---------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """Everything about a trial follows from its seed; ``folder`` holds the whole store's cache and the damaged one."""

    folder: Path
    seed: str
    most: int

    @property
    def whole(self) -> Path:
        """The store that is left alone."""
        return the_store(self.folder / "whole")

    @property
    def place(self) -> Path:
        """The store that is damaged."""
        return self.folder / "damaged" / self.whole.relative_to(self.folder / "whole")

    @property
    def draw(self) -> random.Random:
        """The same numbers each time."""
        return random.Random(self.seed)

    def copy(self) -> None:
        """A whole store at the damaged one's place."""
        shutil.rmtree(self.folder / "damaged", ignore_errors=True)
        shutil.copytree(self.folder / "whole", self.folder / "damaged", symlinks=True)

    def damage(self) -> None:
        """Each damage alone is found; all of them together are what the trial goes on with."""
        draw = self.draw
        damages = draw_damages(draw, self.whole, self.most)
        plan: dict[str, Any] = {"damages": [], "images": draw.random() < 0.7}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        before = contents(self.whole)
        for damage in damages:
            self.copy()
            damage.do(self.place)
            if contents(self.place) != before:
                plan["damages"].append(damage.what)
                found = verify_store(self.place, threads=2)
                assert not found.ok, f"not found: {damage.what}"
        self.copy()
        for damage in damages:
            damage.do(self.place)
        if contents(self.place) == before:
            plan["damages"] = []
        else:
            assert not verify_store(self.place, threads=2).ok, "not found together"
        plan["bad"] = sorted(unhealthy(self.whole, self.place))
        new = [damage.what.rpartition(" ") for damage in damages if damage.what.startswith("foreign")]
        plan["foreign"] = [name for what, _, name in new if "link" not in what and what != "foreign folder"]
        plan["foreign"] = plan["foreign"] if len({name for *_, name in new}) == len(new) else []
        (self.folder / "plan.json").write_text(json.dumps(plan))

    @property
    def plan(self) -> dict[str, Any]:
        """What the damage was."""
        plan: dict[str, Any] = json.loads((self.folder / "plan.json").read_text())
        return plan

    def repair(self, *, images: bool) -> Any:
        """What a person would call for."""
        at_hand = {"samples": samples(0, ROWS), "content_hash_of": lambda rows: hashes(rows[0], rows[-1] + 1)}
        return repair_store(self.place, **(at_hand if images else {}), threads=2)

    def repair_killed(self, kill_at: int) -> None:
        """A repair that dies at its n-th call."""
        count_calls(kill_at, None)
        self.repair(images=self.plan["images"])

    def finish(self) -> None:
        """Repair, compute what is missing, compare."""
        plan = self.plan
        done = self.repair(images=plan["images"])
        if done.left:
            assert not plan["images"], done.left
            done = self.repair(images=True)
            assert not done.left, done.left
        found = verify_store(self.place, threads=2)
        assert not found.damage and not found.behind, (found.damage, found.behind)
        assert found.missing == done.missing
        aside = self.folder / "damaged" / ".foreign"
        texts = [path.read_bytes() for path in aside.rglob("*") if path.is_file() and not path.is_symlink()]
        if plan["foreign"]:
            assert b"mine" in texts or b"mine too" in texts, f"neither here nor put aside: {plan['foreign']}"
        store = Store.open(self.place)
        with store.writing() as writer:
            written = compute(writer)
        assert sum(map(len, found.missing.values())) <= len(written)
        healthy = sorted(set(written) - {tuple(item) for item in plan["bad"]})
        assert not healthy, f"computed again without need: {healthy}"
        found = verify_store(self.place, threads=2)
        assert found.ok, found
        self.compare()
        (self.folder / "written").write_text(str(len(written)))

    def compare(self) -> None:
        """The store holds what the whole one does."""
        got, expected = Store.open(self.place), Store.open(self.whole)
        assert got.header == expected.header
        assert got.settings == expected.settings
        assert got.samples().ids == expected.samples().ids
        assert (got.samples().labels == expected.samples().labels).all()
        assert (got.content_hashes() == expected.content_hashes()).all()
        assert got.marks.keys() == expected.marks.keys(), got.marks
        assert set(got.marks.values()) <= {*MARKS.values(), UNKNOWN_REASON}
        for segment in expected.segments:
            for setting in expected.settings:
                one, other = (s.array(setting, segment=segment.number) for s in (got, expected))
                a = np.concatenate(map_blocks(self.place, one.features))
                b = np.concatenate(map_blocks(self.whole, other.features))
                assert a.tobytes() == b.tobytes(), str(setting)
        self.compare_plain(expected)

    def compare_plain(self, store: Store) -> None:
        """The files that other software reads are equal, byte for byte; receipts may be split."""
        folder = get_format(store.format).folder
        for number in range(len(store.segments)):
            here, there = (contents(p / folder / segment_name(number)) for p in (self.place, self.whole))
            different = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
            assert not different, different


def main() -> None:
    """The trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("zarr", "hdf5"), required=True)
    parser.add_argument("--corruptions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import h5py  # noqa: F401 - once, before the forks
    import zarr  # noqa: F401

    begun, kinds, kills, rewritten = time.perf_counter(), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="diffcache-corruptions-") as name:
        folder = Path(name)
        if child(lambda: make(folder / "whole", options.format)):
            raise SystemExit("the store could not be made; see above")
        total, number = 0, 0
        while total < options.corruptions:
            number += 1
            trial = Trial(folder, f"{options.seed} {options.format} {number}", options.corruptions - total)

            def step(work: Callable[[], None], trial: Trial = trial, number: int = number) -> int:
                status = child(work)
                if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                    lines = "".join(f"\n  {line}" for line in trial.plan["damages"])
                    raise SystemExit(f"seed {options.seed}, trial {number} failed; see above. Damage:{lines}")
                return status

            step(trial.damage)
            plan, chance = trial.plan, random.Random(f"kill {trial.seed}")
            if not plan["damages"]:
                continue
            died = 0
            if chance.random() < 0.4:
                died = sum(
                    bool(step(partial(trial.repair_killed, int(10 ** chance.uniform(0.5, 3.2)))))
                    for _ in range(chance.choice((1, 2)))
                )
            step(trial.finish)
            total, kills = total + len(plan["damages"]), kills + died
            rewritten += int((folder / "written").read_text())
            kinds.update("flip" if line.startswith("bit") else line.split()[0] for line in plan["damages"])
            print(f"  trial {number}: {died} kills; {'; '.join(plan['damages'])}", flush=True)
    seconds = time.perf_counter() - begun
    print(
        f"{options.format}: {total} corruptions in {number} trials, {kills} repairs killed, {rewritten} ranges "
        f"computed again, {seconds:.0f} s: all found, all repaired, nothing whole was computed again"
    )


if __name__ == "__main__":
    main()

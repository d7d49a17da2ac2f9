"""Files that nobody vouches for: they run no code, lead out of no folder, and take no room that they do not have.

Whatever is in them, it works or is an error of ours. What one parser does alone is tested beside that parser; here are
whole stores, and what needs a process of its own: run as a script, this damages the raw files of a store.

    python -m tests.test_hostile --format hdf5 --compression zstd --damages 500 --seed 0
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcache.cache import (
    Features,
    RowRange,
    Samples,
    Store,
    convert_store,
    export_features,
    import_features,
    open_cache,
)
from diffcache.cache.catalog import Segment, StoredArray
from diffcache.cache.checking.verify import Verification, verify_store
from diffcache.cache.derived import open_features
from diffcache.cache.formats.protocol import get_format
from diffcache.cache.formats.skeleton import skeleton
from diffcache.cache.layout import segment_name
from diffcache.cache.receipts import Receipt
from diffcache.cache.stamps import read_stamps, write_stamps
from diffcache.cli.main import main
from diffcache.errors import CacheError, DiffcacheError, HeadError, ImageError
from diffcache.setting import Setting
from tests.cache.toy import LARGE, OTHER, SMALL, create, fill, samples
from tests.cli.runs import write_run
from tests.images.pictures import encoded

ROOT = Path(__file__).resolve().parents[1]
Change = Callable[[dict[str, Any]], object]

ROOM = 512 << 20
"""Bytes of addresses that anything here may take beside what its process has; what lies asks for more."""
SECONDS = 20
"""No look at a small store takes as long."""


# --- what is watched --------------------------------------------------------------------------


@contextmanager
def little_room(room: int = ROOM) -> Iterator[None]:
    """A MemoryError, which is no error of ours, for whoever takes far more room than there is in the files."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def allowed(*uses: Callable[[], object]) -> list[object]:
    """Do things of which each works or raises an error of ours, in one line where it is shown."""
    done: list[object] = []
    for use in uses:
        try:
            done.append(use())
        except DiffcacheError as error:
            assert len(str(error)) < 3000
    return done


def call(*arguments: object, code: int | None = None) -> str:
    """What a command prints on both outputs: no traceback, and nothing that acts on a terminal."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert code is None or done.exit_code == code, done.output
    acting = {one for one in done.output if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co") and one != "\n"}
    assert not acting, f"{arguments[0]} prints {sorted(map(ascii, acting))}"
    return done.output


def look(root: Path) -> None:
    """Everything that reads stores, on all stores of a cache."""
    cache = open_cache(root)
    allowed(lambda: repr(cache), cache._repr_html_)
    assert all(len(line) < 3000 for line in cache.damaged)
    for store in cache.stores():
        look_at_store(store)
    for folder in root.glob("*/*/*"):
        for found in allowed(partial(verify_store, folder, threads=1)):
            assert isinstance(found, Verification)
            assert all(map(str, (*found.damage, *found.behind)))
    for command in ("ls", "info", "verify"):
        call(command, "--cache", root)


def look_at_store(store: Store) -> None:
    allowed(
        lambda: repr(store),
        store._repr_html_,
        lambda: store.rows,
        lambda: store.settings,
        lambda: store.marks,
        lambda: store.nbytes,
        lambda: store.damaged,
        lambda: store.missing([LARGE, OTHER]),
        lambda: read_stamps(store.path, RowRange(0, 0, 1024)),
        store.samples,
        store.content_hashes,
    )
    for setting in (LARGE, SMALL, OTHER, Setting(90, 24, 3)):
        allowed(*(partial(ask, setting) for ask in (store.statistics, store.committed, store.serves)))
        for features in allowed(*(partial(open_features, store, setting, partial=some) for some in (False, True))):
            look_at(features)


def look_at(features: Any) -> None:
    allowed(
        lambda: repr(features),
        features._repr_html_,
        lambda: features[0],
        lambda: features[-2:],
        lambda: features.gather([0, len(features) - 1]),
        lambda: (features.labels, features.ids),
        lambda: (features.marked, features.committed, features.block, features.nbytes),
    )


# --- stores that lie --------------------------------------------------------------------------


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Small files of a store as they were, whatever is done to them."""
    before = {path: path.read_bytes() for path in listings(folder)}
    try:
        yield
    finally:
        for path in {*listings(folder)} - before.keys():
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)


def listings(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.json")) if not path.is_relative_to(features_of(folder))]


def features_of(folder: Path) -> Path:
    (found,) = folder.glob("features.*")
    return found


DEEP, ENDLESS, LONG = "<deep>", "<1e999>", "<digits>"
"""Stand for what Python's own JSON writer does not write."""


def text_of(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))  # NaN and Infinity too, which are no JSON
    real = {DEEP: "[" * 900 + "]" * 900, ENDLESS: "1e999", LONG: "9" * 4300}
    for name, written in real.items():
        text = text.replace(json.dumps(name), written)
    return text


def sealed_text(values: Any, checksum: str | None = None) -> bytes:
    """The text of a sealed file, whatever is in it; under its own checksum if none is given."""
    body = text_of(values)
    return f'{{"checksum":"{checksum or hashlib.sha256(body.encode()).hexdigest()}",{body[1:]}\n'.encode()


def values_of(path: Path) -> tuple[dict[str, Any], str]:
    """The values of a sealed file, and its checksum."""
    values = json.loads(path.read_bytes())
    return values, values.pop("checksum")


def edit(folder: Path, pattern: str, change: Change) -> None:
    """Change files and seal them again."""
    paths = list(folder.glob(pattern))
    assert paths
    for path in paths:
        values, _ = values_of(path)
        change(values)
        path.write_bytes(sealed_text(values))


def edit_header(folder: Path, change: Change) -> None:
    """Change what the store says it is, in every file that says so."""
    header, _ = values_of(folder / "store.json")
    change(header)
    header["fingerprint"] = hashlib.sha256(text_of(header.get("recipe")).encode()).hexdigest()
    (folder / "store.json").write_bytes(sealed_text(header))
    edit(folder, "segments/*.json", lambda values: values.update(store=header))
    edit(folder, "receipts/*/*.json", lambda values: values.update(fingerprint=header["fingerprint"]))


def build(root: Path, format: str, compression: str | None = None) -> Store:
    """A store with something of everything: segments, draws, missing ranges, marks, stamps."""
    _, store = create(root / "plain", format, rows=1100)
    with store.writing() as writer:
        writer.mark({3: "no image"})
    fill(store)
    with store.writing() as writer:
        writer.add_segment(samples(20, first=1100))
    fill(store)
    fill(store, [OTHER], leave=1)
    for rows in (RowRange(0, 0, 1024), RowRange(1, 0, 20)):
        write_stamps(store.path, rows, np.arange(5, 5 + 2 * rows.rows).reshape(-1, 2))
    if compression is None:
        return Store.open(store.path)
    return convert_store(store, root / "packed", compression=compression)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def plain(format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store in a cache of its own; each test leaves its files as they were."""
    store = build(tmp_path_factory.mktemp("lies"), format)
    look(cache_of(store.path))
    assert verify_store(store).status == "incomplete"
    return store.path


@pytest.fixture(scope="module")
def packed(format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, compressed."""
    return build(tmp_path_factory.mktemp("packed"), format, "zstd").path


def cache_of(folder: Path) -> Path:
    return folder.parents[2]


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 10**30, LONG),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), ENDLESS),
    *("", "x" * 100_000, "\0", "\ud800", "\x1b[31m\n\u202e", "../../x", "/etc/passwd", "t90/b24/pool2", "0" * 64),
    *("uint8", "float32", "float64", "zstd", "hdf5", "zarr"),
    *([], {}, [[]], {"a": {}}, ["a"], [1], DEEP),
]


def steps(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value; of long lists the first few."""
    inner: Iterable[Any] = values if isinstance(values, dict) else ()
    if isinstance(values, list):
        inner = range(min(3, len(values)))
    for key in inner:
        yield (*at, key)
        yield from steps(values[key], (*at, key))


def mutate(draw: Callable[[Any], Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values with one of them dropped, replaced, wrapped or added to; ``draw`` chooses from a list."""
    values = copy.deepcopy(values)
    ways = list(steps(values))
    *outer, key = draw(ways)
    place: Any = values
    for step in outer:
        place = place[step]
    kind = draw(["drop", "replace", "replace", "replace", "wrap", "another", "add"])
    if kind == "drop":
        del place[key]
    elif kind == "wrap":
        place[key] = draw([[place[key]], {"a": place[key]}, [place[key]] * 3])
    elif kind == "another":
        other: Any = values
        for step in draw(ways):
            other = other[step]
        place[key] = copy.deepcopy(other)
    elif kind == "add" and isinstance(place, list):
        place.append(draw(ODD))
    elif kind == "add":
        place[draw(["x", "", "1", "\x1b[31m", "t90/b24/pool2", "rows", "time"])] = draw(ODD)
    else:
        place[key] = draw(ODD)
    return values


def lie(draw: Callable[[Any], Any], folder: Path) -> None:
    """Mutate one small file: under the old seal, under a new one, or with the files that repeat it changed too."""
    names = ("store.json", "segments", "arrays", "receipts", "marks", "stamps")
    kinds = [[path for path in listings(folder) if path.relative_to(folder).parts[0] == name] for name in names]
    path = draw(draw([paths for paths in kinds if paths]))
    values, checksum = values_of(path)
    changed = mutate(draw, values)
    seal = draw(["old", "new", "agreeing"])
    path.write_bytes(sealed_text(changed, checksum if seal == "old" else None))
    if seal == "agreeing" and path.name == "store.json":
        path.write_bytes(sealed_text(values))
        edit_header(folder, lambda header: replace_all(header, changed))
    elif seal == "agreeing" and path.parts[-3] == "receipts":
        with suppress(CacheError):  # a receipt that can be read goes where it says that it belongs
            place = Receipt.unseal(path.read_bytes(), "x").path(folder)
            place.parent.mkdir(exist_ok=True)
            path.rename(place)


def replace_all(values: dict[str, Any], new: dict[str, Any]) -> None:
    values.clear()
    values.update(new)


class TestListings:
    """Small files that were changed, as a whole store is seen through them."""

    @settings(max_examples=25, deadline=datetime.timedelta(seconds=SECONDS), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_change_works_or_is_an_error_of_ours(self, plain: Path, data: st.DataObject) -> None:
        with restored(plain), little_room():
            lie(lambda some: data.draw(st.sampled_from(some)), plain)
            look(cache_of(plain))

    @pytest.mark.slow
    @settings(max_examples=1500, deadline=datetime.timedelta(seconds=SECONDS), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    @pytest.mark.timeout(1800)
    def test_many_changes(self, plain: Path, data: st.DataObject) -> None:
        with restored(plain), little_room():
            for _ in range(data.draw(st.integers(1, 3))):
                lie(lambda some: data.draw(st.sampled_from(some)), plain)
            look(cache_of(plain))

    @pytest.mark.slow
    @settings(max_examples=500, deadline=datetime.timedelta(seconds=SECONDS), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    @pytest.mark.timeout(1800)
    def test_many_changes_of_compressed_stores(self, packed: Path, data: st.DataObject) -> None:
        with restored(packed), little_room():
            lie(lambda some: data.draw(st.sampled_from(some)), packed)
            look(cache_of(packed))


def say_rows(rows: int, *, step: int | None = None) -> Callable[[Path], None]:
    """Every file of the first segment says that it has so many rows."""

    def stretch(extents: dict[str, Any]) -> None:
        extents["shape"][0] = rows
        extents["runs"] = [[extents["runs"][0][0], 0, rows]]

    def segment(values: dict[str, Any]) -> None:
        values["rows"] = rows
        stretch(values["content_hash"])
        stretch(values["marked"])

    def array(values: dict[str, Any]) -> None:
        stretch(values["features"])
        stretch(values["committed"])

    def do(folder: Path) -> None:
        if step is not None:
            edit_header(folder, lambda header: header.update(range_rows=step, group_size=1))
        edit(folder, "segments/segment-00000.json", segment)
        edit(folder, "segments/segment-00001.json", lambda values: values.update(first_row=rows))
        edit(folder, "arrays/segment-00000/*.json", array)

    return do


def header(change: Change) -> Callable[[Path], None]:
    return lambda folder: edit_header(folder, change)


def recipe(**values: Any) -> Callable[[Path], None]:
    return header(lambda header: header["recipe"].update(values))


def arrays(change: Change) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "arrays/*/*.json", change)


def receipts(change: Change) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "receipts/*/*.json", change)


def run(at: int, value: Any) -> Callable[[Path], None]:
    """One entry of an array's first run: path, offset or rows."""
    return arrays(lambda values: values["features"]["runs"][0].__setitem__(at, value))


def statistics(**values: Any) -> Callable[[Path], None]:
    return receipts(lambda receipt: [one.update(values) for one in receipt["statistics"].values()])


def type_of_features(folder: Path) -> None:
    recipe(dtype="uint8")(folder)
    arrays(lambda values: values["features"].update(dtype="uint8"))(folder)


def tree(deep: int) -> Any:
    return {"a": tree(deep - 1)} if deep else 1


NASTY = "\x1b]0;title\x07\r\n\x9b31m\u202e\u2028\u200b"

LIES: dict[str, Callable[[Path], None]] = {
    "more rows than bytes": say_rows(10**9 - 1),
    "rows that no disk holds": say_rows(2**56),
    "very many ranges": say_rows(10**9 - 1, step=1),
    "many ranges": say_rows(2**12, step=1),
    "a row of terabytes": arrays(lambda values: values["features"]["shape"].__setitem__(1, 2**40)),
    "an offset behind all files": run(1, 2**62),
    "a folder for a file": run(0, "segments"),
    "rows in another array": run(0, "features.zarr/segment-00000/t90.b24.pool1/c.0.0.0.0"),
    "rows in the store's own file": run(0, "store.json"),
    "rows twice": arrays(
        lambda values: values["committed"].update(
            runs=[[values["features"]["runs"][0][0], 0, values["committed"]["shape"][0]]]
        )
    ),
    "a path through a file": run(0, "store.json/x"),
    "a path that no system takes": run(0, "x" * 5000),
    "a path that is no text": run(0, "\ud800"),
    "a path with escapes": run(0, NASTY),
    "no type of features": type_of_features,
    "a recipe of other types": recipe(backbone=3, architecture=None, schedule=5, seed="x", precision=None, version={}),
    "a deep recipe": recipe(preprocessing={"x": DEEP}),
    "a recipe beyond doubles": recipe(preprocessing={"x": ENDLESS}),
    "a long seed": recipe(seed=LONG),
    "names that act": header(lambda header: header.update(backbone=NASTY, created_by=NASTY, class_names=[NASTY] * 3)),
    "a long name": header(lambda header: header.update(images="x" * 100_000)),
    "names that are no text": header(lambda header: header.update(class_names=["\ud800", "b", "c"])),
    "very many fields": lambda folder: edit(
        folder, "store.json", lambda v: v.update({str(i): i for i in range(20_000)})
    ),
    "deep provenance": receipts(lambda receipt: receipt["provenance"].update(x=DEEP, y=tree(300))),
    "provenance beyond doubles": receipts(lambda receipt: receipt["provenance"].update(x=ENDLESS)),
    "provenance that acts": receipts(lambda receipt: receipt.update(provenance={NASTY: NASTY, "time": "\ud800"})),
    "fallbacks that act": receipts(lambda receipt: receipt.update(fallbacks=[{"what": NASTY, "\ud800": [NASTY]}])),
    "fallbacks beyond doubles": receipts(lambda receipt: receipt.update(fallbacks=[{"a": ENDLESS}])),
    "counts of 4,300 digits": statistics(saturated=LONG, count=LONG),
    "statistics that overflow": statistics(min=-1e308, max=1e308, mean=1e308, variance=1e308),
    "a variance below 0": statistics(variance=-1, mean=-1e308),
    "blocks that act": arrays(lambda values: values.update(block=NASTY)),
    "reasons that act": lambda folder: edit(folder, "marks/*.json", lambda v: v.update(marks={"1": NASTY * 1000})),
}


@pytest.mark.parametrize("what", LIES)
def test_files_that_agree_on_a_lie(plain: Path, what: str) -> None:
    with restored(plain), little_room(), limited_time():
        LIES[what](plain)
        look(cache_of(plain))


@contextmanager
def limited_time(seconds: int = SECONDS) -> Iterator[None]:
    """An error that nothing catches for what does not end; not on Windows."""

    def stop(*_: object) -> None:
        raise Hang(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Hang(BaseException):
    """Nothing that is caught as a usual error."""


class TestCompressed:
    def test_a_chunk_of_any_size_is_not_taken_room_for(self, packed: Path) -> None:
        """Of zeros, some bytes of zstd can stand for as many as are asked for."""
        with restored(packed), little_room():
            edit(packed, "arrays/*/t90*.json", lambda values: values["features"]["shape"].__setitem__(1, 2**28))
            look(cache_of(packed))
            for path in packed.glob("arrays/*/t90*.json"):
                with pytest.raises(CacheError, match="a compressed chunk has at most"):
                    segment = Store.open(packed).segments[int(path.parent.name[-1])]
                    StoredArray.read(path, Setting.parse(path.stem.replace(".", "/")), segment)

    def test_blosc_is_not_given_less_than_it_reads(self, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It goes by the length that is written in a frame, and a shorter file would end the process."""
        import numcodecs.blosc

        given: list[int] = []
        monkeypatch.setattr(numcodecs.blosc, "decompress", lambda data, out: given.append(len(data)))
        for path in packed.glob("features.zarr/segment-00000/t90.b24.pool2/c.0.0.0.0"):
            before = path.read_bytes()
            all_rows(packed)
            assert given.pop(0) == len(before)
            try:
                for data in (b"", before[:8], before[:17], before[: len(before) // 2], before[:-1], before + b"x"):
                    path.write_bytes(data)
                    given.clear()
                    assert not allowed(partial(all_rows, packed))
                    assert not given
            finally:
                path.write_bytes(before)


# --- damage of raw files, in a process of its own ---------------------------------------------


def damage(format: str, compression: str | None, damages: int, seed: int) -> None:
    command = [sys.executable, "-m", "tests.test_hostile", "--format", format, "--damages", str(damages)]
    command += ["--seed", str(seed), *(["--compression", compression] if compression else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + 2 * damages, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
    assert f"{damages} damages" in done.stdout


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_damaged_raw_files(format: str, compression: str | None) -> None:
    """The libraries that read them are in C: what kills the process is seen too."""
    damage(format, compression, 8, random.SystemRandom().randrange(2**31))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_many_damaged_raw_files(format: str, compression: str | None) -> None:
    damage(format, compression, 600, 0)


def damage_file(draw: random.Random, path: Path) -> str:
    """Something that is done to a file, and what it was."""
    data, kinds = (
        bytearray(path.read_bytes()),
        ["bytes"] * 3 + ["word", "cut", "longer", "pipe", "folder", "link", "gone"],
    )
    kind = draw.choice([*kinds, *(["json"] * 6 if path.name == "zarr.json" else [])])
    at = draw.randrange(len(data) if draw.random() < 0.5 else min(len(data), 4000))
    if kind == "bytes":
        for place in (at, *(draw.randrange(len(data)) for _ in range(draw.choice([0, 0, 1, 7])))):
            data[place] = draw.choice([0, 255, data[place] ^ 1 << draw.randrange(8), draw.randrange(256)])
    elif kind == "word":
        data[at : at + 4] = draw.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\x10"])
    elif kind == "cut":
        del data[at:]
    elif kind == "longer":
        data += bytes(draw.choice([1, 5000]))
    elif kind == "json":
        data[:] = text_of(mutate(draw.choice, json.loads(data))).encode()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(draw.choice(["/dev/zero", "/etc/passwd", "nowhere", path.name, str(ROOT / "README.md")]))
    elif kind != "gone":
        path.write_bytes(data)
    return f"{kind} at {at}"


def replace_skeleton(skeleton: str, values: dict[str, Any]) -> None:
    values["skeleton"] = skeleton


def agree(store: Path) -> None:
    """Seal listings again with the skeletons that the files have now, so that only what reads them can object."""
    header, _ = values_of(store / "store.json")
    format_ = get_format(header["format"])
    for path in sorted(store.glob("segments/*.json")):
        segment = Segment.read(path)
        place = f"{format_.folder}/{segment_name(segment.number)}"

        def bones(files: list[str], *extents: Any, place: str = place) -> str:
            return skeleton(store / place, [store / file for file in files], extents, place=place)

        own = bones(format_.own_files(segment.number), segment.content_hash, segment.marked)
        edit(store, f"segments/{path.name}", partial(replace_skeleton, own))
        for name in sorted(store.glob(f"arrays/{path.stem}/*.json")):
            setting = Setting.parse(name.stem.replace(".", "/"))
            array = StoredArray.read(name, setting, segment)
            chunks = -(-array.features.shape[0] // array.features.chunk_rows)
            files = format_.array_files(setting, segment=segment.number, chunks=chunks)
            whole = bones(files, array.features, array.committed)
            edit(store, str(name.relative_to(store)), partial(replace_skeleton, whole))


def use_all(folder: Path, aside: Path) -> None:
    """What reads each row: exports and conversions."""
    for store in allowed(lambda: Store.open(folder)):
        assert isinstance(store, Store)
        for features in allowed(*(partial(open_features, store, setting) for setting in (LARGE, SMALL))):
            assert isinstance(features, Features)
            outs = (aside / "x.npy", aside / "x.safetensors")
            allowed(*(partial(export_features, features, out, replace=True) for out in outs))
        shutil.rmtree(aside / "converted", ignore_errors=True)
        other = "hdf5" if store.format == "zarr" else "zarr"
        allowed(partial(convert_store, store, aside / "converted", format=other))


def damage_all(folder: Path, format: str, compression: str | None, damages: int, seed: int) -> None:
    """Damage one raw file after another, and look at the store each time."""
    draw, store = random.Random(f"{seed} {format} {compression}"), build(folder, format, compression).path
    look(cache_of(store))
    use_all(store, folder)
    files = sorted(path for path in features_of(store).rglob("*") if path.is_file())
    with little_room():
        for number in range(damages):
            path = draw.choice(files)
            data, what = path.read_bytes(), damage_file(draw, path)
            print(f"{number}: {path.relative_to(store)}: {what}", flush=True)  # the last one is what killed us
            with restored(store), limited_time(60):
                if draw.random() < 0.6 and path.is_file() and not path.is_symlink():
                    allowed(lambda: agree(store))
                look(cache_of(store))
                use_all(store, folder)
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(data)
    print(f"{damages} damages")


def all_rows(store: Path) -> Any:
    return open_features(Store.open(store), LARGE)[:]


class TestLinks:
    def test_features_do_not_come_from_outside(self, plain: Path, packed: Path, tmp_path: Path) -> None:
        """The folder on the way to a file is a link, so that the file itself looks like one of the store's."""
        for number, store in enumerate((plain, packed)):
            for part in ("segment-00000", "segment-00000/t90.b24.pool2"):
                place = features_of(store) / part
                if not place.is_dir():
                    continue
                outside = tmp_path / str(number)
                place.rename(outside)
                place.symlink_to(outside)
                try:
                    assert not allowed(partial(all_rows, store))
                    assert verify_store(store, threads=1).status == "damaged"
                    assert part != "segment-00000" or not allowed(Store.open(store).samples)
                finally:
                    place.unlink()
                    outside.rename(place)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_nobody_waits_for_a_pipe(self, plain: Path, packed: Path, compressed: bool) -> None:
        """Which is what opening one does, in the place of any file."""
        store = packed if compressed else plain
        for path in [path for path in store.rglob("*") if path.is_file() and path.name != "lock"]:
            aside = path.rename(store.parent / "aside")
            os.mkfifo(path)
            try:
                with limited_time():
                    for opened in allowed(partial(Store.open, store)):
                        assert isinstance(opened, Store)
                        allowed(opened.samples, opened.content_hashes)
                        allowed(*(partial(getattr, opened, name) for name in ("marks", "receipts", "settings")))
                    allowed(partial(all_rows, store), partial(read_stamps, store, RowRange(0, 0, 1024)))
                    assert verify_store(store, threads=1).status == "damaged", path
            finally:
                path.unlink()
                aside.rename(path)

    def test_images_by_a_pipeline_file_only_by_choice(self, tmp_path: Path) -> None:
        from tests import tiny

        world = tiny.make(tmp_path / "world", train=4, test=2)
        outside = tmp_path / "secrets"
        outside.mkdir()
        (outside / "1.png").write_bytes(encoded(size=(24, 18)))
        small = ["--t", "5", "--b", "3", "--pool", "1"]
        for link, target in (("bark/2.png", outside / "1.png"), ("secrets", outside), ("bark/below", outside)):
            (world.train / link).unlink(missing_ok=True)
            (world.train / link).symlink_to(target)
            text = call("extract", world.file, *small, code=1)
            assert "a symbolic link out of the image folder" in text
            assert "follow_links" in text
            assert not list(tmp_path.rglob("store.json"))
            (world.train / link).unlink()
        (world.train / "bark/outside.png").symlink_to(outside / "1.png")
        world.file.write_text(world.file.read_text().replace("[backbone]", "train.follow_links = true\n[backbone]"))
        call("extract", world.file, *small, code=0)
        (store,) = open_cache(world.folder / "cache").find(split="train", backbone="tiny")
        assert "bark/outside.png" in store.samples().ids


# --- weights ----------------------------------------------------------------------------------


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["zip", "old", "named .safetensors"])
def test_code_in_weights_does_not_run_from_a_pipeline_file(tmp_path: Path, kind: str) -> None:
    import torch

    from tests import tiny

    world = tiny.make(tmp_path / "world", train=4, test=2)
    ran, path = tmp_path / "ran", tmp_path / ("w.safetensors" if "named" in kind else "w.pt")
    torch.save({"out.0.weight": Runs(ran)}, path, _use_new_zipfile_serialization=kind != "old")
    text = call("extract", world.file, "--weights", path, code=1)
    assert str(path) in text
    assert kind == "named .safetensors" or "are not loaded because they could run code" in text
    assert not ran.exists()


# --- images -----------------------------------------------------------------------------------


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A whole PNG file of zeros, grey, however large."""
    line, packer = bytes(1 + width), zlib.compressobj(9)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", head), *more, (b"IDAT", data), (b"IEND", b"")]
    parts = (len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bombs") / "set"
    (root / "a").mkdir(parents=True)
    text = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    (root / "a/0.png").write_bytes(encoded())
    (root / "a/1.png").write_bytes(png(11_000, 11_000))  # Pillow itself only warns
    (root / "a/2.png").write_bytes(png(60_000, 4_000))  # Pillow itself refuses
    (root / "a/3.png").write_bytes(png(8, 8, (b"zTXt", text)))
    assert all(path.stat().st_size < 400_000 for path in root.rglob("*.png"))
    return root


class TestBombs:
    """Files of some hundred kilobytes whose images, or texts, have far more."""

    def test_are_refused_or_harmless(self, bombs: Path) -> None:
        from diffcache.images import open_folder

        source = open_folder(bombs)
        source.load(0)
        with little_room(64 << 20), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row in (1, 2):
                with pytest.raises(ImageError, match=rf"a/{row}\.png.*(at most .* pixels|decompression bomb)"):
                    source.load(row)
            allowed(lambda: source.load(3))

    def test_are_marked_where_that_is_chosen(self, bombs: Path) -> None:
        from diffcache.images import load_batches, open_folder
        from diffcache.images.preprocess import Preprocessing

        source, how = open_folder(bombs), Preprocessing(image_size=8)
        with little_room(256 << 20), warnings.catch_warnings():  # a thread takes room of its own
            warnings.simplefilter("ignore")
            (batch,) = load_batches(source, how, [range(4)], threads=1, ahead=1, mark_unreadable=True)
        assert {1, 2} <= set(batch.unreadable) <= {1, 2, 3}
        assert not batch.pixels[1:3].any()
        assert batch.pixels[0].any()


# --- ids --------------------------------------------------------------------------------------

IDS = (
    *(
        "../../x",
        "../../../../../../../../tmp/x",
        "/etc/passwd",
        "~/x",
        "C:\\x",
        "a/../../b",
        ".",
        "..",
        "-rf",
        "x" * 3000,
    ),
    *(NASTY, "a\nb", "a\tb", "\x1b[2J\x1b[31m.png", "\u202egnp.exe", "\u2066x\u2069", "\ufeffx", "\x85", "\x7f"),
    *(
        '=cmd|" /C calc"!A0',
        "+1",
        "-2",
        "@x",
        "'=1",
        'a",b',
        "%s%n",
        "[bold]x[/]",
        ":smile:",
        "{0}",
        "<script>x</script>",
    ),
)
CLASSES = (NASTY, "=1+1")


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


class TestIds:
    @pytest.fixture
    def store(self, tmp_path: Path, format: str) -> Store:
        """Marked rows and hostile names in all places that take any text."""
        (tmp_path / "deep/er").mkdir(parents=True)
        table = Samples(IDS, np.arange(len(IDS)) % 2, CLASSES)
        _, store = create(tmp_path / "deep/er/cache", format, samples=table, backbone=NASTY)
        with store.writing() as writer:
            writer.mark({2: NASTY, 3: "=gone"})
        fill(store)
        return Store.open(store.path)

    def test_nothing_acts_on_a_terminal(self, store: Store, tmp_path: Path) -> None:
        root = cache_of(store.path)
        odd = root / "\x1b[31m\u202e" / "\x9b2J" / store.path.name  # a folder that nobody's names are checked of
        shutil.copytree(store.path, odd)
        cache = ("--cache", root)
        commands: list[tuple[object, ...]] = [("ls",), ("ls", odd), ("info",), ("verify",), ("verify", odd), ("gc",)]
        for command in commands:
            assert call(*command, *cache)
        write_run(tmp_path / "runs", LARGE, train=store, test=store, name="linear-\x1b[31m", backbone=NASTY)
        for what in ((), ("linear",), (odd,)):
            assert call("ls", *what, *cache, "--runs", tmp_path / "runs")
        key = f"toys/train/{store.fingerprint[:16]}"
        call("verify", key, *cache, code=0)
        call("diff", key, odd, *cache)
        call("rm", odd, "--yes", *cache, "--runs", tmp_path / "runs")
        call("export", key, LARGE, tmp_path / "x.npy", *cache, code=0)
        call("convert", key, "--to", tmp_path / "other", *cache, code=0)
        (store.path / "store.json").write_bytes(NASTY.encode())
        for command in (("ls",), ("info",), ("verify",), ("ls", NASTY), ("export", key, NASTY, "x.npy")):
            assert call(*command, *cache)

    def test_no_repr_acts_on_a_terminal(self, store: Store) -> None:
        features = open_features(store, LARGE)
        for text in (repr(store), repr(features), store._repr_html_(), features._repr_html_()):
            assert text.isprintable()
            assert "<script" not in text

    def test_exports_write_where_they_are_told(self, store: Store, tmp_path: Path) -> None:
        out = tmp_path / "deep/er/out"
        out.mkdir()
        features = open_features(store, LARGE)
        before = below(tmp_path)
        written = {
            file for end in (".npy", ".safetensors", ".parquet") for file in export_features(features, out / f"x{end}")
        }
        assert below(tmp_path) - before == written
        with (out / "x.samples.csv").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        assert len(table) == len(IDS)
        for row in table:
            for cell in (row["id"], row["class"], row["marked"]):
                assert cell.isprintable()
                assert not cell.startswith(("=", "+", "-", "@"))
        assert len((out / "x.samples.csv").read_bytes().splitlines()) == len(IDS) + 1

    def test_runs_write_where_they_are_told(self, store: Store, tmp_path: Path) -> None:
        from diffcache.config import head_config
        from diffcache.heads import load_run, train_head

        _, test = create(cache_of(store.path), store.format, samples=store.samples(), split="test", backbone=NASTY)
        fill(test)
        before, runs = below(tmp_path), tmp_path / "deep/er/runs"
        train, tested = (open_features(one, LARGE) for one in (store, test))
        run = train_head(train, tested, head_config("linear", {"epochs": 1}), runs=runs, validation=0.3)
        new = below(tmp_path) - before
        assert all(path.resolve().is_relative_to(runs) for path in new)
        assert run.path in new
        assert load_run(run.path).predictions().ids.tolist() == list(IDS)
        call("ls", run.id, "--cache", cache_of(store.path), "--runs", runs, code=0)

    @pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "", "x\n", "a\0", "\u202e"])
    def test_names_of_image_sets_are_no_paths(self, tmp_path: Path, name: str) -> None:
        for what in ("images", "split"):
            with pytest.raises(CacheError, match=f"{what}: expected letters"):
                create(tmp_path / "cache", "zarr", rows=3, **{what: name})
        assert not list((tmp_path / "cache").glob("**/store.json"))

    def test_one_long_id_among_many_takes_no_room_for_all(self, tmp_path: Path) -> None:
        """Predictions hold ids in an array of one width: it would be 28 GB."""
        from diffcache.config import head_config
        from diffcache.heads import train_head

        rows, long = 3500, "x" * 2_000_000
        table = Samples([long, *map(str, range(1, rows))], np.arange(rows) % 2, ("a", "b"))
        for split in ("train", "test"):
            fill(create(tmp_path / "cache", "zarr", samples=table, split=split)[1], [SMALL])
        train, test = (
            open_cache(tmp_path / "cache").features(images="toys", split=split, setting=SMALL)
            for split in ("train", "test")
        )
        with little_room(), pytest.raises(HeadError, match=r"3,500 .*ids.* 2,000,000 characters"):
            train_head(train, test, head_config("linear", {"epochs": 1}), runs=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()


# --- runs and imports -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    _, store = create(root / "cache", "zarr", rows=10)
    fill(store)
    return write_run(root / "runs", LARGE, train=store, test=store, name="linear-a")


class TestRuns:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_record_works_or_is_an_error_of_ours(self, made: Path, data: st.DataObject) -> None:
        from diffcache.heads import best_run, find_runs
        from diffcache.heads.runs.uses import read_runs

        path = made / "run.json"
        before = path.read_bytes()
        try:
            values = mutate(lambda some: data.draw(st.sampled_from(some)), json.loads(before))
            path.write_text(text_of(values))
            runs, damaged = read_runs(made.parents[1])
            assert len(runs) + len(damaged) == 1
            for run in runs:
                assert all(isinstance(name, str) for name in run.class_names)
                assert (run.config, run.shape, run.seconds, run.best_epoch) != ()
                with suppress(KeyError):  # validation, which made-up runs lack
                    best_run([run])
            allowed(lambda: find_runs(made.parents[1]))
            for what in ((), ("linear",)):
                call("ls", *what, "--cache", made.parents[2] / "cache", "--runs", made.parents[1])
        finally:
            path.write_bytes(before)

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04K\x01.", b"x" * 1000])
    def test_damaged_predictions(self, made: Path, data: bytes) -> None:
        from diffcache.heads import load_run

        (made / "predictions.npz").write_bytes(data)
        with pytest.raises(HeadError, match=r"predictions\.npz: damaged") as caught:
            load_run(made).predictions()
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("imports")
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.save(folder / "f.npy", values)
    save_file({"a": values}, folder / "f.safetensors")
    np.save(folder / "l.npy", np.arange(6))
    np.save(folder / "i.npy", np.array([f"x{i}" for i in range(6)]))
    (folder / "l.txt").write_text("a\nb\na\nb\na\nc\n")
    (folder / "i.txt").write_text("é1\n2\n3\n4\n5\n6\n", encoding="utf-8")
    return folder


class TestImports:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        which=st.sampled_from(["f.npy", "f.safetensors", "l.npy", "i.npy", "l.txt", "i.txt"]),
        changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), min_size=1, max_size=3),
        cut=st.none() | st.integers(0, 300),
    )
    def test_damaged_files(self, scratch: Path, which: str, changes: list[tuple[int, bytes]], cut: int | None) -> None:
        before = (scratch / which).read_bytes()
        data = bytearray(before)
        for at, new in changes:
            data[at % len(data) : at % len(data) + len(new)] = new
        try:
            (scratch / which).write_bytes(data[:cut])
            features = scratch / (which if which.startswith("f") else "f.npy")
            labels, ids = (scratch / (which if which.startswith(one) else f"{one}.txt") for one in "li")
            with little_room():
                for store in allowed(lambda: import_features(
                    features, scratch / "cache", images="a", split="b", name="c", labels=labels, ids=ids
                )):  # fmt: skip
                    assert store.samples().ids  # type: ignore[attr-defined]
        finally:
            (scratch / which).write_bytes(before)
            shutil.rmtree(scratch / "cache", ignore_errors=True)

    @pytest.mark.parametrize(
        ("which", "data"),
        [
            ("i.npy", np.array([0x110000 + i for i in range(6)], "<u4").tobytes()),  # texts of no Unicode
            ("i.npy", np.array([0xD800 + i for i in range(6)], "<u4").tobytes()),  # halves of pairs
            ("l.npy", np.array([2**63 + i for i in range(6)], "<u8").tobytes()),
        ],
    )
    def test_values_that_numpy_takes(self, scratch: Path, tmp_path: Path, which: str, data: bytes) -> None:
        kind = "<U1" if which == "i.npy" else "<u8"
        np.save(tmp_path / which, np.frombuffer(data, kind))
        labels, ids = (tmp_path / which if which.startswith(one) else scratch / f"{one}.txt" for one in "li")
        with pytest.raises(DiffcacheError):
            import_features(
                scratch / "f.npy", tmp_path / "cache", images="a", split="b", name="c", labels=labels, ids=ids
            )
        assert not list(tmp_path.rglob("store.json"))

    @pytest.mark.parametrize("shape", ["(1000000000000, 4)", "(6, 4, 9999999, 9999999)"])
    def test_a_header_of_more_than_there_is(self, scratch: Path, tmp_path: Path, shape: str) -> None:
        """Of labels and ids too, which are not mapped but read."""
        for which, kind in (("f.npy", "<f4"), ("l.npy", "<i8"), ("i.npy", "<U1000")):
            head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            path = tmp_path / which
            path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(96))
            given = {one: path if which.startswith(one) else scratch / f"{one}.npy" for one in "fli"}
            with little_room(), pytest.raises(DiffcacheError):
                import_features(
                    given["f"], tmp_path / "cache", images="a", split="b", name="c", labels=given["l"], ids=given["i"]
                )
        assert not list(tmp_path.rglob("store.json"))


def script() -> None:
    """The damages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--format", choices=("zarr", "hdf5"), required=True)
    parser.add_argument("--compression", choices=("zstd",))
    parser.add_argument("--damages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diffcache-hostile-") as folder:
        damage_all(Path(folder), options.format, options.compression, options.damages, options.seed)


if __name__ == "__main__":
    script()

"""Smaller pools served from stored larger ones."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import diffcache
from diffcache.cache import Cache, Features, Store, derived, layout
from diffcache.cache.derived import DerivedFeatures, average, open_features
from diffcache.errors import NotCachedError
from diffcache.setting import Setting
from tests.cache.toy import create, fill, hashes, recipe, samples

ROWS = 1300
WHOLE, FOUR, THREE, WIDE = Setting(5, 2, 0), Setting(5, 2, 4), Setting(5, 2, 3), Setting(7, 2, 0)
SHAPES = {WHOLE: (3, 12, 12), FOUR: (3, 4, 4), THREE: (3, 3, 3), WIDE: (3, 4, 8)}


def maps(setting: Setting, rows: int = ROWS, *, first: int = 0, dtype: str = "float16") -> np.ndarray[Any, Any]:
    """Values in sixteenths, so that sums of them in float32 are exact in any order."""
    shape = SHAPES[setting]
    size = int(np.prod(shape))
    grid = (np.arange(first, first + rows)[:, None] * 31 + np.arange(size)[None] * 7 + setting.pool) % 503
    return (grid / 16).reshape(rows, *shape).astype(dtype)


def write(store: Store, settings: list[Setting], *, leave: int = 0) -> None:
    with store.writing() as writer:
        writer.add_arrays({setting: SHAPES[setting] for setting in settings}, block_names={2: "input_blocks.1"})
        for setting in settings:
            missing = store.missing([setting])[setting]
            for rows in missing[: len(missing) - leave]:
                start = store.segments[rows.segment].first_row + rows.start
                with writer.begin(rows, [setting]) as part:
                    part.write(setting, rows.start, maps(setting, rows.rows, first=start, dtype=store.recipe.dtype))
                    part.commit(hashes(rows.rows, first=start))


def expected(setting: Setting, pool: int, rows: int = ROWS, dtype: str = "float16") -> np.ndarray[Any, Any]:
    whole = maps(setting, rows, dtype=dtype).astype(np.float32)
    side = whole.shape[2] // pool
    cells = whole.reshape(rows, 3, pool, side, pool, side)
    return cells.mean(axis=(3, 5), dtype=np.float32).astype(dtype)


def on_disk(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, and several pieces a gather."""
    monkeypatch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
    monkeypatch.setattr(derived, "_PIECE_BYTES", 10_000)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def world(format: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Store]:
    """A complete store of two segments; not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
        cache, store = create(tmp_path_factory.mktemp("derived"), format, samples=samples(1000))
        write(store, [WHOLE, FOUR, THREE, WIDE])
        with store.writing() as writer:
            writer.mark({3: "truncated file"})
            writer.add_segment(samples(300, first=1000))
        write(store, [WHOLE, FOUR, THREE, WIDE])
        return cache, store


def get(cache: Cache, setting: str, **more: Any) -> Features:
    return cache.features(images="toys", split="train", setting=setting, **more)


@pytest.mark.parametrize(
    ("wanted", "stored"), [(1, THREE), (2, FOUR), (6, WHOLE), (12, WHOLE)], ids=["1", "2", "6", "12"]
)
def test_equals_the_mean_and_the_store_stays_as_it_is(world: tuple[Cache, Store], wanted: int, stored: Setting) -> None:
    cache, store = world
    before = on_disk(cache.root)
    features = get(cache, f"t5/b2/pool{wanted}")
    assert features.derived_from == stored == store.derivable(Setting(5, 2, wanted))
    assert features.shape == (ROWS, 3, wanted, wanted)
    values = expected(stored, wanted)
    assert features[:].tobytes() == values.tobytes()
    assert features.dtype == features[:].dtype == np.float16
    assert features.nbytes == values.nbytes
    assert on_disk(cache.root) == before
    assert Setting(5, 2, wanted) not in Store.open(store.path).settings


def test_the_smallest_complete_one_that_fits(tmp_path: Path, format: str) -> None:
    _, store = create(tmp_path, format, samples=samples(ROWS))
    one = Setting(5, 2, 1)
    assert store.derivable(one) is None
    write(store, [WHOLE])
    assert store.derivable(one) == WHOLE
    write(store, [FOUR], leave=1)
    assert store.derivable(one) == WHOLE  # pool 4 lacks rows
    write(store, [FOUR])
    assert store.derivable(one) == FOUR
    assert store.derivable(Setting(5, 2, 5)) is None
    assert store.derivable(Setting(5, 2, 8)) is None
    assert store.derivable(Setting(5, 3, 1)) is None
    assert store.derivable(Setting(6, 2, 1)) is None
    assert store.derivable(Setting(5, 2, 1, 1)) is None
    assert store.derivable(Setting(5, 2, 0)) is None
    assert store.derivable(FOUR) is None  # it is there itself
    write(store, [WIDE])
    assert store.derivable(Setting(7, 2, 1)) is None  # not square
    with store.writing() as writer:
        writer.add_arrays({one: (3, 1, 1)})
    assert store.derivable(one) is None  # begun, so it is to be computed
    with pytest.raises(NotCachedError, match=f"lacks {ROWS} of {ROWS} rows"):
        open_features(store, one)


def test_opening_gives_what_is_stored_where_it_is(world: tuple[Cache, Store]) -> None:
    _, store = world
    stored = open_features(store, FOUR)
    assert type(stored) is Features
    assert stored.derived_from is None
    assert type(open_features(store, Setting(5, 2, 2))) is DerivedFeatures
    with pytest.raises(NotCachedError, match="t5/b2/pool5 is not cached"):
        open_features(store, Setting(5, 2, 5))


def test_it_is_used_as_stored_features_are(world: tuple[Cache, Store]) -> None:
    cache, store = world
    features, values = get(cache, "t5/b2/pool2"), expected(FOUR, 2)
    for index in (0, -1, 999, np.int32(1000), slice(990, 1010), slice(None, None, -300), [5, 1200, 5, -2], []):
        got, wanted = features[index], values[index]
        assert got.shape == wanted.shape
        assert got.tobytes() == wanted.tobytes()
    out = np.empty((2, 3, 2, 2), np.float16)
    assert features.gather(np.array([1299, 4]), out=out) is out
    assert out.tobytes() == values[[1299, 4]].tobytes()
    for bad in (ROWS, [0, 10**6], (slice(None), 0), True):
        with pytest.raises(IndexError):
            features[bad]
    with pytest.raises(ValueError, match="out: expected"):
        features.gather([1], out=out)
    assert features.ids == store.samples().ids
    assert (features.labels == store.samples().labels).all()
    assert (features.images, features.split, features.fingerprint) == ("toys", "train", store.fingerprint)
    assert (features.recipe, features.class_names) == (store.recipe, store.class_names)
    assert (features.setting, features.block) == (Setting(5, 2, 2), "input_blocks.1")
    assert features.marks == {3: "truncated file"}
    assert np.flatnonzero(features.marked).tolist() == [3]
    assert features.committed.all()
    assert features.chunk_rows == open_features(store, FOUR).chunk_rows
    assert len(features) == ROWS
    assert features.blocks == []
    assert repr(features).startswith("DerivedFeatures(toys/train t5/b2/pool2, 1300 x 3 x 2 x 2 float16")
    assert "derived from t5/b2/pool4" in repr(features)

    again = pickle.loads(pickle.dumps(features))
    assert (again.setting, again.derived_from) == (features.setting, FOUR)
    assert again[:].tobytes() == values.tobytes()


def test_dask_and_torch(world: tuple[Cache, Store]) -> None:
    cache, store = world
    features, values = get(cache, "t5/b2/pool2"), expected(FOUR, 2)
    array = features.dask()
    assert array.shape == values.shape
    assert array.compute(scheduler="synchronous").tobytes() == values.tobytes()
    # Another stored pool gives other last bits, so dask must not take one for the other.
    other = DerivedFeatures(store, features.setting, stored=WHOLE)
    assert other.dask().name != array.name
    dataset = pickle.loads(pickle.dumps(features.torch_dataset()))
    value, label = dataset[1234]
    assert value.numpy().tobytes() == values[1234].tobytes()
    assert label == features.labels[1234]
    assert [value.numpy().tobytes() for value, _ in dataset.__getitems__([7, 1])] == [
        values[7].tobytes(),
        values[1].tobytes(),
    ]


def test_memory_does_not_grow_with_the_rows(world: tuple[Cache, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def watched(maps: Any, factor: int) -> Any:
        sizes.append(maps.nbytes)
        return average(maps, factor)

    monkeypatch.setattr(derived, "average", watched)
    get(world[0], "t5/b2/pool2").gather(np.arange(ROWS))
    assert len(sizes) > 10
    assert max(sizes) <= 10_000


def test_what_cannot_be_derived(world: tuple[Cache, Store]) -> None:
    _, store = world
    for setting, stored in [("t5/b2/pool3", FOUR), ("t6/b2/pool2", FOUR), ("t7/b2/pool1", WIDE), ("t5/b2/pool0", FOUR)]:
        with pytest.raises(NotCachedError, match=f"{setting} cannot be derived from {stored}.*it has t5/b2/pool0"):
            DerivedFeatures(store, Setting.parse(setting), stored=stored)


def test_several_stores_that_it_can_be_derived_from(tmp_path: Path, format: str) -> None:
    cache, store = create(tmp_path, format, samples=samples(ROWS))
    _, second = create(tmp_path, format, samples=samples(ROWS), recipe=recipe(seed=1), backbone="toy-9")
    write(store, [FOUR]), write(second, [WHOLE])
    with pytest.raises(NotCachedError, match=r"2 stores have .*toy-[89].*seed"):
        get(cache, "t5/b2/pool2")
    assert get(cache, "t5/b2/pool2", backbone="toy-9").derived_from == WHOLE
    assert get(cache, "t5/b2/pool4").derived_from is None  # one store has it; the other does not count
    assert get(cache, "t5/b2/pool6").store.path == second.path
    with pytest.raises(NotCachedError, match="t5/b2/pool5 is not cached"):
        get(cache, "t5/b2/pool5")


def test_float32(tmp_path: Path, format: str) -> None:
    cache, store = create(tmp_path, format, samples=samples(ROWS), recipe=recipe(dtype="float32"))
    write(store, [FOUR])
    features = get(cache, "t5/b2/pool1")
    assert features.dtype == np.float32
    assert features[:].tobytes() == expected(FOUR, 1, dtype="float32").tobytes()


@given(
    hnp.arrays(np.float16, (5, 2, 6, 12), elements=st.floats(-60_000, 60_000, width=16)),
    st.sampled_from([1, 2, 3, 6]),
)
@hypothesis_settings(deadline=None)
def test_average_against_numpy(maps: np.ndarray[Any, Any], factor: int) -> None:
    got = average(maps, factor)
    assert got.dtype == np.float32
    cells = maps.astype(np.float64).reshape(5, 2, 6 // factor, factor, 12 // factor, factor)
    np.testing.assert_allclose(got, cells.mean(axis=(3, 5)), rtol=0, atol=60_000 * 36 * 2**-24)
    # A row's bytes do not depend on the rows beside it.
    assert got[2:3].tobytes() == average(maps[2:3], factor).tobytes()


def test_asking_needs_no_library(tmp_path: Path, format: str) -> None:
    _, store = create(tmp_path, format, samples=samples(ROWS))
    write(store, [WHOLE, FOUR])
    code = """
        import sys
        from diffcache.cache import Store
        from diffcache.cache.derived import open_features
        from diffcache.setting import Setting
        store = Store.open(sys.argv[1])
        assert str(store.derivable(Setting(5, 2, 2))) == "t5/b2/pool4"
        assert str(store.derivable(Setting(5, 2, 6))) == "t5/b2/pool0"
        open_features(store, Setting(5, 2, 2))[:10]
        print(sorted({"torch", "zarr", "h5py", "dask"} & set(sys.modules)))
    """
    root = Path(diffcache.__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(code), str(store.path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_stored_smaller_pool_is_served_as_it_was_computed(tmp_path: Path, format: str) -> None:
    cache, store = create(tmp_path, format)
    fill(store)
    assert get(cache, "t90/b24/pool1").derived_from is None

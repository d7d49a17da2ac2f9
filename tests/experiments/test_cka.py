"""``cka``: its table, matrix and picture against a direct computation, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import shutil

import numpy as np
import pytest

from diffcache.analysis import cka as analysis
from diffcache.cache import open_cache
from diffcache.cache.derived import open_features
from diffcache.config import load_pipeline
from diffcache.errors import CacheError
from diffcache.experiments.report.gather import gather
from diffcache.experiments.results import read_result
from diffcache.setting import Setting
from tests import command, tiny

GRID = [Setting(t, b, pool) for t in (5, 100) for b in (3, 4) for pool in (1, 4)]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A tiny experiment with all its features; tests copy it."""
    world = tiny.make(tmp_path_factory.mktemp("extracted") / "world")
    world.file.write_text(world.file.read_text().replace("[images]", 'results = "found"\n[images]', 1))
    status, _, err = command.run("extract", world.file)
    assert status == 0, err
    return world


@pytest.fixture
def here(extracted, tmp_path):
    """A copy of it."""
    shutil.copytree(extracted.folder, tmp_path / "world")
    return tiny.Tiny(*(tmp_path / "world" / path.relative_to(extracted.folder) for path in vars(extracted).values()))


def other_network(here, name="other", **replaced):
    """A pipeline like it whose network has other weights, and a name and a cache of its own."""
    tiny.write_weights(here.card, here.folder / "other.safetensors", seed=7)
    changes = {
        'name = "tiny"': f'name = "{name}"',
        'cache = "cache"': 'cache = "other"',
        'weights = "tiny.safetensors"': 'weights = "other.safetensors"',
        "b = [3, 4]": "b = [2, 3]",
        "pool = [1, 4]": "pool = [2]",
        **replaced,
    }
    text = here.file.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    file = here.folder / f"{name}.toml"
    file.write_text(text)
    return file


def values(folder, setting, *, split="test", ids=None):
    """Features as float64 (rows, values), in the order of some ids."""
    store = next(
        store
        for store in open_cache(folder).find(images="textures", split=split)
        if store.backbone != "pixels" and store.serves(setting)
    )
    features = open_features(store, setting)
    rows = range(len(features)) if ids is None else [features.ids.index(id_) for id_ in ids]
    return np.stack([features[row].reshape(-1).astype(np.float64) for row in rows])


def direct(x, y):
    """By the definition."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.square(x.T @ y).sum() / np.sqrt(np.square(x.T @ x).sum() * np.square(y.T @ y).sum())


def unbiased(x, y):
    """By the estimate of one batch of all rows (Song et al. 2012, equation 5)."""

    def hsic(k, m):
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        crossed = k.sum(axis=0) @ m.sum(axis=0)
        return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def matrix(file):
    """Corner, names of the rows and of the columns, and the numbers."""
    with file.open(newline="") as opened:
        (corner, *columns), *rows = csv.reader(opened)
    return corner, [row[0] for row in rows], columns, np.array([[float(cell or "nan") for cell in r[1:]] for r in rows])


def test_the_grid_of_a_pipeline(here, diffcache):
    here.weights.unlink()  # nothing is extracted again
    status, out, err = diffcache("cka", here.file)
    assert status == 0, err
    assert "passes" not in err and "8 settings found in" in err
    found = here.folder / "found/tiny"
    corner, rows, columns, numbers = matrix(found / "cka_matrix.csv")
    assert (corner, rows, columns) == ("tiny", [str(s) for s in GRID], [str(s) for s in GRID])
    seen = [values(here.folder / "cache", setting) for setting in GRID]
    np.testing.assert_allclose(numbers, [[direct(x, y) for y in seen] for x in seen], atol=1e-4)
    assert (np.diag(numbers) == 1).all()

    result = read_result(found / "cka.json")
    assert result.columns == (
        *(f"{name}_a" for name in ("network", "t", "b", "block", "pool")),
        *(f"{name}_b" for name in ("network", "t", "b", "block", "pool")),
        "cka",
    )
    pairs = list(itertools.combinations(range(len(GRID)), 2))
    for row, (i, j) in zip(result.rows, pairs, strict=True):
        assert [Setting(row[f"t_{s}"], row[f"b_{s}"], row[f"pool_{s}"]) for s in "ab"] == [GRID[i], GRID[j]]
        assert row["cka"] == numbers[i, j]
    assert {row["block_a"] for row in result.rows} == {"input_blocks.2", "input_blocks.3"}
    best, worst = (pick(pairs, key=lambda pair: numbers[pair]) for pick in (max, min))
    most, least = (f"{GRID[i]} and {GRID[j]}" for i, j in (best, worst))
    assert result.findings[0] == (
        f"most alike are {most} (CKA {numbers[best]:.3f}), least alike {least} ({numbers[worst]:.3f})"
    )
    near = [numbers[i, j] for i, j in pairs if (GRID[i].t, GRID[i].pool) == (GRID[j].t, GRID[j].pool)]
    across = [numbers[i, j] for i, j in pairs if (GRID[i].b, GRID[i].pool) == (GRID[j].b, GRID[j].pool)]
    assert f"neighbouring blocks at one t and pool: CKA {np.mean(near):.3f} on average of 4 pairs" in result.findings
    assert any(f"at two time steps: CKA {np.mean(across):.3f} on average" in said for said in result.findings)
    assert "--method minibatch" in result.findings[-1]  # 18 images of 512 values
    assert result.command == f"diffcache cka {here.file}"
    assert result.facts["rows"] == 18
    assert (found / "cka.png").read_bytes().startswith(b"\x89PNG") and (found / "cka.svg").is_file()
    assert "6 most and the 6 least alike of 28 pairs" in out and "cka_matrix.csv" in out and "network" not in out


def test_the_same_bytes_again_and_on_the_report(here, diffcache):
    found = here.folder / "found/tiny"
    assert diffcache("cka", here.file)[0] == 0
    first = {path.name: path.read_bytes() for path in found.iterdir()}
    assert sorted(first) == ["cka.csv", "cka.json", "cka.png", "cka.svg", "cka_matrix.csv"]
    shutil.rmtree(found)
    assert diffcache("cka", here.file)[0] == 0
    assert {path.name: path.read_bytes() for path in found.iterdir()} == first
    (part,) = gather(load_pipeline(here.file), file="x", anchor="s0").parts
    assert (part.heading, [name for name, _ in part.figures]) == ("How alike the blocks are", ["cka"])


def test_settings_split_and_the_estimate(here, diffcache):
    pattern = "t5,100/b3/pool1, t100/b4/pool2"  # pool 2 is derived from pool 4
    status, _, err = diffcache(
        *("cka", here.file, "--setting", pattern, "--split", "train", "--method", "minibatch", "--batch", "64")
    )
    assert status == 0, err
    found = here.folder / "found/tiny"
    _, rows, _, numbers = matrix(found / "cka_matrix.csv")
    assert rows == ["t5/b3/pool1", "t100/b3/pool1", "t100/b4/pool2"]
    seen = [values(here.folder / "cache", Setting.parse(row), split="train") for row in rows]
    np.testing.assert_allclose(numbers, [[unbiased(x, y) for y in seen] for x in seen], atol=1e-3)
    result = read_result(found / "cka.json")
    assert "of 42 train images (unbiased, batches of about 42)" in result.title
    assert "--setting t5,100/b3/pool1,t100/b4/pool2 --split train --method minibatch" in result.command
    assert not any("too high" in said for said in result.findings)


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_what_is_missing_is_extracted_and_images_are_matched_by_id(tmp_path, diffcache, format):
    """Another network, in another format, that saw an image later than the others, so its rows are in another order."""
    world = tiny.make(tmp_path / "world", train=4, test=4)
    file = other_network(world, **{"[heads]": f'format = "{format}"\n[heads]'})
    late = world.folder / "images/test/bark/000.png"
    kept = late.read_bytes()
    late.unlink()
    assert diffcache("extract", file)[0] == 0
    late.write_bytes(kept)
    status, _, err = diffcache(
        "cka", world.file, file, "--setting", "t5/b3,4/pool1", "--other-setting", "t100/b2/pool2"
    )
    assert status == 0, err
    assert "extract textures/test" in err
    corner, rows, columns, numbers = matrix(tmp_path / "results/tiny/cka_networks_matrix.csv")
    assert corner == "tiny (tiny) / tiny (other)"
    assert (rows, columns) == (["t5/b3/pool1", "t5/b4/pool1"], ["t100/b2/pool2"])
    (store,) = open_cache(world.folder / "cache").find(images="textures", split="test", backbone="tiny")
    (others,) = open_cache(world.folder / "other").find(images="textures", split="test", backbone="tiny")
    assert others.format == format
    ids = open_features(store, GRID[0]).ids
    assert ids != open_features(others, Setting(100, 2, 2)).ids
    x = values(world.folder / "other", Setting(100, 2, 2), ids=ids)
    expected = [[direct(values(world.folder / "cache", Setting.parse(row)), x)] for row in rows]
    np.testing.assert_allclose(numbers, expected, atol=1e-4)
    result = read_result(tmp_path / "results/tiny/cka_networks.json")
    assert [(row["network_a"], row["network_b"]) for row in result.rows] == [("tiny (tiny)", "tiny (other)")] * 2
    assert result.findings[0].startswith("most alike are tiny (tiny) t5/b") and result.figures == ("cka_networks",)


def test_features_made_elsewhere(here, diffcache, tmp_path):
    """One setting each is enough where there are two networks; the ids are those of the images."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        (store,) = open_cache(here.folder / "cache").find(images="textures", split=split, backbone="tiny")
        features = open_features(store, GRID[0])
        np.save(tmp_path / "f.npy", random.standard_normal((len(features), 5)).astype(np.float32))
        np.save(tmp_path / "l.npy", features.labels)
        (tmp_path / "ids.txt").write_text("".join(f"{id_}\n" for id_ in features.ids))
        status, _, err = diffcache(
            *("import", tmp_path / "f.npy", "--labels", tmp_path / "l.npy", "--ids", tmp_path / "ids.txt"),
            *("--images", "textures", "--split", split, "--name", "mine", "--class-names", ",".join(tiny.CLASSES)),
            *("--cache", here.folder / "cache", "--dtype", "float32"),
        )
        assert status == 0, err
    file = here.folder / "mine.toml"
    file.write_text(
        'cache = "cache"\n[images]\nname = "textures"\n[backbone]\nimported = "mine"\n[extract]\ndtype = "float32"\n'
    )
    status, _, err = diffcache("cka", here.file, file, "--setting", "t5/b3/pool1")
    assert status == 0, err
    corner, rows, columns, numbers = matrix(here.folder / "found/tiny/cka_networks_matrix.csv")
    assert (corner, rows, columns) == ("tiny / mine", ["t5/b3/pool1"], ["t-/b1/pool0"])
    mine = np.load(tmp_path / "f.npy").astype(np.float64)
    assert numbers[0, 0] == pytest.approx(direct(values(here.folder / "cache", GRID[0]), mine), abs=1e-4)


def test_marked_rows_and_features_that_do_not_vary(here, diffcache):
    (store,) = open_cache(here.folder / "cache").find(images="textures", split="test", backbone="tiny")
    with store.writing() as writer:
        writer.mark({2: "no picture"})
    spoil(here, GRID[2], 0.5)
    status, _, err = diffcache("cka", here.file, "--setting", "t5/b3,4/pool1")
    assert status == 0, err
    result = read_result(here.folder / "found/tiny/cka.json")
    assert result.facts["rows"] == 17
    assert [row["cka"] for row in result.rows] == [None]
    assert result.findings[0] == "1 of 1 pairs have no CKA: features of one do not vary"
    assert (here.folder / "found/tiny/cka_matrix.csv").read_text().endswith("\nt5/b4/pool1,,\n")


def spoil(here, setting, value):
    """Write a value over all test features of a setting, behind the store's back."""
    (store,) = open_cache(here.folder / "cache").find(images="textures", split="test", backbone="tiny")
    features = store.array(setting, segment=0).features
    for file, offset, first, end in features.pieces(0, features.shape[0]):
        with (store.path / file).open("r+b") as opened:
            opened.seek(offset)
            opened.write(np.full((end - first, *features.shape[1:]), value, features.type).tobytes())


def test_without_matplotlib_the_tables_are_written(here, diffcache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = diffcache("cka", here.file)
    assert status == 0, err
    assert err.count("pip install 'diffcache[plots]'") == 1
    assert sorted(p.name for p in (here.folder / "found/tiny").iterdir()) == ["cka.csv", "cka.json", "cka_matrix.csv"]


class TestRefuses:
    """One line each, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_written(self, here):
        yield
        assert not (here.folder / "found").exists()

    def test_one_setting_alone(self, here, fails):
        fails(
            "at least two settings to compare, got t5/b3/pool1; name more", "cka", here.file, "--setting", "t5/b3/pool1"
        )
        fails("at least two", "cka", here.file, "--setting", "t5/b3/pool1,t5/b3/pool1")

    def test_settings_that_are_none(self, here, fails):
        fails("setting 't5/b3': expected t<step>", "cka", here.file, "--setting", "t5/b3")
        fails("t5/b3/pool1/draw1: expected draw 0", "cka", here.file, "--setting", "t5/b3,4/pool1/draw1")
        fails("block|b = 99|b=99", "cka", here.file, "--setting", "t5/b3,99/pool1")

    def test_options_that_do_not_go_together(self, here, fails):
        fails("--batch is for --method minibatch, got --method exact", "cka", here.file, "--batch", "64")
        fails("name its pipeline", "cka", here.file, "--other-setting", "t5/b3/pool1")
        fails("--recipe: expected 1, one for each pipeline, got 2", "cka", here.file, "--recipe", "ab,cd")
        fails("cache", "cka", here.file, "--recipe", "0000")

    def test_other_images(self, here, fails):
        file = other_network(here, **{"images/test": "images/few"})
        shutil.copytree(here.folder / "images/test", here.folder / "images/few")
        for path in (here.folder / "images/few/bark").iterdir():
            path.rename(path.with_name(f"x{path.name}"))
        fails(
            r"got 18 of textures/test \(recipe \w{16}\) and 18 of textures/test \(.*\), which share 12 ids; bring both",
            *("cka", here.file, file),
        )

    def test_features_that_are_not_finite(self, here, fails):
        spoil(here, GRID[2], np.nan)
        for options in ((), ("--method", "minibatch")):
            fails("t5/b4/pool1.*: expected finite features", "cka", here.file, *options)


def test_ids_that_are_numbers_say_little(here):
    """Two sets of numbered images have the same ids, and other content."""
    from diffcache.experiments.compared import Seen, beside
    from tests.analysis.test_cka import Toy, some

    def seen(content):
        return Seen("net", "a/test", "0" * 64, (GRID[0],), (Toy(some(9, (4, 1, 1))),), {3: ""}, lambda: content)

    content = np.arange(9 * 32, dtype=np.uint8).reshape(9, 32)
    assert beside(seen(content), seen(content)).features
    with pytest.raises(
        CacheError, match="9 of 9 images of a/test have other content in a/test: their ids are only num"
    ):
        beside(seen(content), seen(content + 1))


def test_wide_features_take_no_more_memory(monkeypatch):
    """Parts that are worked on at once share what there is, on any number of cores."""
    monkeypatch.setattr("dask.system.CPU_COUNT", 64)
    widths = [1024] * 37
    side = analysis._side(widths)
    assert side == analysis.TILE
    assert analysis._threads(analysis._tile_bytes(widths, side)) * analysis._tile_bytes(widths, side) <= analysis.MEMORY
    wide = [1024 * 16 * 16] * 37
    assert 32 <= analysis._side(wide) < 256
    assert analysis._tile_bytes(wide, analysis._side(wide)) <= analysis.MEMORY // 4
    assert analysis._threads(20 * 16_384**2) == 1

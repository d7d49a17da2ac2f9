"""Stage two on features in a bucket: the same results as from a folder, and clear lines where something is lacking."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from diffcache.cache import layout, open_cache
from diffcache.cache.buckets import contents, mirror
from diffcache.cache.buckets.push import push_cache
from diffcache.cli import main
from diffcache.config import load_pipeline
from diffcache.experiments.stores_there import Place
from diffcache.heads import find_runs
from tests.cache.buckets.conftest import credentials, port, url  # noqa: F401 - fixtures

pytest.importorskip("obstore")
pytest.importorskip("moto.server")
SMALL = ("--t", "5", "--b", "3,4", "--pool", "4")


def run(*words: object) -> tuple[int, str, str]:
    mirror._mirrors.clear()
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def far(world, url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """URL of the features of one setting and of the pixels; heads are trained from the folder already."""
    monkeypatch.setenv("DIFFCACHE_MIRROR", str(tmp_path / "mirrors"))
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(contents, "PART", 1 << 13)
    status, _, err = run("train-heads", world.file, *SMALL, "--head", "linear")
    assert status == 0, err
    push_cache(world.folder / "cache", url)
    (world.folder / "cache").rename(world.folder / "elsewhere")
    return url


def weights(runs: Path) -> dict[str, dict[str, np.ndarray]]:
    from safetensors.numpy import load_file

    return {run.id: load_file(file) for run in find_runs(runs) for file in sorted(run.path.glob("*.safetensors"))}


def test_it_gives_what_a_folder_gives(world, far: str, tmp_path: Path) -> None:
    options = (*SMALL, "--head", "linear")
    near = weights(world.folder / "runs")
    status, out, err = run("train-heads", world.file, *options, "--cache", far, "--runs", tmp_path / "runs")
    assert status == 0, err
    assert far in err
    assert near
    assert weights(tmp_path / "runs").keys() == near.keys()
    for name, tensors in weights(tmp_path / "runs").items():
        for key, values in tensors.items():
            assert np.array_equal(values, near[name][key]), (name, key)
    assert not (world.folder / "cache").exists()

    # as the pipeline file names it
    text = world.file.read_text(encoding="utf-8").replace('cache = "cache"', f'cache = "{far}"')
    world.file.write_text(text.replace("t = [5, 100]", "t = [5]").replace("[1, 4]", "[4]"), encoding="utf-8")
    assert load_pipeline(world.file).cache == far
    # and every other command that only reads
    name = ("--setting", "t5/b3/pool4")
    for command in (
        ("ls", "--cache", far),
        ("info", "--cache", far),
        ("diff", "textures/train", "textures/test", "--cache", far),
        ("judge", world.file, *SMALL, "--head", "linear", "--part", "knn"),
        ("ablate", world.file, *SMALL, "--head", "linear", "--seeds", "0"),
        ("cka", world.file, "--setting", "t5/b3,4/pool4"),
        ("project", world.file, *name, "--method", "pca"),
        ("frechet", f"{world.file}:train", f"{world.file}:test", *name, "--allow-few"),
        ("report", world.file),
    ):
        status, out, err = run(*command)
        assert status == (1 if command[0] == "diff" else 0), (command, out, err)

    # and a worker on another machine, which has a mirror of its own
    store = open_cache(far).stores()[0]
    place = pickle.loads(pickle.dumps(Place.of(store)))
    shutil.rmtree(tmp_path / "mirrors")
    mirror._mirrors.clear()
    assert place.open().fingerprint == store.fingerprint

    shutil.rmtree(world.folder / "images")
    status, _, err = run("train-heads", world.file, *options, "--head", "attention")
    assert status == 0, err
    assert "used without a look at the images" in err


def test_a_small_mirror_goes_by_chunks_and_says_so(world, far: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DIFFCACHE_MIRROR_BYTES", "40000")
    options = ("train-heads", world.file, *SMALL, "--head", "linear", "--cache", far, "--runs", tmp_path / "runs")
    status, _, err = run(*options)
    assert status == 0, err
    assert "DIFFCACHE_MIRROR_BYTES=" in err
    (root,) = (tmp_path / "mirrors").iterdir()
    assert sum(path.stat().st_size for path in (root / ".chunks").iterdir() if path.name != ".lock") <= 40_000


def test_what_is_lacking_is_said_and_not_computed(world, far: str) -> None:
    status, _, err = run("train-heads", world.file, "--t", "5,100", "--b", "3", "--pool", "4", "--cache", far)
    assert status == 1
    assert f"{far}: t100/b3/pool4 of textures/train, recipe" in err.splitlines()[-1]
    assert f"only read; pull it with `diffcache pull {far} CACHE` first" in err.splitlines()[-1]
    status, _, err = run("extract", world.file, "--t", "100", "--b", "3", "--pool", "4", "--cache", far)
    assert status == 1
    assert "only read; pull it" in err.splitlines()[-1]
    status, _, err = run("extract", world.file, *SMALL, "--cache", far)  # all there: nothing is to be written
    assert status == 0, err

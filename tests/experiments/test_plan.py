"""Plans: what is cached, derived and to be computed, and what that takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from diffcache.cache import open_cache
from diffcache.cache.exchange.convert import convert_store
from diffcache.config import load_pipeline
from diffcache.errors import CacheError, DiskFullError, NotCachedError
from diffcache.experiments import extract_pipeline, plan_pipeline
from diffcache.experiments import plan as module
from diffcache.setting import Pass, Setting
from tests import tiny


def load(world, **overrides):
    return load_pipeline(world.file, {name.replace("__", "."): value for name, value in overrides.items()})


def used(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("format_", ["zarr", "hdf5"])
def test_a_plan_says_what_an_extraction_then_does(world, format_):
    pipeline = load(world, extract__format=format_, extract__draws=2)
    plan = plan_pipeline(pipeline)
    assert not plan.idle
    assert not (world.folder / "cache").exists()
    # Draws after 0 are trained on only, so the test split does without.
    assert [sum(job.passes.values()) for job in plan.jobs] == [4 * 42, 2 * 18, 42, 18]
    done = extract_pipeline(pipeline)
    assert [part.images for part in done] == [sum(job.passes.values()) for job in plan.jobs]
    assert plan.passes == 4 * 42 + 2 * 18
    # Of stores this small the files' own structures are a large part, which the plan leaves out.
    arrays = sum(part.store.nbytes for part in done)
    assert arrays <= plan.new_bytes <= used(world.folder / "cache")
    again = plan_pipeline(pipeline)
    assert again.idle
    assert [job.cached for job in again.jobs] == [job.settings for job in again.jobs]
    assert again.costs == ()


def test_arithmetic_and_last_blocks(world):
    plan = plan_pipeline(load(world, extract__t=[5, 100], extract__b=[2, 4]))
    job, cost = plan.jobs[0], plan.costs[0]
    assert job.last_blocks == {Pass(5): 4, Pass(100): 4}
    assert plan_pipeline(load(world, extract__b=[2])).costs[0].flops < cost.flops
    assert cost.flops == 84 * plan_pipeline(load(world, extract__t=[5])).costs[0].flops // 42
    assert cost.memory_bytes > world.weights.stat().st_size


def test_what_is_there_is_not_planned_again(world):
    extract_pipeline(load(world, extract__t=[5], extract__b=[4], extract__pool=[4]))
    plan = plan_pipeline(load(world, extract__t=[5, 9], extract__b=[4], extract__pool=[2, 4]))
    job = plan.jobs[0]
    assert job.derived == {Setting(5, 4, 2): Setting(5, 4, 4)}
    assert job.cached == (Setting(5, 4, 4),)
    assert job.lacking == (Setting(9, 4, 2), Setting(9, 4, 4))
    assert job.passes == {Pass(9): 42}
    (world.train / "bark/zzz.png").write_bytes((world.train / "bark/000.png").read_bytes())
    job = plan_pipeline(load(world, extract__t=[5], extract__b=[4], extract__pool=[4])).jobs[0]
    assert (job.added, job.passes) == (1, {Pass(5): 1})


def test_a_calibration_gives_a_time(world):
    plan = plan_pipeline(load(world), calibrate=True)
    assert plan.calibration.real_weights
    assert plan.seconds > 0
    assert plan_pipeline(load(world)).seconds is None


def test_without_weights_a_plan_can_still_be_made(world):
    world.weights.unlink()
    plan = plan_pipeline(load(world), calibrate=True)
    assert plan.passes == 2 * 42 + 2 * 18
    assert not plan.calibration.real_weights


def test_what_the_disk_cannot_hold_is_refused_with_numbers_and_remedy(world, monkeypatch):
    monkeypatch.setattr(module, "_free", lambda root: 20_000)
    pipeline = load(world, extract__pool=[0], extract__dtype="float32")
    line = (
        r"cache: 5 settings need [\d.]+ [kM]B more, 20\.0 kB are free on its disk; nothing was written: .*--cache, or "
        r"ask for a smaller pool \(\S+ alone takes [\d.]+ kB\), or --dtype float16, which halves it, or fewer t, b"
    )
    with pytest.raises(DiskFullError, match=line):
        extract_pipeline(pipeline)
    assert not (world.folder / "cache").exists()


def test_the_remedy_for_a_full_disk_names_what_can_be_made_smaller(world, monkeypatch):
    monkeypatch.setattr(module, "_free", lambda root: 1000)
    with pytest.raises(
        DiskFullError, match=r"ask for pixels = false in \[heads\] \(the raw pixels take [\d.]+ kB\), or"
    ):
        extract_pipeline(load(world, extract__pool=[1]))


@pytest.mark.parametrize("act", [plan_pipeline, extract_pipeline])
def test_what_cannot_be_written_is_refused_before_anything_is(world, act):
    with pytest.raises(CacheError, match=r"pipeline\.toml: expected the folder of a cache"):
        act(load(world, cache=str(world.file)))
    done = extract_pipeline(load(world))
    more = load(world, extract__t=[5, 100, 7])
    packed = world.folder / "packed"
    for part in done:
        convert_store(part.store, open_cache(packed, create=True), compression="zstd")
    assert plan_pipeline(load(world, cache=str(packed))).idle
    with pytest.raises(CacheError, match="compressed by zstd is only read"):
        act(load(world, extract__t=[5, 100, 7], cache=str(packed)))
    header = done[0].store.path / "store.json"
    header.unlink()
    with pytest.raises(CacheError, match=r"store\.json is gone"):
        act(more)
    assert not header.exists()


def test_draws_that_have_images_of_their_own_count_in_the_memory(world):
    few, many = (
        plan_pipeline(load(world, extract__draws=draws, extract__augmentation="flip")).memory_bytes for draws in (2, 9)
    )
    assert many - few == module._GROUPS_IN_HAND * 7 * 8 * 3 * 16 * 16
    assert len({plan_pipeline(load(world, extract__draws=draws)).memory_bytes for draws in (2, 9)}) == 1


# --- asking for what exists -------------------------------------------------------------------

TOLD = """
import json, sys, time
from diffcache.cli import main
sys.argv = ["diffcache", *{arguments!r}]
try:
    main()
except SystemExit as end:
    code = end.code
slow = [name for name in ("torch", "zarr", "h5py", "dask", "xarray") if name in sys.modules]
print("told:", json.dumps([code or 0, slow]), file=sys.stderr)
"""


def told(world, *arguments):
    code = TOLD.format(arguments=list(map(str, arguments)))
    env = {**os.environ, "XDG_CACHE_HOME": str(world.folder / "user-cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("told: "), done.stderr
    return (*json.loads(line[6:]), done)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("command", ["extract", "plan"])
def test_asking_for_what_exists_imports_no_torch(world, command, precision):
    world.file.write_text(world.file.read_text().replace('"fp32"', f'"{precision}"').replace('device = "cpu"\n', ""))
    assert told(world, "extract", world.file)[0] == 0
    code, slow, done = told(world, command, world.file)
    assert (code, slow) == (0, [])
    assert "cached" in done.stdout


def test_what_is_not_all_there_needs_torch(world):
    told(world, "extract", world.file)
    assert "torch" in told(world, "plan", world.file, "--t", "7", "--no-time")[1]


def test_auto_precision_goes_on_with_what_the_cache_has_complete(world):
    extract_pipeline(load(world, backbone__precision="bf16"))
    pipeline = load(world, backbone__precision="auto")
    assert plan_pipeline(pipeline).idle
    assert plan_pipeline(pipeline).jobs[0].recipe.precision == "bf16"
    assert not plan_pipeline(load(world, backbone__precision="fp32")).idle


def test_nothing_of_another_recipe_counts(world):
    extract_pipeline(load(world))
    for change in ({"extract__seed": 1}, {"extract__dtype": "float32"}):
        assert not plan_pipeline(load(world, **change)).idle, change
    assert plan_pipeline(load(world, extract__augmentation="flip")).idle  # which changes nothing at draw 0
    tiny.write_weights(world.card, world.weights, seed=9)
    assert not plan_pipeline(load(world)).idle
    assert len(open_cache(world.folder / "cache").stores()) == 4


def test_verify_of_a_pipeline_that_was_never_extracted(world):
    from diffcache.experiments.checking import check_pipeline

    (world.folder / "cache").mkdir()
    with pytest.raises(NotCachedError, match="there is no store of textures by this pipeline's recipe"):
        list(check_pipeline(load(world)))

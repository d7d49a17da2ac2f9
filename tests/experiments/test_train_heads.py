"""``train-heads`` on features whose images are there, have changed or are gone; in this process."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner

from diffcache.cache import open_cache
from diffcache.cli import main
from diffcache.heads import find_runs

SMALL = ("--t", "5", "--b", "3", "--pool", "4", "--head", "linear")


@pytest.fixture
def train(world):
    """Runs ``train-heads`` on one setting: (exit status, standard output, standard error)."""

    def train(*options):
        done = CliRunner().invoke(main, ["train-heads", str(world.file), *SMALL, *map(str, options)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout, done.stderr

    return train


def rows(world):
    return [store.rows for store in open_cache(world.folder / "cache").find(images="textures", split="train")]


def test_images_that_were_added_are_extracted(world, train):
    assert train()[0] == 0
    assert rows(world) == [42, 42]
    shutil.copy(world.train / "bark/000.png", world.train / "bark/zzz.png")
    status, _, err = train()
    assert status == 0, err
    assert rows(world) == [43, 43]
    status, _, err = train()
    assert status == 0, err
    assert "1 settings found" in err


def test_images_that_were_added_are_no_reason_to_train_on_the_others_alone(world, train):
    assert train()[0] == 0
    shutil.copy(world.train / "bark/000.png", world.train / "bark/zzz.png")
    world.weights.unlink()
    status, _, err = train()
    assert status == 1, err
    assert "are not those of all its images; and they cannot be extracted here" in err
    fingerprint = open_cache(world.folder / "cache").find(images="textures", split="train", backbone="tiny")[0]
    assert train("--recipe", fingerprint.fingerprint[:12])[0] == 0  # these, as they are


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_images_that_were_removed_or_changed_are_refused(world, train, change):
    assert train()[0] == 0
    image = world.train / "bark/000.png"
    shutil.copy(world.train / "bark/001.png", image) if change == "changed" else image.unlink()
    status, _, err = train()
    assert status == 1, err
    assert "bark/000.png" in err
    status, _, err = train("--on-changed", "mark")
    assert status == 0, err
    assert "1 of 42 training rows" in err


def test_images_that_are_not_here(world, train):
    assert train()[0] == 0
    shutil.rmtree(world.folder / "images")
    status, _, err = train()
    assert status == 0, err
    assert "the cached features are used without a look at the images" in err


def test_marks_of_pixels_or_features_alone(world, train):
    assert train()[0] == 0
    (store,) = open_cache(world.folder / "cache").find(images="textures", split="test", backbone="tiny")
    with store.writing() as writer:
        writer.mark({2: "no picture"})
    status, out, err = train()
    assert status == 0, err
    assert "top-1 accuracy on 17 to 18 test images" in out
    assert "paired), on the 17 test images of both" in out


def test_the_device_of_the_command_line_is_that_of_every_head(world, train):
    text = world.file.read_text()
    world.file.write_text(text.replace("[heads.linear]", '[heads.linear]\ndevice = "cuda:77"'))
    status, _, err = train()
    assert (status, "cuda:77" in err) == (1, True)
    status, _, err = train("--device", "cpu", "--head", "linear,mlp")
    assert status == 0, err
    assert {run.config.device for run in find_runs(world.folder / "runs")} == {"cpu"}


def test_a_device_without_values(world, train):
    done = CliRunner().invoke(main, ["plan", str(world.file), "--device", "meta"])
    assert done.exit_code == 1, done.output
    assert "device 'meta' holds shapes and no values" in done.stderr
    assert train()[0] == 0
    status, _, err = train("--device", "meta", "--runs", world.folder / "other")
    assert (status, "device 'meta' holds shapes and no values" in err) == (1, True), err


def test_without_deriving_what_is_only_derivable_is_computed(world, diffcache):
    assert diffcache("extract", world.file, "--t", "5", "--b", "3", "--pool", "4")[0] == 0
    options = ("--t", "5", "--b", "3", "--pool", "1", "--head", "linear")
    status, _, err = diffcache("train-heads", world.file, *options)
    assert status == 0, err
    assert "derived" in err
    status, _, err = diffcache("train-heads", world.file, *options, "--no-derive")
    assert status == 0, err
    assert "derived" not in err
    (store,) = open_cache(world.folder / "cache").find(backbone="tiny", split="train")
    assert [str(setting) for setting in store.settings] == ["t5/b3/pool1", "t5/b3/pool4"]


# --- sweeps and fitted heads --------------------------------------------------------------------


def replaced(world, old, new):
    text = world.file.read_text()
    assert old in text
    world.file.write_text(text.replace(old, new))


def test_a_sweep_of_a_pipeline_file(world, train):
    replaced(world, "[heads.linear]\n", "[heads.linear]\nlr = [1e-3, 1e-2]\nweight_decay = [0.0, 0.1]\n")
    status, out, err = train()
    assert status == 0, err
    assert "chosen of the sweep" in out
    (pixels,) = (run for run in find_runs(world.folder / "runs") if run.backbone == "pixels")
    (run,) = (run for run in find_runs(world.folder / "runs") if run.backbone != "pixels")
    for one in (run, pixels):  # what is compared is swept alike
        assert [(head["lr"], head["weight_decay"]) for head in one.sweep] == [
            (1e-3, 0.0), (1e-3, 0.1), (1e-2, 0.0), (1e-2, 0.1),
        ]  # fmt: skip
    assert f"lr {run.chosen['lr']:g}, weight_decay {run.chosen['weight_decay']:g} (of 4)" in out
    status, out, err = train()
    assert out.count("cached") == 2


def test_fitted_heads_of_a_pipeline_file(world, train):
    replaced(world, "[heads.linear]\n", "[heads.linear]\n[heads.logistic]\n[heads.ridge]\nl2 = 0.1\n")
    status, out, err = train("--head", "linear,logistic,ridge")
    assert status == 0, err
    runs = {run.kind: run for run in find_runs(world.folder / "runs") if run.backbone != "pixels"}
    assert set(runs) == {"linear", "logistic", "ridge"}
    assert len(runs["logistic"].sweep) > 1
    assert runs["ridge"].sweep == ()
    assert runs["ridge"].config.l2 == 0.1
    assert out.count("best linear\n") == 1
    assert "best other" not in out  # all three are linear heads


def test_a_wrong_sweep_is_one_line(world, train):
    replaced(world, "[heads.linear]\n", "[heads.linear]\nlr = [1e-3, 1e-3]\n")
    status, out, err = train()
    assert (status, out) == (1, "")
    assert err.endswith("heads.linear.lr: expected values that differ, 0.001 is there twice\n")

"""Generating: what is written, that nothing but the request decides it, and that a killed run goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffcache.backbones import open_generator
from diffcache.cache.files.lock import hold
from diffcache.diffusion import Respaced, Sampler, respace, sample, sample_noise
from diffcache.errors import ConfigError
from diffcache.experiments import sample_images
from diffcache.experiments.sampling import job as sampling_job
from tests import command, tiny

ROOT = Path(__file__).parents[2]
GREY = {f"{where}channels = 3": f"{where}channels = 1" for where in ("in_", "out_", "")}
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("", {}),
    "learned": ("", {"out_channels = 3": "out_channels = 6"}),
    "classes": ("num_classes = 4", {}),
    "larger": ("super_res = true", {}),
    "larger_classes": ("super_res = true\nnum_classes = 4", {}),
    "grey": ("", GREY),
}
"""Kind of card to what it has more than the tiny one, and to the lines that it has in place of others."""
FEW = ("--steps", "3", "--count", "5", "--batch-size", "4")


@dataclass(frozen=True)
class World:
    """A folder for outputs, and a card with weights of each kind."""

    folder: Path
    cards: Path

    def call(self, kind: str, *options: object) -> tuple[int, str, str]:
        card = self.cards / f"{kind}.toml"
        shared = ["--weights", card.with_suffix(".safetensors"), "--device", "cpu", "--precision", "fp32"]
        return command.run("sample", card, *shared, *options, cwd=self.folder)

    def images(self, kind: str, name: str, *options: object) -> np.ndarray:
        """The images that a call writes to ``name``."""
        status, _, err = self.call(kind, "--out", name, *options)
        assert status == 0, err
        return np.load(self.folder / name)["arr_0"]

    def refused(self, kind: str, *options: object) -> str:
        """The one line with which a call is refused."""
        status, out, err = self.call(kind, *options)
        assert (status, out, err.count("\n")) == (1, "", 1), err
        return err


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    for kind, (more, changes) in KINDS.items():
        text = tiny.CARD.format(more=more)
        for line, other in changes.items():
            assert f"\n{line}\n" in text
            text = text.replace(f"\n{line}\n", f"\n{other}\n")
        card = folder / f"{kind}.toml"
        card.write_text(text)
        tiny.write_weights(card, card.with_suffix(".safetensors"))
    return folder


@pytest.fixture
def world(tmp_path, cards, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return World(tmp_path, cards)


class TestWhatIsWritten:
    def test_the_images_the_picture_and_the_record(self, world):
        status, out, err = world.call("plain", *FEW, "--out", "deep/a.npz", "--seed", "7")
        assert status == 0, err
        assert "5 of 16x16x3, 5 computed now" in out
        assert "sample (plain): 6/6 steps" in err
        assert sorted(path.name for path in (world.folder / "deep").iterdir()) == ["a.json", "a.npz", "a.png"]
        with zipfile.ZipFile(world.folder / "deep/a.npz") as archive:
            assert archive.namelist() == ["arr_0.npy"]
            with archive.open("arr_0.npy") as member:  # the evaluation suite reads this version of the header only
                assert np.lib.format.read_magic(member) == (1, 0)
        images = np.load(world.folder / "deep/a.npz", allow_pickle=False)["arr_0"]
        assert (images.shape, images.dtype) == ((5, 16, 16, 3), np.uint8)
        assert images.std() > 20
        with Image.open(world.folder / "deep/a.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape == (2 * 16 + 2, 3 * 16 + 4, 3)
        for i, (top, left) in enumerate([(0, 0), (0, 18), (0, 36), (18, 0), (18, 18)]):
            assert np.array_equal(pixels[top : top + 16, left : left + 16], images[i])
        record = json.loads((world.folder / "deep/a.json").read_text())
        assert record["card"] == "plain"
        assert record["shape"] == [5, 16, 16, 3]
        assert record["visited"] == respace("3", 1000)
        assert record["request"]["seed"] == 7
        assert record["request"]["sampler"] == {"kind": "ancestral", "eta": 0.0, "clip": True}
        assert record["command"].startswith("diffcache sample ")
        assert "--seed 7" in record["command"]
        assert len(record["request"]["weights"]) == 64

    def test_the_picture_holds_64_at_most_and_goes_where_it_is_told(self, world):
        world.images("plain", "a.npz", "--steps", "1", "--count", "66", "--batch-size", "33", "--grid", "b.png")
        with Image.open(world.folder / "b.png") as picture:
            assert picture.size == (8 * 18 - 2, 8 * 18 - 2)
        assert not (world.folder / "a.png").exists()

    def test_grey_is_repeated_unless_told_otherwise(self, world):
        rgb = world.images("grey", "a.npz", *FEW)
        grey = world.images("grey", "b.npz", *FEW, "--keep-grey")
        assert (rgb.shape, grey.shape) == ((5, 16, 16, 3), (5, 16, 16, 1))
        assert np.array_equal(rgb, np.broadcast_to(grey, rgb.shape))
        with Image.open(world.folder / "b.png") as picture:
            assert picture.mode == "L"

    def test_bytes_are_cut_and_not_rounded(self, world, monkeypatch):
        values = torch.linspace(-1.2, 1.2, 16 * 16 * 3).view(1, 3, 16, 16)
        monkeypatch.setattr(sampling_job, "sample", lambda *_, **__: iter([values]))
        found = world.images("plain", "a.npz", "--count", "1", "--steps", "1")
        expected = np.clip(np.floor((values.numpy() + np.float32(1)) * np.float32(127.5)), 0, 255)
        assert np.array_equal(found, expected.transpose(0, 2, 3, 1).astype(np.uint8))
        assert (found.min(), found.max()) == (0, 255)

    def test_from_python(self, world):
        card = world.cards / "plain.toml"
        done = sample_images(
            card, card.with_suffix(".safetensors"), out=world.folder / "a.npz", count=2, steps="2", device="cpu"
        )
        assert done.shape == (2, 16, 16, 3)
        assert done.computed == 2
        assert done.grid.is_file()
        assert json.loads(done.record.read_text()) == done.facts


class TestOnlyTheRequestDecides:
    @pytest.mark.parametrize(
        ("how", "sampler"),
        [
            (("--steps", "4"), Sampler()),
            (("--steps", "ddim4"), Sampler("ddim")),
            (("--steps", "2,2", "--ddim", "--eta", "0.5"), Sampler("ddim", eta=0.5)),
        ],
    )
    def test_the_images_are_those_of_the_sampler(self, world, how, sampler):
        """Against the loop written out, on all samples at once."""
        found = world.images("learned", "a.npz", *how, "--count", "4", "--batch-size", "4", "--seed", "3")
        generator = open_generator(
            world.cards / "learned.toml", world.cards / "learned.safetensors", device="cpu", precision="fp32"
        )
        spaced = Respaced(generator.schedule, tuple(respace(how[1], 1000)))

        def noise(t):
            ids = ["0", "1", "2", "3"]
            return torch.from_numpy(sample_noise(ids, (3, 16, 16), seed=3, t=t, draw=0, purpose="sampling"))

        *_, x = sample(generator.predict_noise, noise(None), spaced=spaced, sampler=sampler, fresh=noise)
        expected = ((x + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        assert (np.abs(found - expected) <= 1.01).all()

    def test_how_many_there_are_changes_no_byte(self, world):
        few = world.images("learned", "a.npz", "--steps", "4", "--count", "3", "--batch-size", "4")
        many = world.images("learned", "b.npz", "--steps", "4", "--count", "10", "--batch-size", "4")
        assert np.array_equal(few, many[:3])
        assert len({image.tobytes() for image in many}) == 10

    def test_the_batch_size_moves_last_bits_at_most(self, world):
        first = world.images("learned", "4.npz", "--steps", "4", "--count", "8", "--batch-size", "4")
        for size in (1, 3, 8):
            other = world.images("learned", f"{size}.npz", "--steps", "4", "--count", "8", "--batch-size", str(size))
            assert np.abs(first.astype(int) - other).max() <= 1

    def test_the_same_request_gives_the_same_file(self, world):
        world.images("classes", "a.npz", *FEW)
        world.images("classes", "b.npz", *FEW)
        assert (world.folder / "a.npz").read_bytes() == (world.folder / "b.npz").read_bytes()

    def test_every_option_counts(self, world):
        options = [("--seed", "1"), ("--steps", "4"), ("--ddim",), ("--ddim", "--eta", "0.5"), ()]
        found = [world.images("plain", f"{n}.npz", *FEW, *more).tobytes() for n, more in enumerate(options)]
        assert len(set(found)) == len(options)

    def test_respacing_of_ddim_is_ddim(self, world):
        world.images("plain", "a.npz", *FEW, "--steps", "ddim4")
        world.images("plain", "b.npz", *FEW, "--steps", "2,2", "--ddim")
        for name in "ab":
            assert json.loads((world.folder / f"{name}.json").read_text())["request"]["sampler"]["kind"] == "ddim"


class TestClasses:
    def test_those_given_go_round_and_are_stored(self, world):
        images = world.images("classes", "a.npz", *FEW, "--classes", "3,1")
        labels = np.load(world.folder / "a.npz")["arr_1"]
        assert (labels.tolist(), labels.dtype) == ([3, 1, 3, 1, 3], np.int64)
        other = world.images("classes", "b.npz", *FEW, "--classes", "3,2")
        same = [np.array_equal(one, two) for one, two in zip(images, other, strict=True)]
        assert same == [True, False, True, False, True]

    def test_random_ones_follow_from_seed_and_sample(self, world):
        def labels(name, *options):
            world.images("classes", name, "--steps", "1", *options)
            return np.load(world.folder / name)["arr_1"].tolist()

        many = labels("a.npz", "--count", "64")
        assert set(many) == {0, 1, 2, 3}
        assert labels("b.npz", "--count", "5", "--batch-size", "2") == many[:5]
        assert labels("c.npz", "--count", "64", "--seed", "1") != many


class TestEnlarging:
    def write(self, world, **arrays: Any):
        np.savez(world.folder / "low.npz", **arrays)

    def low(self, n=3, side=4, channels=3):
        return np.random.default_rng(0).integers(0, 256, (n, side, side, channels), dtype=np.uint8)

    def test_one_for_each(self, world):
        low = self.low()
        self.write(world, arr_0=low)
        images = world.images("larger", "a.npz", "--steps", "2", "--low-res", "low.npz", "--batch-size", "2")
        assert images.shape == (3, 16, 16, 3)
        more = world.images("larger", "b.npz", "--steps", "2", "--low-res", "low.npz", *FEW[2:])
        assert np.abs(images.astype(int) - more[:3]).max() <= 1
        self.write(world, arr_0=255 - low)
        assert not np.array_equal(images, world.images("larger", "c.npz", "--steps", "2", "--low-res", "low.npz"))

    def test_scaled_to_unit_and_by_number(self, world, monkeypatch):
        self.write(world, arr_0=self.low())
        told = []
        generator_type = type(open_generator(world.cards / "larger.toml", world.cards / "larger.safetensors"))
        predict = generator_type.predict_noise

        def listen(self, x, t, *, y=None, low_res=None):
            told.append(low_res)
            return predict(self, x, t, y=y, low_res=low_res)

        monkeypatch.setattr(generator_type, "predict_noise", listen)
        world.images("larger", "a.npz", "--steps", "1", "--low-res", "low.npz", "--count", "5", "--batch-size", "5")
        expected = self.low()[[0, 1, 2, 0, 1]].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        assert np.array_equal(told[0].numpy(), expected)

    def test_their_classes_are_told_too(self, world):
        self.write(world, arr_0=self.low(), arr_1=np.array([2, 0, 3]))
        world.images("larger_classes", "a.npz", "--steps", "1", "--low-res", "low.npz")
        assert np.load(world.folder / "a.npz")["arr_1"].tolist() == [2, 0, 3]
        world.images("larger_classes", "b.npz", "--steps", "1", "--low-res", "low.npz", "--classes", "1")
        assert np.load(world.folder / "b.npz")["arr_1"].tolist() == [1, 1, 1]

    @pytest.mark.parametrize(
        ("arrays", "line"),
        [
            ({"arr_0": "side"}, "enlarges uint8 (n, 4, 4, 3), got uint8 (3, 8, 8, 3)"),
            ({"arr_0": "float"}, "enlarges uint8 (n, 4, 4, 3), got float32 (3, 4, 4, 3)"),
            ({"arr_0": "none"}, "enlarges uint8 (n, 4, 4, 3), got uint8 (0, 4, 4, 3)"),
            ({"other": "good"}, "enlarges uint8 (n, 4, 4, 3), got"),
            ({"arr_0": "good", "arr_1": "short"}, "arr_1: expected 3 whole numbers, got int64 (2,)"),
            ({"arr_0": "good", "arr_1": "outside"}, "classes: this network has classes 0 to 3, got 9"),
        ],
    )
    def test_files_that_do_not_fit(self, world, arrays, line):
        values = {
            "good": self.low(),
            "side": self.low(side=8),
            "float": self.low().astype(np.float32),
            "none": self.low(n=0),
            "short": np.array([1, 2]),
            "outside": np.array([1, 2, 9]),
        }
        self.write(world, **{name: values[value] for name, value in arrays.items()})
        assert line in world.refused("larger_classes", "--low-res", "low.npz", "--out", "a.npz")

    def test_no_npz(self, world):
        (world.folder / "low.npz").write_bytes(b"nothing of the kind")
        assert "expected an .npz file with arr_0" in world.refused("larger", "--low-res", "low.npz", "--out", "a.npz")
        np.save(world.folder / "one.npy", self.low())
        (world.folder / "one.npy").rename(world.folder / "low.npz")
        assert "found a single array" in world.refused("larger", "--low-res", "low.npz", "--out", "a.npz")


class TestGoingOn:
    def test_after_a_kill(self, world):
        """A process killed with -9 while it computes: the same command goes on, and ends with the same bytes."""
        card = world.cards / "plain.toml"
        options = ["--steps", "8", "--batch-size", "2", "--device", "cpu", "--precision", "fp32", "--out", "a.npz"]
        line = ["sample", str(card), "--weights", str(card.with_suffix(".safetensors")), *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "diffcache", *line, "--count", "4000"],
            cwd=world.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        third = world.folder / "a.npz.parts" / "00000002.npy"
        while not third.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (world.folder / "a.npz").exists()
        kept = len(list(third.parent.glob("0*.npy")))
        count = 2 * kept + 3
        status, out, err = world.call("plain", *options, "--count", count)
        assert status == 0, err
        assert f"goes on; {2 * kept} of {count} images are there" in err
        assert f"{count} of 16x16x3, 3 computed now" in out
        world.images("plain", "b.npz", *options[:4], "--count", count)
        assert (world.folder / "a.npz").read_bytes() == (world.folder / "b.npz").read_bytes()
        assert not third.parent.exists()

    def stop(self, world, monkeypatch, *, after: int, options=FEW):
        """Ctrl-C after so many groups."""
        compute, done = sampling_job.Job.compute, []

        def pressed(self, numbers, on_step):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(numbers)
            return compute(self, numbers, on_step)

        with monkeypatch.context() as patch:
            patch.setattr(sampling_job.Job, "compute", pressed)
            status, _, err = world.call("plain", *options, "--out", "a.npz")
        assert status == 130
        assert "what was committed is kept, and the same command goes on from there" in err

    def test_another_request_is_refused(self, world, monkeypatch):
        self.stop(world, monkeypatch, after=1)
        line = world.refused("plain", *FEW, "--out", "a.npz", "--seed", "2", "--ddim")
        assert (
            "a.npz.parts: begun with other options: seed (0, not 2), sampler (kind ('ancestral', not 'ddim'))" in line
        )
        assert "give the same options, remove that folder, or name another --out" in line
        assert "weights (" in world.refused("learned", *FEW, "--out", "a.npz")
        world.images("plain", "a.npz", *FEW)

    def test_the_group_size_stays(self, world, monkeypatch):
        self.stop(world, monkeypatch, after=1)
        status, _, err = world.call("plain", *FEW, "--batch-size", "2", "--out", "a.npz")
        assert status == 0
        assert "goes on in groups of 4, as it was begun" in err
        assert np.array_equal(np.load(world.folder / "a.npz")["arr_0"], world.images("plain", "b.npz", *FEW))

    def test_a_damaged_part_is_computed_again_and_drafts_are_cleared(self, world, monkeypatch):
        self.stop(world, monkeypatch, after=1)
        parts = world.folder / "a.npz.parts"
        first = parts / "00000000.npy"
        first.write_bytes(first.read_bytes()[:-5])
        (parts / ".tmp-0123456789abcdef").write_bytes(b"an unfinished file")
        status, out, _ = world.call("plain", *FEW, "--out", "a.npz")
        assert status == 0
        assert "5 computed now" in out
        assert np.array_equal(np.load(world.folder / "a.npz")["arr_0"], world.images("plain", "b.npz", *FEW))
        assert not parts.exists()

    def test_killed_between_the_images_and_their_record(self, world, monkeypatch):
        self.stop(world, monkeypatch, after=1)
        (world.folder / "a.npz").write_bytes(b"as it was written, but for the record")
        assert np.array_equal(world.images("plain", "a.npz", *FEW), world.images("plain", "b.npz", *FEW))

    def test_what_is_finished_is_not_computed_again(self, world):
        world.images("plain", "a.npz", *FEW)
        before = (world.folder / "a.npz").stat()
        (world.folder / "a.png").unlink()
        shutil.copytree(world.folder, world.folder / "a.npz.parts", ignore=lambda *_: ["user-cache", "a.npz.parts"])
        status, out, err = world.call("plain", *FEW, "--out", "a.npz")
        assert status == 0
        assert "5 of 16x16x3, 0 computed now" in out
        assert "nothing was left to compute" in err
        assert (world.folder / "a.npz").stat() == before
        assert (world.folder / "a.png").is_file()
        assert not (world.folder / "a.npz.parts").exists()  # what a kill while it was removed had left

    def test_what_is_there_is_not_lost(self, world):
        world.images("plain", "a.npz", *FEW)
        line = world.refused("plain", *FEW, "--seed", "5", "--out", "a.npz")
        assert "a.npz: was made with other options: seed (0, not 5)" in line
        line = world.refused("plain", *FEW, "--count", "6", "--out", "a.npz")
        assert "holds images (5, 16, 16, 3), asked for are (6, 16, 16, 3); remove that file, or name another" in line
        (world.folder / "a.json").unlink()
        assert "nothing tells what it was made of" in world.refused("plain", *FEW, "--out", "a.npz")
        assert not (world.folder / "a.npz.parts").exists()

    def test_one_at_a_time(self, world):
        parts = world.folder / "a.npz.parts"
        parts.mkdir()
        with hold(parts / "lock", what="a.npz"):
            assert "a.npz: this thread is writing to it" in world.refused("plain", *FEW, "--out", "a.npz")

    def test_a_foreign_folder_is_left_alone(self, world):
        parts = world.folder / "a.npz.parts"
        parts.mkdir()
        (parts / "begun.json").write_text("{}")
        assert "damaged: something is missing in it; remove the folder" in world.refused(
            "plain", *FEW, "--out", "a.npz"
        )


class TestRefused:
    @pytest.mark.parametrize(
        ("kind", "options", "line"),
        [
            ("plain", ["--out", "a.png"], "--out: expected a file name that ends in .npz, got 'a.png'"),
            ("plain", ["--out", "a.npz", "--grid", "a.jpg"], "--grid: expected a file name that ends in .png"),
            ("plain", ["--out", "a.npz", "--count", "0"], "count must be a whole number of at least 1, got 0"),
            ("plain", ["--out", "a.npz", "--batch-size", "-1"], "batch size must be a whole number of at least 1"),
            ("plain", ["--out", "a.npz", "--steps", "x"], "respacing 'x': expected counts"),
            ("plain", ["--out", "a.npz", "--steps", "ddim999"], "no whole stride visits 999 of 1000 steps"),
            ("plain", ["--out", "a.npz", "--eta", "0.5"], "eta 0.5: only DDIM has one"),
            ("plain", ["--out", "a.npz", "--ddim", "--eta", "2"], "eta: expected a number from 0 to 1, got 2.0"),
            ("plain", ["--out", "a.npz", "--classes", "1"], "classes: card plain takes no classes, got 1"),
            ("plain", ["--out", "a.npz", "--low-res", "x.npz"], "low-res: card plain enlarges no images"),
            ("classes", ["--out", "a.npz", "--classes", "1,4"], "classes: this network has classes 0 to 3, got 4"),
            ("larger", ["--out", "a.npz"], "card larger: enlarges images; name an .npz of 4x4 ones with --low-res"),
            ("larger", ["--out", "a.npz", "--low-res", "x.npz"], "x.npz: no such file of images"),
            ("plain", ["--out", "a.npz", "--device", "meta"], "holds shapes and no values"),
        ],
    )
    def test_in_one_line(self, world, kind, options, line):
        assert line in world.refused(kind, *options)
        assert [path.name for path in world.folder.iterdir() if path.name != "user-cache"] in ([], ["a.npz.parts"])

    @pytest.mark.parametrize(
        ("there", "other", "line"),
        [
            ('kind = "adm"', 'kind = "pixels"', "kind 'pixels' is no diffusion network: it cannot generate images"),
            ('[schedule]\nname = "linear"\nsteps = 1000\n', "", "a diffusion network needs a [schedule]"),
        ],
    )
    def test_cards_that_cannot_generate(self, world, there, other, line):
        card = world.folder / "other.toml"
        card.write_text((world.cards / "plain.toml").read_text().replace(there, other))
        for more in ([], ["--weights", world.cards / "plain.safetensors"]):
            status, out, err = command.run("sample", card, "--out", world.folder / "a.npz", *more)
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert line in err

    def test_weights(self, world):
        status, _, err = command.run("sample", "fashion_mnist_32", "--out", world.folder / "a.npz")
        assert status == 1
        assert "name its file of weights with --weights; card fashion_mnist_32 expects fashion_mnist_32.saf" in err
        none = world.folder / "none.pt"
        status, _, err = command.run("sample", "lsun_cat", "--weights", none, "--out", world.folder / "a.npz")
        assert status == 1
        assert f"{none}: no such file of weights" in err

    def test_images_that_are_not_finite(self, world):
        state = load_file(world.cards / "plain.safetensors")
        state["out.2.bias"][0] = float("nan")
        bad = world.folder / "bad.safetensors"
        save_file(state, bad)
        status, _, err = world.call("plain", *FEW, "--weights", bad, "--out", "a.npz")
        assert status == 1
        assert "diffcache: sample 0: not finite in fp32; look at the weights" in err

    def test_a_list_of_classes_may_not_be_empty(self, world):
        card = world.cards / "classes.toml"
        with pytest.raises(ConfigError, match="classes: name at least one"):
            sample_images(card, card.with_suffix(".safetensors"), out=world.folder / "a.npz", classes=[])


def test_a_long_run_is_not_held_in_memory(world):
    """The file is written from its parts piece by piece, and the picture reads no more than it shows."""
    from diffcache.experiments.sampling.files import first_images, write_npz

    asked = []

    def pieces():
        for i in range(100):
            asked.append(i)
            yield np.full((2, 4, 4, 3), i, np.uint8)

    out = world.folder / "a.npz"
    write_npz(out, pieces(), shape=(200, 4, 4, 3), labels=None, tmp=world.folder)
    assert len(asked) == 100
    assert np.load(out)["arr_0"][:, 0, 0, 0].tolist() == [i // 2 for i in range(200)]
    assert first_images(out, 5)[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2]
    assert len(first_images(out, 500)) == 200
    buffer = io.BytesIO(out.read_bytes())
    assert zipfile.ZipFile(buffer).testzip() is None

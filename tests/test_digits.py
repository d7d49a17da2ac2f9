"""The digits of scikit-learn as an image set, and the pipeline that trains heads on them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffcache.config import load_pipeline
from diffcache.heads import find_runs
from diffcache.images import open_idx
from tests import command

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "pipelines" / "digits.toml"
CLASSES = [str(digit) for digit in range(10)]


def write(out: Path, *options: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """``python pipelines/digits.py OUT``, with something done first."""
    arguments = ["digits.py", str(out), *options]
    start = "runpy.run_path('pipelines/digits.py', run_name='__main__')"
    code = f"import runpy, sys\n{before}\nsys.argv = {arguments!r}\n{start}"
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120, cwd=ROOT
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    done = write(folder)
    assert done.returncode == 0, done.stderr
    return folder


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = open_idx(
        folder / f"{name}-images-idx3-ubyte.gz", folder / f"{name}-labels-idx1-ubyte.gz", class_names=CLASSES
    )
    return images.pixels, images.labels


def test_all_digits_are_there_once_a_third_of_each_class_to_test_on(digits: Path) -> None:
    (train, train_labels), (test, test_labels) = split(digits, "train"), split(digits, "test")
    assert len(train) + len(test) == 1797
    counts = np.bincount(np.concatenate([train_labels, test_labels]))
    assert counts.tolist() == np.bincount(load_digits().target).tolist()
    assert (np.abs(np.bincount(test_labels) - counts / 3) < 1).all()
    assert train.shape[1:] == (28, 28)
    together = np.concatenate([train, test])
    assert len(np.unique(together.reshape(1797, -1), axis=0)) == len(np.unique(load_digits().data, axis=0))


def test_a_digit_is_the_one_of_scikit_learn_scaled_up_and_centred(tmp_path: Path) -> None:
    assert write(tmp_path, "--side", "24", "--filter", "box").returncode == 0
    pixels, labels = split(tmp_path, "train")
    small = pixels[:, 2:26:3, 2:26:3]
    border = pixels.copy()
    border[:, 2:26, 2:26] = 0
    assert not border.any()
    assert np.array_equal(np.repeat(np.repeat(small, 3, axis=1), 3, axis=2), pixels[:, 2:26, 2:26])
    known = {(digit.tobytes(), int(label)) for digit, label in zip(
        np.rint(load_digits().images * (255 / 16)).astype(np.uint8), load_digits().target, strict=True)}  # fmt: skip
    assert {(digit.tobytes(), int(label)) for digit, label in zip(small.copy(), labels, strict=True)} <= known


def test_the_same_bytes_every_time(digits: Path, tmp_path: Path) -> None:
    assert write(tmp_path).returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in digits.iterdir()
    }
    assert len(list(digits.iterdir())) == 4


def test_without_scikit_learn_one_line_names_the_extra(tmp_path: Path) -> None:
    done = write(tmp_path / "out", before="sys.modules['sklearn.datasets'] = None")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install 'diffcache[sklearn]'" in done.stderr
    assert not (tmp_path / "out").exists()


def with_images(folder: Path, digits: Path) -> Path:
    """The pipeline, with cache, runs and images in other places."""
    text = PIPELINE.read_text().replace("../data/digits", str(digits)).replace("../data", str(ROOT / "data"))
    file = folder / "digits.toml"
    file.write_text(text.replace('"../cache"', '"cache"').replace('"../runs"', '"runs"'))
    return file


@pytest.mark.parametrize("what", ["extract", "plan", "train-heads"])
def test_before_they_are_written_one_line_says_what_writes_them(tmp_path: Path, what: str) -> None:
    status, _, err = command.run(what, with_images(tmp_path, tmp_path / "none"))
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("diffcache: ")]
    assert line.endswith("`python pipelines/digits.py data/digits` writes them")
    assert str(tmp_path / "none" / "train-images-idx3-ubyte.gz") in line
    assert load_pipeline(PIPELINE).images.made_by == "python pipelines/digits.py data/digits"


def test_features_of_clothes_tell_digits_apart_better_than_pixels(digits: Path, tmp_path: Path) -> None:
    file = with_images(tmp_path, digits)
    status, out, err = command.run("train-heads", file, "--setting", "t30/b7/pool4", "--head", "linear")
    assert status == 0, err
    assert "over raw pixels: +" in out
    runs = {run.backbone: run for run in find_runs(tmp_path / "runs")}
    gain = runs["fashion_mnist_32"].difference(runs["pixels"])
    assert gain.low > 0
    assert gain.total == 599

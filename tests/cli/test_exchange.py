"""``convert``, ``export``, ``import``, and heads on what was imported, through the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from diffcache.cache import Store, open_cache
from diffcache.cli import main
from diffcache.config import load_pipeline, parse_pipeline
from diffcache.errors import ConfigError, NotCachedError
from diffcache.experiments import extract_pipeline, find_features, open_images, plan_pipeline
from tests.cache.toy import LARGE, create, fill, values

ROOT = Path(__file__).parents[2]
CLASSES = ("ant", "bee", "cat, wild")

PIPELINE = """
name = "elsewhere"
cache = "cache"
runs = "runs"

[images]
name = "insects"

[backbone]
imported = "dino-s"

[heads]
epochs = 12
batch_size = 32
lr = 0.01
validation = 0.2

[heads.linear]

[heads.mlp]
hidden = 16
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def works(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*arguments: object) -> str:
    """The one line that a command fails with."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("diffcache: ")]
    assert "Traceback" not in result.stderr
    return line


@pytest.fixture
def store(tmp_path: Path) -> Store:
    _, store = create(tmp_path / "cache", "zarr")
    fill(store)
    return store


class TestConvert:
    def test_and_back(self, tmp_path: Path, store: Store) -> None:
        out = works(
            "convert", store.fingerprint[:8], "--cache", tmp_path / "cache",
            "--to", tmp_path / "small", "--format", "hdf5", "--compress",
        )  # fmt: skip
        (small,) = open_cache(tmp_path / "small").stores()
        assert (small.format, small.header.compression) == ("hdf5", "zstd")
        assert f"toys/train {store.fingerprint[:16]}: hdf5 compressed by zstd" in out
        assert str(small.path) in out
        works("convert", small.path, "--to", tmp_path / "plain")
        (plain,) = open_cache(tmp_path / "plain").stores()
        assert (plain.format, plain.header.compression) == ("hdf5", None)
        features = open_cache(tmp_path / "plain").features(images="toys", split="train", setting=LARGE)
        assert features[:].tobytes() == values(LARGE).tobytes()

    def test_refusals(self, tmp_path: Path, store: Store) -> None:
        assert "is the store's own cache" in fails("convert", store.path, "--to", tmp_path / "cache")
        assert "no store is named" in fails("convert", "beef", "--cache", tmp_path / "cache", "--to", tmp_path / "b")
        assert call("convert", store.path).exit_code == 2


class TestExport:
    def test_a_file(self, tmp_path: Path, store: Store) -> None:
        out = works("export", store.fingerprint[:8], LARGE, tmp_path / "x.npy", "--cache", tmp_path / "cache")
        assert np.load(tmp_path / "x.npy").tobytes() == values(LARGE).tobytes()
        for name in ("x.npy", "x.labels.npy", "x.samples.csv"):
            assert str(tmp_path / name) in out
        again = ("export", store.path, LARGE, tmp_path / "x.npy")
        assert "--force" in fails(*again)
        works(*again, "--force")

    def test_a_derived_setting(self, tmp_path: Path) -> None:
        _, store = create(tmp_path / "cache", "zarr")
        fill(store, [LARGE])
        works("export", store.path, "t90/b24/pool1", tmp_path / "x.safetensors")

    def test_refusals(self, tmp_path: Path, store: Store) -> None:
        assert "is not cached" in fails("export", store.path, "t1/b1/pool1", tmp_path / "x.npy")
        assert "expected t<step>" in fails("export", store.path, "t1", tmp_path / "x.npy")
        assert "expected a name that ends in" in fails("export", store.path, LARGE, tmp_path / "x.mat")


def toy(rows: int, seed: int, *, dim: int = 8) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Three clouds, well apart."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    labels[:3] = 0, 1, 2
    centres = np.eye(3, dim) * 4
    return (centres[labels] + random.normal(size=(rows, dim))).astype(np.float32), labels


def write_split(folder: Path, split: str, rows: int, seed: int) -> list[object]:
    """Files of a split, and the command that imports them."""
    features, labels = toy(rows, seed)
    np.save(folder / f"{split}.npy", features)
    (folder / f"{split}.ids").write_text("".join(f"{split}/{i}.png\n" for i in range(rows)))
    (folder / f"{split}.labels").write_text("".join(f"{CLASSES[label]}\n" for label in labels))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return [
        *("import", folder / f"{split}.npy", "--ids", folder / f"{split}.ids", "--labels", folder / f"{split}.labels"),
        *("--images", "insects", "--split", split, "--name", "dino-s", "--class-names", folder / "classes.txt"),
        *("--cache", folder / "cache"),
    ]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.toml").write_text(PIPELINE)
    return tmp_path / "pipeline.toml"


class TestImport:
    def test_heads_train_on_it(self, tmp_path: Path, pipeline: Path) -> None:
        """End to end, in processes of their own."""

        def run(*arguments: object) -> str:
            command = [sys.executable, "-m", "diffcache", *map(str, arguments)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
            assert done.returncode == 0, done.stderr
            return done.stdout

        out = run(*write_split(tmp_path, "train", 400, 0))
        assert "insects/train  dino-s  400 rows of 8 x 1 x 1 float32, 3 classes  t-/b1/pool0" in out
        run(*write_split(tmp_path, "test", 150, 1))
        out = run("train-heads", pipeline)
        assert "top-1 accuracy on 150 test images" in out
        from diffcache import find_runs

        runs = find_runs(tmp_path / "runs")
        assert sorted(run.kind for run in runs) == ["linear", "mlp"]
        for one in runs:
            assert one.top1.total == 150
            assert one.top1.value > 0.9
            assert one.backbone == "dino-s"
        assert "cached" in run("train-heads", pipeline)

    def test_nothing_to_extract(self, tmp_path: Path, pipeline: Path) -> None:
        works(*write_split(tmp_path, "train", 40, 0))
        line = fails("extract", pipeline)
        assert "the features of dino-s are imported, so there is nothing to extract" in line
        for function in (extract_pipeline, plan_pipeline):
            with pytest.raises(ConfigError, match="nothing to extract"):
                function(load_pipeline(pipeline))  # type: ignore[operator]
        with pytest.raises(ConfigError, match=r"\[images\.train\] is missing"):
            open_images(load_pipeline(pipeline))

    def test_what_is_not_imported_is_said(self, tmp_path: Path, pipeline: Path) -> None:
        works(*write_split(tmp_path, "train", 40, 0))
        line = fails("train-heads", pipeline)
        assert "features of insects/test by dino-s are not imported" in line
        assert "diffcache import FEATURES --labels LABELS --images insects --split test --name dino-s" in line
        works(*write_split(tmp_path, "test", 40, 1), "--dtype", "float16")
        assert "in different types, train in float32, test in float16" in fails("train-heads", pipeline)

    def test_of_two_types_the_pipeline_s_is_used(self, tmp_path: Path, pipeline: Path) -> None:
        for split in ("train", "test"):
            command = write_split(tmp_path, split, 40, 0)
            works(*command)
            works(*command, "--dtype", "float16")
        for dtype in ("float16", "float32"):
            found = find_features(load_pipeline(pipeline, {"extract.dtype": dtype}), [])
            assert {store.recipe.dtype for store in found.stores.values()} == {dtype}
        exact = found.stores["train"].fingerprint
        assert find_features(load_pipeline(pipeline), [], recipe=exact[:9]).stores["test"].fingerprint == exact
        with pytest.raises(NotCachedError, match="begins with beef"):
            find_features(load_pipeline(pipeline), [], recipe="beef")

    def test_values_that_are_not_finite(self, tmp_path: Path) -> None:
        command = write_split(tmp_path, "train", 40, 0)
        features = np.load(tmp_path / "train.npy")
        features[7, 2] = np.nan
        np.save(tmp_path / "train.npy", features)
        assert "row 7 ('train/7.png') has NaN or infinite values" in fails(*command)
        assert not (tmp_path / "cache").exists()

    def test_a_head_that_does_not_fit(self, tmp_path: Path, pipeline: Path) -> None:
        for split in ("train", "test"):
            works(*write_split(tmp_path, split, 40, 0))
        line = fails("train-heads", pipeline, "--head", "cnn")
        assert "cnn head on t-/b1/pool0" in line
        assert "imported as they are" in line
        assert "imported features have the one setting" in fails("train-heads", pipeline, "--setting", "t90/b1/pool0")


class TestPipelineFile:
    def parsed(self, **tables: Any) -> Any:
        given = {"images": {"name": "x"}, "backbone": {"imported": "b"}, **tables}
        return parse_pipeline(given, file=Path("p.toml"))

    def test_needs_a_name_alone(self) -> None:
        pipeline = self.parsed()
        assert (pipeline.backbone.imported, pipeline.backbone.card, pipeline.images.splits) == ("b", "", {})
        assert [str(setting) for setting in pipeline.extract.settings] == ["t-/b1/pool0"]
        assert self.parsed(backbone={"imported": "b", "device": "cpu"}, extract={"dtype": "float32"})

    @pytest.mark.parametrize(
        "tables, match",
        [
            ({"backbone": {"imported": "b", "card": "c"}}, "backbone.card: imported features have no card"),
            ({"backbone": {"imported": "b", "weights": "w"}}, "backbone.weights: imported features have no weights"),
            ({"backbone": {"imported": "b", "precision": "fp16"}}, "backbone.precision: imported features have no"),
            ({"backbone": {"imported": "a/b"}}, "backbone.imported: expected a name"),
            ({"extract": {"t": 90}}, "the one setting t-/b1/pool0"),
            ({"extract": {"draws": 2}}, "the one setting t-/b1/pool0"),
            ({"heads": {"pixels": True}}, "heads.pixels: expected false"),
        ],
    )
    def test_refusals(self, tables: dict[str, Any], match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            self.parsed(**tables)

    def test_neither_card_nor_name(self) -> None:
        splits = {"train": {"path": "a"}, "test": {"path": "b"}}
        with pytest.raises(ConfigError, match=r'card is missing; or name .* imported = "NAME"'):
            self.parsed(images={"name": "x", **splits}, backbone={}, extract={"t": 1, "b": 1, "pool": 1})

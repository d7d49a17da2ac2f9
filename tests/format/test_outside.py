"""What zarr-python, xarray, h5py and h5dump make of a store, in processes that cannot import diffcache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffcache.cache import Store, layout
from diffcache.recipe import Recipe
from tests.cache.toy import CLASSES, LARGE, OTHER, ROWS, SHAPES, SMALL, create, fill, recipe, samples, values
from tests.format import known
from tests.format.outside import alone

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outside:
    """A store's folder, and what others must find in it.

    Attributes:
        path: the folder.
        segments: rows of each segment.
        header: the attributes that files repeat.
        features: by setting; what is not committed is not compared.
        committed: by setting.
        blocks: name of each block, by setting.
        ids, labels, marked: of all rows.
    """

    path: Path
    segments: tuple[int, ...]
    header: dict[str, Any]
    features: dict[str, Array]
    committed: dict[str, Array]
    blocks: dict[str, str]
    ids: list[str]
    labels: list[int]
    marked: list[int]


def header(of: Recipe, images: str, split: str, backbone: str, class_names: tuple[str, ...]) -> dict[str, Any]:
    facts = {"images": images, "split": split, "backbone": backbone, "class_names": list(class_names)}
    return {**facts, "format_version": 1, "fingerprint": of.fingerprint, "recipe": of.plain()}


def stored(kind: str) -> Outside:
    of = Recipe(**known.RECIPE)
    return Outside(
        path=known.STORED / kind / known.IMAGES / known.SPLIT / of.fingerprint[:16],
        segments=known.SEGMENTS,
        header=header(of, known.IMAGES, known.SPLIT, known.BACKBONE, known.CLASSES),
        features={setting: known.stored_features(setting) for setting in known.SHAPES},
        committed={setting: np.ones(known.ROWS, bool) for setting in known.SHAPES},
        blocks={setting: known.BLOCKS[int(setting.split("/")[1][1:])] for setting in known.SHAPES},
        ids=known.ids(),
        labels=known.labels().tolist(),
        marked=sorted(known.MARKS),
    )


def grown(root: Path, format: str) -> Outside:
    """A store that this version writes: two segments, several chunks, a range and an array that are missing."""
    _, store = create(root, format)
    fill(store, [LARGE, SMALL])
    fill(store, [OTHER], leave=1)
    with store.writing() as writer:
        writer.add_segment(samples(700, first=ROWS))
        writer.mark({5: "empty", ROWS + 2: "cut off"})
    fill(store, [LARGE, SMALL])
    store = Store.open(store.path)
    assert store.array(LARGE, segment=0).features.chunk_rows < ROWS
    rows = ROWS + 700
    features = {str(setting): values(setting, rows) for setting in SHAPES}
    for setting in (LARGE, SMALL):
        features[str(setting)][ROWS + 2] = 0  # marked before it was written; row 5 was after, and keeps its values
    return Outside(
        path=store.path,
        segments=(ROWS, 700),
        header=header(recipe(), "toys", "train", "toy-8", CLASSES),
        features=features,
        committed={str(setting): store.committed(setting) for setting in SHAPES},
        blocks={str(LARGE): "output_blocks.4", str(SMALL): "output_blocks.4", str(OTHER): "block 3"},
        ids=list(samples(rows).ids),
        labels=samples(rows).labels.tolist(),
        marked=[5, ROWS + 2],
    )


@pytest.fixture(scope="module", params=["now", "stored", "stored-zstd"])
def which(request: pytest.FixtureRequest) -> str:
    return request.param


def outside(which: str, format: str, factory: pytest.TempPathFactory) -> Iterator[Outside]:
    if which == "now":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "CHUNK_BYTES", 48 * 1024)
            yield grown(factory.mktemp(format), format)
    else:
        yield stored(which.replace("stored", format))


@pytest.fixture(scope="module")
def zarr_store(which: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    yield from outside(which, "zarr", tmp_path_factory)


@pytest.fixture(scope="module")
def hdf5_store(which: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    if which.endswith("zstd"):
        pytest.importorskip("hdf5plugin")
    yield from outside(which, "hdf5", tmp_path_factory)


def name_of(setting: str) -> str:
    return setting.replace("/", ".")


def attributes(there: Outside, setting: str) -> dict[str, Any]:
    t, b, pool, *draw = setting.split("/")
    return {
        "setting": setting,
        "t": None if t == "t-" else int(t[1:]),
        "b": int(b[1:]),
        "pool": int(pool[4:]),
        "draw": int(draw[0][4:]) if draw else 0,
        "block": there.blocks[setting],
    }


def dimensions(shape: tuple[int, ...]) -> list[str]:
    return ["sample", f"channel_{shape[0]}", f"height_{shape[1]}", f"width_{shape[2]}"]


def check_values(there: Outside, out: Path, *, number: int) -> None:
    """What a script has put into ``out`` of a segment: every array of it, under ``<segment>/<name>``."""
    first = sum(there.segments[:number])
    rows = slice(first, first + there.segments[number])
    with np.load(out) as read:
        assert read[f"{number}/label"].tolist() == there.labels[rows]
        marked = [row - first for row in there.marked if rows.start <= row < rows.stop]
        assert np.flatnonzero(read[f"{number}/marked"]).tolist() == marked
        names = {name.partition("/")[2] for name in read if name.startswith(f"{number}/")}
        settings = [setting for setting in there.features if there.committed[setting][rows].any()]
        arrays = {name_of(setting) for setting in settings}
        assert names == {"label", "marked", "content_hash", *arrays, *(f"{name}.committed" for name in arrays)}
        for setting in settings:
            got, wanted = read[f"{number}/{name_of(setting)}"], there.features[setting][rows]
            mask = read[f"{number}/{name_of(setting)}.committed"]
            assert got.dtype == wanted.dtype == np.float16
            assert mask.dtype == np.uint8
            assert (mask == there.committed[setting][rows]).all()
            assert got[mask == 1].tobytes() == wanted[mask == 1].tobytes()
        assert read[f"{number}/content_hash"].shape == (there.segments[number], 32)


READ_ZARR = """
    import json, warnings
    from pathlib import Path
    import numpy as np, zarr
    warnings.simplefilter("error")
    root = zarr.open_group(Path(sys.argv[1]) / "features.zarr", mode="r")
    values, said = {}, {"": dict(root.attrs)}
    for number, (_, group) in enumerate(sorted(root.groups())):
        said[f"{number}"] = {"ids": group["id"][:].tolist()}
        for name, array in group.arrays():
            if name != "id":
                values[f"{number}/{name}"] = array[:]
            about = {"attrs": dict(array.attrs), "dims": array.metadata.dimension_names}
            said[f"{number}/{name}"] = {**about, "chunks": array.chunks, "codecs": len(array.metadata.codecs)}
    np.savez(sys.argv[2], **values)
    print(json.dumps(said))
"""

READ_XARRAY = """
    import json, warnings
    from pathlib import Path
    import numpy as np, xarray
    warnings.simplefilter("error")
    values, said = {}, {}
    for number in range(int(sys.argv[3])):
        group = f"segment-{number:05d}"
        data = xarray.open_zarr(Path(sys.argv[1]) / "features.zarr", group=group, consolidated=False)
        said[f"{number}"] = {"coords": {name: list(c.dims) for name, c in data.coords.items()}}
        said[f"{number}"] |= {"ids": data["id"].values.tolist(), "sizes": dict(data.sizes)}
        for name, variable in data.variables.items():
            said[f"{number}/{name}"] = {"dims": list(variable.dims), "attrs": dict(variable.attrs)}
            if name != "id":
                values[f"{number}/{name}"] = variable.values
        # what names are for: rows by label, means by dimension
        cats = data.isel(sample=np.flatnonzero(data["label"].values == 0))
        name = sys.argv[4]
        means = cats[name].astype("f4").mean([d for d in cats[name].dims if d != "sample"])
        said[f"{number}"] |= {"cats": cats["id"].values.tolist(), "means": means.values.tolist()}
    np.savez(sys.argv[2], **values)
    print(json.dumps(said))
"""


class TestZarr:
    def test_zarr_python(self, zarr_store: Outside, which: str, tmp_path: Path) -> None:
        there, out = zarr_store, tmp_path / "values.npz"
        said = json.loads(alone(READ_ZARR, there.path, out, cwd=tmp_path, without=("h5py", "torch")))
        assert said[""] == there.header
        for number, rows in enumerate(there.segments):
            check_values(there, out, number=number)
            first = sum(there.segments[:number])
            assert said[f"{number}"]["ids"] == there.ids[first : first + rows]
            assert said[f"{number}/label"]["attrs"] == {"class_names": there.header["class_names"]}
            assert said[f"{number}/content_hash"]["attrs"] == {"algorithm": "sha256"}
            assert said[f"{number}/content_hash"]["dims"] == ["sample", "byte"]
        for setting, features in there.features.items():
            about, mask = said[f"0/{name_of(setting)}"], said[f"0/{name_of(setting)}.committed"]
            fingerprint = {"fingerprint": there.header["fingerprint"]}
            assert about["attrs"] == {**attributes(there, setting), **fingerprint}
            assert about["dims"] == dimensions(features.shape[1:])
            assert about["chunks"][1:] == list(features.shape[1:])
            assert about["codecs"] == (2 if which.endswith("zstd") else 1)
            assert (mask["dims"], mask["attrs"]) == (["sample"], {"setting": setting})

    def test_xarray(self, zarr_store: Outside, tmp_path: Path) -> None:
        pytest.importorskip("xarray")
        there, out = zarr_store, tmp_path / "values.npz"
        setting = "t90/b24/pool2"
        arguments = (there.path, out, len(there.segments), name_of(setting))
        said = json.loads(alone(READ_XARRAY, *arguments, cwd=tmp_path, without=("h5py", "torch")))
        for number, rows in enumerate(there.segments):
            check_values(there, out, number=number)
            first, facts = sum(there.segments[:number]), said[f"{number}"]
            ids, labels = there.ids[first : first + rows], there.labels[first : first + rows]
            assert facts["coords"] == {"id": ["sample"], "label": ["sample"]}
            assert facts["ids"] == ids
            assert facts["sizes"]["sample"] == rows
            assert said[f"{number}/label"]["attrs"]["class_names"] == there.header["class_names"]
            assert facts["cats"] == [id_ for id_, label in zip(ids, labels, strict=True) if label == 0]
            cats = there.features[setting][first : first + rows][np.array(labels) == 0].astype(np.float32)
            assert np.allclose(facts["means"], cats.mean(axis=(1, 2, 3)))
        for setting, features in there.features.items():
            about = said[f"0/{name_of(setting)}"]
            assert about["dims"] == dimensions(features.shape[1:])
            assert attributes(there, setting).items() <= about["attrs"].items()
            assert said[f"0/{name_of(setting)}.committed"]["dims"] == ["sample"]


READ_HDF5 = """
    import json, warnings
    from pathlib import Path
    import h5py, numpy as np
    warnings.simplefilter("error")
    if sys.argv[3]:
        import hdf5plugin
    values, said = {}, {}

    def plain(value):
        return value.tolist() if hasattr(value, "tolist") else value

    for number, folder in enumerate(sorted((Path(sys.argv[1]) / "features.hdf5").iterdir())):
        for path in sorted(folder.iterdir()):
            with h5py.File(path) as file:
                facts = said[f"{number}/{path.name}"] = {"attrs": {k: plain(v) for k, v in file.attrs.items()}}
                facts["dims"] = {name: [d.label for d in data.dims] for name, data in file.items()}
                facts["ids"] = file["id"].asstr()[:].tolist()
                facts["labels"] = file["label"][:].tolist()
                if path.name == "samples.h5":
                    for name in ("label", "marked", "content_hash"):
                        values[f"{number}/{name}"] = file[name][:]
                    facts["algorithm"] = file["content_hash"].attrs["algorithm"]
                else:
                    values[f"{number}/{path.stem}"] = file["features"][:]
                    values[f"{number}/{path.stem}.committed"] = file["committed"][:]
                    facts["chunks"] = file["features"].chunks
                    facts["filters"] = file["features"].id.get_create_plist().get_nfilters()
    np.savez(sys.argv[2], **values)
    print(json.dumps(said))
"""


class TestHdf5:
    def test_h5py(self, hdf5_store: Outside, which: str, tmp_path: Path) -> None:
        there, out, compressed = hdf5_store, tmp_path / "values.npz", which.endswith("zstd")
        plugin = "hdf5plugin" if compressed else ""
        said = json.loads(alone(READ_HDF5, there.path, out, plugin, cwd=tmp_path, without=("zarr", "torch")))
        for number, rows in enumerate(there.segments):
            check_values(there, out, number=number)
            first = sum(there.segments[:number])
            for name, facts in said.items():
                if name.startswith(f"{number}/"):  # each file is complete in itself
                    assert facts["ids"] == there.ids[first : first + rows]
                    assert facts["labels"] == there.labels[first : first + rows]
                    attrs = dict(facts["attrs"])
                    attrs["recipe"] = json.loads(attrs["recipe"])
                    assert there.header.items() <= attrs.items()
            assert said[f"{number}/samples.h5"]["algorithm"] == "sha256"
            assert said[f"{number}/samples.h5"]["dims"] == {
                **{name: ["sample"] for name in ("id", "label", "marked")},
                "content_hash": ["sample", "byte"],
            }
        for setting, features in there.features.items():
            facts = said[f"0/{name_of(setting)}.h5"]
            expected = attributes(there, setting)
            expected["t"] = "none" if expected["t"] is None else expected["t"]
            assert expected.items() <= facts["attrs"].items()
            assert facts["dims"]["features"] == dimensions(features.shape[1:])
            assert facts["dims"]["committed"] == ["sample"]
            assert facts["chunks"][1:] == list(features.shape[1:])
            assert facts["filters"] == (2 if compressed else 0)

    def test_h5dump(self, hdf5_store: Outside, which: str, tmp_path: Path) -> None:
        if shutil.which("h5dump") is None:
            pytest.skip("needs h5dump, of the package hdf5-tools")
        there, env = hdf5_store, dict(os.environ)
        if which.endswith("zstd"):
            env["HDF5_PLUGIN_PATH"] = pytest.importorskip("hdf5plugin").PLUGIN_PATH

        def h5dump(*arguments: object) -> str:
            command = ["h5dump", *map(str, arguments)]
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=False, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
            assert done.stderr == b"", command
            return done.stdout.decode("utf-8", "replace")

        files = sorted((there.path / "features.hdf5").rglob("*.h5"))
        assert len(files) > len(there.segments)
        for path in files:
            assert 'ATTRIBUTE "recipe"' in h5dump("-H", path)
            whole = h5dump(path)
            assert there.header["fingerprint"] in whole
            assert '(0): "sample"' in whole
        for setting, features in there.features.items():
            path = there.path / "features.hdf5/segment-00000" / f"{name_of(setting)}.h5"
            text = h5dump("-H", path)
            assert "H5T_IEEE_F16LE" in text or "16-bit little-endian floating-point" in text
            text = h5dump("-y", "-d", "/features", path).partition("DATA {")[2].partition("}")[0]
            numbers = np.array(text.replace(",", " ").split(), np.float64).astype(np.float16)
            mask = there.committed[setting][: there.segments[0]]
            shown = numbers.reshape(-1, *features.shape[1:])
            assert (shown[mask] == features[: there.segments[0]][mask]).all()

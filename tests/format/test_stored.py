"""The stores below ``v1`` go on opening, whatever this version writes itself."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from diffcache.cache import Cache, Samples, open_cache
from diffcache.cache.checking.repair import repair_store
from diffcache.cache.checking.verify import verify_store
from diffcache.recipe import Recipe
from diffcache.setting import Setting
from tests.format import known, make

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=known.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "hdf5-zstd":
        pytest.importorskip("hdf5plugin")
    return request.param


@pytest.fixture
def cache(kind: str, tmp_path: Path) -> Cache:
    """A copy: the stored one stays as it is."""
    shutil.copytree(known.STORED / kind, tmp_path / kind)
    return open_cache(tmp_path / kind)


def checksums(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestAsTheyWere:
    def test_no_file_was_edited(self) -> None:
        listed = dict(line.split("  ", 1)[::-1] for line in make.CHECKSUMS.read_text("utf-8").splitlines())
        assert {f"v1/{name}": digest for name, digest in checksums(known.STORED).items()} == listed

    def test_they_are_small(self) -> None:
        assert sum(path.stat().st_size for path in make.stored_files()) < 300_000

    def test_they_are_not_made_again(self) -> None:
        with pytest.raises(SystemExit, match="stored stores are not made again"):
            make.main()

    def test_git_keeps_their_bytes(self) -> None:
        if shutil.which("git") is None or not (ROOT / ".git").exists():
            pytest.skip("needs git and a checkout")

        def git(*arguments: str, given: str = "") -> tuple[int, str]:
            done = subprocess.run(
                ["git", *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout

        names = "".join(f"{path.relative_to(ROOT).as_posix()}\n" for path in make.stored_files())
        assert git("check-ignore", "--no-index", "--stdin", given=names) == (1, "")  # 1: none is ignored
        _, attributes = git("check-attr", "--stdin", "text", given=names)
        assert {line.rsplit(": ", 1)[1] for line in attributes.splitlines()} == {"unset"}
        assert git("ls-files", "tests/format/v1")[1] == names


class TestOpening:
    def test_values_ids_and_marks(self, cache: Cache, kind: str) -> None:
        (store,) = cache.stores()
        assert cache.damaged == []
        assert (store.format, store.fingerprint) == (kind.partition("-")[0], known.FINGERPRINT)
        assert store.recipe == Recipe(**known.RECIPE)
        assert [segment.rows for segment in store.segments] == list(known.SEGMENTS)
        assert store.settings == tuple(sorted(map(Setting.parse, known.SHAPES)))
        assert (store.content_hashes() == known.content_hashes()).all()
        for text, shape in known.SHAPES.items():
            features = cache.features(images=known.IMAGES, split=known.SPLIT, setting=text, backbone=known.BACKBONE)
            assert features.shape == (known.ROWS, *shape)
            assert features[:].tobytes() == known.stored_features(text).tobytes()
            assert features.gather([12, 3, 0]).tobytes() == known.stored_features(text)[[12, 3, 0]].tobytes()
            assert features.committed.all()
            assert features.block == known.BLOCKS[features.setting.b]
        assert features.ids == tuple(known.ids())
        assert features.labels.tolist() == known.labels().tolist()
        assert features.class_names == known.CLASSES
        assert features.marks == known.MARKS

    def test_several_chunks(self, cache: Cache) -> None:
        array = cache.stores()[0].array(Setting.parse("t90/b24/pool2"), segment=0)
        assert array.features.chunk_rows < array.spec.shape[0]

    def test_they_verify(self, cache: Cache) -> None:
        found = verify_store(cache.stores()[0])
        assert (found.damage, dict(found.missing), found.behind, found.leftovers) == ((), {}, (), ())
        assert found.status == "well"
        assert found.ranges == 3 * len(known.SHAPES)

    def test_a_smaller_pool_is_derived(self, cache: Cache) -> None:
        features = cache.features(images=known.IMAGES, split=known.SPLIT, setting="t90/b24/pool1")
        mean = known.stored_features("t90/b24/pool2").astype(np.float32).mean(axis=(2, 3), keepdims=True)
        assert (features[:] == mean.astype(np.float16)).all()


@pytest.mark.parametrize("kind", ["zarr", "hdf5"], indirect=True)
class TestGoingOn:
    def test_a_writer_that_does_nothing_changes_nothing(self, cache: Cache) -> None:
        (store,) = cache.stores()
        before = checksums(store.path)
        with store.writing():
            pass
        assert checksums(store.path) == before

    def test_they_grow(self, cache: Cache) -> None:
        (store,) = cache.stores()
        chosen = [Setting.parse(text) for text in known.SHAPES if text.startswith("t90")]
        with store.writing() as writer:
            writer.add_segment(Samples(["neu"], np.array([1]), known.CLASSES))
            writer.add_arrays({setting: known.SHAPES[str(setting)] for setting in chosen})
            (rows,) = store.missing(chosen)[chosen[0]]
            with writer.begin(rows, chosen) as part:
                for setting in chosen:
                    part.write(setting, 0, known.features(str(setting))[:1])
                part.commit(np.ones((1, 32), np.uint8))
        features = cache.features(images=known.IMAGES, split=known.SPLIT, setting="t90/b24/pool2")
        assert features.ids[-1] == "neu"
        assert (features[-1] == known.features("t90/b24/pool2")[0]).all()
        assert features[:-1].tobytes() == known.stored_features("t90/b24/pool2").tobytes()
        assert verify_store(store).damage == ()


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_listing_that_is_lost_is_made_again_from_files_of_another_chunk_size(kind: str, tmp_path: Path) -> None:
    """Chunks of the stored stores are smaller than those that are made today; nothing of them is computed again."""
    cache = open_cache(shutil.copytree(known.STORED / kind, tmp_path / kind))
    (store,) = cache.stores()
    before = {setting: store.committed(setting).sum() for setting in store.settings}
    for listing in sorted(store.path.glob("arrays/*/*.json")):
        listing.unlink()
    assert verify_store(store).status == "damaged"
    repaired = repair_store(store)
    assert repaired.left == ()
    assert verify_store(store).status == "well"
    store.refresh()
    assert {setting: store.committed(setting).sum() for setting in store.settings} == before
    for setting in store.settings:
        found = cache.features(images=store.images, split=store.split, setting=setting)
        assert found.chunk_rows < len(found)

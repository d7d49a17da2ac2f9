"""Pictures and the report: of a whole tiny experiment, and of hostile texts; in a real browser where there is one."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffcache.analysis.projection import project, spread_rows
from diffcache.cli import main
from diffcache.config import load_pipeline
from diffcache.errors import ConfigError, HeadError
from diffcache.experiments.report.gather import gather
from diffcache.experiments.report.page import page
from diffcache.experiments.report.tables import result_table
from diffcache.experiments.report.thumbnails import thumbnails
from diffcache.experiments.report.unified import unified_table
from diffcache.experiments.results import Result, read_results, results_folder, write_result
from tests import tiny
from tests.browser import CHROMIUM, browser

HOSTILE = "<img src=x onerror=alert(1)>"  # also the name of a folder, so of a class


def call(*args: object) -> str:
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == 0, (done.output, done.exc_info)
    return done.output


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The tiny experiment with runs, noised images and a projection; one of its classes has a hostile name."""
    world = tiny.make(tmp_path_factory.mktemp("original") / "world")
    for split in ("train", "test"):
        (world.folder / "images" / split / "bark").rename(world.folder / "images" / split / HOSTILE)
    call("train-heads", world.file)
    call("noise", world.file, "--t", "0,50,900")
    call("project", world.file, "--method", "pca")
    return world


@pytest.fixture
def world(original, tmp_path):
    """A copy of it, to be spoiled."""
    folder = shutil.copytree(original.folder.parent, tmp_path / "copy") / "world"
    world = tiny.Tiny(folder, *(folder / path.name for path in (original.file, original.card, original.weights)))
    text = world.file.read_text(encoding="utf-8")
    world.file.write_text(text.replace(str(original.card), str(world.card)), encoding="utf-8")
    return world


@pytest.fixture
def made(world):
    """The folder of its results."""
    return results_folder(load_pipeline(world.file))


def test_a_whole_report(world, made):
    assert {"heads", "noised", "projection"} <= {result.name for result in read_results(made)}
    said = call("report", world.file)
    text = (made / "report.html").read_text(encoding="utf-8")
    assert str(made / "report.html") in said
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", text)  # nothing from outside
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    for part in (
        "raw pixels",
        "best linear",
        "Misclassified images",
        "What settings cost",
        "over raw pixels",
        "t5/b3/pool1",
    ):
        assert part in text
    pipeline = load_pipeline(world.file)
    section = gather(pipeline, file="x.toml", anchor="s0")
    assert [one.command for one in section.missing] == [
        f"diffcache {name} x.toml" for name in ("ablate", "judge", "draws")
    ]
    assert len(section.mistakes) == min(24, section.mistakes_of) and all(one.image for one in section.mistakes)
    sure = [one.mistake.probability for one in section.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert section.costs is not None and {row[0].text for row in section.costs.rows} == {"tiny", "pixels"}


def test_without_images_weights_or_cache(world, made):
    shutil.rmtree(world.folder / "images")
    shutil.rmtree(world.folder / "cache")
    world.weights.unlink()
    call("report", world.file, "--out", world.folder / "page.html")
    text = (world.folder / "page.html").read_text(encoding="utf-8")
    assert "The images are not here" in text and "What settings cost" not in text


def test_texts_are_escaped(world, made):
    hostile = "<script>alert(1)</script>\"'&"
    heads = next(result for result in read_results(made) if result.name == "heads")
    write_result(made, replace(heads, title=hostile, findings=(hostile,), rows=({"head": hostile, "best": hostile},)))
    section = gather(load_pipeline(world.file), file=hostile, anchor="s0")
    text = page([section], title=hostile, command=hostile, version="1")
    assert "<script>alert" not in text
    assert html.escape("<script>alert(1)</script>") in text


def test_no_results_and_results_that_are_none(world):
    folder = results_folder(load_pipeline(world.file))
    shutil.rmtree(folder)
    done = CliRunner().invoke(main, ["report", str(world.file)])
    assert done.exit_code == 1 and "no results to report" in done.output and "train-heads" in done.output
    folder.mkdir()
    (folder / "heads.json").write_text("{", encoding="utf-8")
    done = CliRunner().invoke(main, ["report", str(world.file)])
    assert done.exit_code == 1 and "heads.json: not a result" in done.output
    assert not (folder / "report.html").exists()


def test_noised_images_and_a_network_without_noise(world, made):
    with (made / "noised.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["t"] for row in rows] == ["0", "50", "900"]
    assert all(float(row["signal"]) ** 2 + float(row["noise"]) ** 2 == pytest.approx(1) for row in rows)
    before = (made / "noised.png").read_bytes()
    world.weights.unlink()  # the network is not needed
    call("noise", world.file, "--t", "0,50,900")
    assert (made / "noised.png").read_bytes() == before
    done = CliRunner().invoke(main, ["noise", str(world.file), "--t", "1000"])
    assert done.exit_code == 1 and "t=1000" in done.output


def test_principal_components_are_those_of_the_definition():
    random = np.random.default_rng(0)
    values = random.standard_normal((60, 5, 1, 1)) @ np.ones((1, 1)) * np.arange(1, 6)[:, None, None]
    values[:, 1] = values[:, 0] + 0.1 * random.standard_normal((60, 1, 1))
    points = project(values)
    flat = values.reshape(60, 5)
    flat = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    spread = np.sort(np.linalg.eigvalsh(flat.T @ flat))[::-1]
    np.testing.assert_allclose((points**2).sum(axis=0), spread[:2])
    assert abs(points[:, 0] @ points[:, 1]) < 1e-8
    np.testing.assert_allclose(project(values[::-1])[::-1], points, atol=1e-8)  # the order of rows turns no sign


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (12, 12)])
def test_principal_components_of_tall_and_wide_features(shape):
    values = np.random.default_rng(1).standard_normal(shape) * np.linspace(1, 3, shape[0])[:, None]
    flat = (values - values.mean(axis=0)) / values.std(axis=0)
    left, sizes, _ = np.linalg.svd(flat, full_matrices=False)
    np.testing.assert_allclose(np.abs(project(values)), np.abs(left[:, :2] * sizes[:2]), atol=1e-8)


def test_features_that_vary_in_one_direction_have_no_second_component():
    values = np.arange(5.0)[:, None] * np.ones(20)
    points = project(values)
    assert np.ptp(points[:, 0]) > 1 and np.abs(points[:, 1]).max() < 1e-6


def test_t_sne_is_the_same_again_and_keeps_groups_apart():
    random = np.random.default_rng(0)
    values = np.concatenate([random.standard_normal((30, 8)), random.standard_normal((30, 8)) + 12])
    points = project(values, method="tsne")
    assert np.array_equal(project(values, method="tsne"), points)
    near = np.argsort(((points[:, None] - points) ** 2).sum(-1), axis=1)[:, 1]
    assert ((near < 30) == (np.arange(60) < 30)).all()


def test_what_cannot_be_projected():
    with pytest.raises(ConfigError, match="pca, tsne, got 'umap'"):
        project(np.zeros((5, 2)), method="umap")
    with pytest.raises(HeadError, match="at least 3 rows"):
        project(np.zeros((2, 2)))
    with pytest.raises(HeadError, match="finite"):
        project(np.full((5, 2), np.nan))


def test_rows_are_spread_over_all():
    usable = np.ones(100, np.bool_)
    usable[10] = False
    assert len(spread_rows(usable)) == 99
    some = spread_rows(usable, most=7)
    assert len(some) == 7 and some[0] == 0 and some[-1] == 99 and (np.diff(some) > 10).all()


def test_figures_and_findings_once_and_none_from_elsewhere(world, made):
    first = Result(name="ablation_summary", title="a", command="c", images="textures", rows=({"t": 1},),
                   findings=("said",), figures=("noised", "../outside"))  # fmt: skip
    (made.parent / "outside.png").write_bytes(b"secret")
    write_result(made, first)
    write_result(made, replace(first, name="ablation"))
    parts = gather(load_pipeline(world.file), file="x.toml", anchor="s0").parts
    by_title = [part for part in parts if part.title == "a"]
    assert [len(part.figures) for part in by_title] == [1, 0] and [part.findings for part in by_title] == [
        ("said",),
        (),
    ]
    assert base64.b64encode(b"secret").decode() not in str(parts)


def test_predictions_that_are_damaged_are_said(world, made):
    for file in (world.folder / "runs").rglob("predictions.npz"):
        file.write_bytes(b"no archive")
    section = gather(load_pipeline(world.file), file="x.toml", anchor="s0")
    assert not section.mistakes and "predictions.npz: damaged" in section.notes[0]
    assert [one.what for one in section.headlines] == ["best linear", "best other"]  # no gain can be told
    assert "predictions.npz: damaged" in page([section], title="t", command="c", version="1")


def test_a_damaged_store_is_said_and_the_others_are_shown(world, made):
    whole = gather(load_pipeline(world.file), file="x.toml", anchor="s0")
    store = next((world.folder / "cache" / "textures" / "train").glob("*/store.json"))
    store.write_text("{", encoding="utf-8")
    section = gather(load_pipeline(world.file), file="x.toml", anchor="s0")
    assert whole.notes == () and len(section.notes) == 1 and "store.json" in section.notes[0]
    assert len(section.stores.rows) == len(whole.stores.rows) - 1


def test_headlines_and_gain(world, made):
    section = gather(load_pipeline(world.file), file="x.toml", anchor="s0")
    rows = next(result.rows for result in read_results(made) if result.name == "heads")
    best = {row["best"]: row for row in rows if row["best"]}
    shown = {one.what: one for one in section.headlines}
    assert set(shown) == {*best, "over raw pixels"}
    assert shown["best linear"].value == f"{100 * best['best linear']['test_top1']:.2f} %"
    linear = [row for row in rows if row["head"] == "linear" and row["setting"] != "raw pixels"]
    top = max(linear, key=lambda row: row["validation_top1"])["validation_top1"]
    pixels = next(row for row in rows if row["setting"] == "raw pixels")
    gains = {f"{100 * (row['test_top1'] - pixels['test_top1']):+.2f} points" for row in linear
             if row["validation_top1"] == top}  # fmt: skip
    assert shown["over raw pixels"].value in gains


def table_of(*rows, name="heads"):
    return result_table(Result(name=name, title="", command="", images="", rows=rows))


def test_tables_show_shares_in_percent_and_intervals_in_one_column():
    table = table_of(
        {"head": "a", "run": "r", "validation_top1": 0.5, "test_top1": 0.5, "low": 0.4, "high": 0.6, "seconds": 2.0},
        {"head": "b", "run": "s", "validation_top1": None, "test_top1": 1, "low": 0.8, "high": 1.0, "seconds": 0.25},
    )
    assert table.columns == ("head", "valid. top-1, %", "test top-1, %", "95 %", "run", "seconds")
    assert [cell.text for cell in table.rows[0]] == ["a", "50.00", "50.00", "40.00-60.00", "r", "2"]
    assert [cell.text for cell in table.rows[1]] == ["b", "", "100.00", "80.00-100.00", "s", "0.25"]
    spans = [row[3].span for row in table.rows]
    assert [(one.left, one.width, one.mark) for one in spans] == [(0, 33.33, 16.67), (66.67, 33.33, 100)]
    assert [cell.key for cell in table.rows[0]][1:4] == ["0.5", "0.5", "0.4"]

    differences = table_of({"over_fresh": -0.01, "over_fresh_low": -0.02, "over_fresh_high": 0.0, "stored_bytes": 2000})
    assert differences.columns == ("over fresh, %", "over fresh 95 %", "stored bytes")
    assert [cell.text for cell in differences.rows[0]] == ["-1.00", "-2.00 to 0.00", "2.0 kB"]

    # a table of which only some values are shares is shown as it is
    mixed = table_of({"metric": "nll", "value": 2.5, "low": 0.1, "high": 0.2})
    assert [cell.text for cell in mixed.rows[0]] == ["nll", "2.5", "0.1-0.2"]
    assert table_of(name="none") is None and table_of({"x": 1.0}, name="projection") is None


def test_long_tables_are_folded_behind_the_best_on_validation():
    rows = [{"b": k, "validation_top1": k % 7 / 10, "test_top1": 1 - k / 100} for k in range(30)]
    table = table_of(*rows)
    assert table.folded and table.first == (6, 13, 20, 27, 5)
    assert not table_of(*rows[:5]).folded
    assert table_of(*({"b": k} for k in range(30))).first == ()


def test_small_images_are_kept_exactly_and_large_ones_are_small(world):
    class Source:
        ids = ("small", "large")

        def load(self, i):
            pixels = np.random.default_rng(i).integers(0, 256, ((12, 9, 3), (300, 400, 3))[i]).astype(np.uint8)
            return replace_pixels(pixels)

    from diffcache.analysis.mistakes import Mistake
    from diffcache.experiments.report import thumbnails as module
    from diffcache.images.source import LoadedImage

    def replace_pixels(pixels):
        return LoadedImage(pixels, b"")

    pipeline = load_pipeline(world.file)
    mistakes = [Mistake(id=one, true="a", predicted="b", probability=0.9, probability_of_true=0.1)
                for one in ("small", "large", "gone")]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_images", lambda pipeline: {"test": Source()})
        small, large, gone = (one.image for one in thumbnails(pipeline, mistakes))
    opened = [Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2]))) for one in (small, large)]
    assert np.array_equal(np.asarray(opened[0]), Source().load(0).pixels)
    assert opened[1].size == (128, 96) and gone is None


def test_the_same_bytes_again_and_several_pipelines_on_a_page(world, made):
    call("report", world.file)
    first = (made / "report.html").read_bytes()
    call("report", world.file)
    assert (made / "report.html").read_bytes() == first
    second = world.folder / "second.toml"
    second.write_text(world.file.read_text(encoding="utf-8").replace('"tiny"', '"second"'), encoding="utf-8")
    call("report", world.file, second, "--out", world.folder / "both.html")
    text = (world.folder / "both.html").read_text(encoding="utf-8")
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(set(ids)) == len(ids) and {"s0", "s1", "s1-again"} <= set(ids)
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(ids)
    # Heads of the first count for both, which are of the same images, and so do its stores.
    assert f"diffcache train-heads {second}" not in text and f"diffcache ablate {second}" in text
    assert text.count("<h3>What settings cost</h3>") == 1


def test_classification_and_generation_side_by_side(world, made):
    pipeline = load_pipeline(world.file)
    assert unified_table([pipeline]) is None  # no distance was measured
    row = {"a": "textures/test", "b": "samples.npz", "network": "tiny", "setting": "t5/b4/pool1", "n_a": 18, "n_b": 20,
           "distance": 3.14159}  # fmt: skip
    write_result(made, Result(name="frechet", title="distances", command="diffcache frechet A B", images="textures",
                              rows=(row, {**row, "b": "noise.npz", "distance": 250.0})))  # fmt: skip
    table = unified_table([pipeline])
    assert table is not None and [cells[3].text for cells in table.rows] == ["3.14", "250.00"]
    best = next(r for r in read_results(made) if r.name == "heads").rows
    top1 = next(r["test_top1"] for r in best if r["best"] == "best linear")
    assert {cells[1].text for cells in table.rows} == {f"{100 * top1:.2f}"}
    assert [cells[5].text for cells in table.rows] == ["samples.npz (20)", "noise.npz (20)"]
    call("report", world.file)
    text = (made / "report.html").read_text(encoding="utf-8")
    assert "One network, both ways" in text and "samples.npz (20)" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
def test_in_a_browser(world, made, tmp_path):
    """No error, no request, nothing wider than the window, in both schemes; tables sort and filter."""
    rows = tuple({"block": f"b{k}", "is": "odd" if k % 2 else "even", "long": "word " * 40} for k in range(40))
    write_result(made, Result(name="long", title="", command="", images="", rows=rows))
    call("report", world.file)
    colours = set()
    with browser(tmp_path / "profile") as tab:
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                tab.open(made / "report.html", width=width, scheme=scheme)
                for one in ("details:not([open])", "details"):  # folded and unfolded
                    assert tab.run("innerWidth") == width
                    assert tab.run("document.documentElement.scrollWidth") == width, one
                    tab.run(f"document.querySelectorAll({one!r}).forEach((one) => {{ one.open = true }})")
                colours.add(tab.run("getComputedStyle(document.body).backgroundColor"))
                assert tab.errors == [] and tab.requests == []
        assert len(colours) == 2
        assert tab.run("document.querySelectorAll('img[src=x]').length") == 0  # of the class of that name
        assert HOSTILE in tab.run("document.querySelector('.mistakes').textContent")
        tab.run(
            "window.named = (text) => [...document.querySelectorAll('.sortable')]"
            ".flatMap((table) => [...table.tHead.rows[0].cells].map((head) => [table, head]))"
            ".find(([, head]) => head.textContent === text)"
        )
        keys = (
            "(([table, head]) => [...table.tBodies[0].rows].filter((row) => !row.hidden)"
            ".map((row) => row.cells[head.cellIndex].dataset.key))(named('test top-1, %'))"
        )
        before = [float(key) for key in tab.run(keys)]
        tab.run("named('test top-1, %')[1].click()")
        assert [float(key) for key in tab.run(keys)] == sorted(before) and len(set(before)) > 1
        tab.run("named('test top-1, %')[1].click()")
        assert [float(key) for key in tab.run(keys)] == sorted(before, reverse=True)
        shown = "[...document.querySelectorAll('details .sortable tbody tr')].filter((row) => row.offsetParent).length"
        everything = tab.run(shown)
        tab.run("(() => { const one = document.querySelector('.filter input'); one.value = 'B1 even';"
                "one.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert everything - tab.run(shown) == 40 - 5  # b10, b12, b14, b16, b18 stay


def test_the_files_are_in_the_package():
    folder = Path(page.__code__.co_filename).parent
    assert {"report.html.jinja", "report.css", "report.js"} <= {file.name for file in folder.iterdir()}

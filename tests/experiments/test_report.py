"""Pictures and the report: of a whole tiny experiment, and of hostile texts; in a real browser where there is one."""

from __future__ import annotations

import csv
import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from diffcache.analysis.projection import project, spread_rows
from diffcache.cli import main
from diffcache.config import load_pipeline
from diffcache.errors import ConfigError, HeadError
from diffcache.experiments.report.gather import gather
from diffcache.experiments.report.page import page
from diffcache.experiments.results import read_results, results_folder, write_result

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def call(*args: object) -> str:
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == 0, (done.output, done.exc_info)
    return done.output


@pytest.fixture
def made(world):
    """The tiny experiment with runs, noised images and a projection; the folder of its results."""
    call("train-heads", world.file)
    call("noise", world.file, "--t", "0,50,900")
    call("project", world.file, "--method", "pca")
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
    done = CliRunner().invoke(main, ["report", str(world.file)])
    assert done.exit_code == 1 and "no results to report" in done.output and "train-heads" in done.output
    folder = results_folder(load_pipeline(world.file))
    folder.mkdir(parents=True)
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


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(world, made, tmp_path, width):
    """No error on the console, nothing wider than the window, and a click sorts a table."""
    call("report", world.file)
    text = (made / "report.html").read_text(encoding="utf-8")
    probe = """<script>
    const table = [...document.querySelectorAll("table.sortable")].find((one) => one.tBodies[0].rows.length > 2);
    const column = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent === "test top-1, %");
    table.tHead.rows[0].cells[column].click();
    const keys = [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.key));
    const sorted = keys.every((key, place) => place === 0 || keys[place - 1] <= key);
    const over = document.documentElement.scrollWidth - window.innerWidth;
    document.title = `over ${over} sorted ${sorted} rows ${keys.length}`;
    </script></body>"""
    file = tmp_path / "probe.html"
    file.write_text(text.replace("</body>", probe), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [
            str(CHROMIUM),
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            str(file),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>over (-?\d+) sorted (\w+) rows (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= 0 and found[2] == "true" and int(found[3]) > 2


def test_the_files_are_in_the_package():
    folder = Path(page.__code__.co_filename).parent
    assert {"report.html.jinja", "report.css", "report.js"} <= {file.name for file in folder.iterdir()}

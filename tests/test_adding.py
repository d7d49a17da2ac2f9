"""The README's recipes for image sets, heads, metrics and backbones: a file and a line each, in a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RECIPE = re.compile(
    r"Adding (?:a|an|one)\b[^\n]*? is a file and a line\.\s+`(?P<file>[^`]+)`:\n\n```python\n(?P<code>.*?)```\n\n"
    r"and `(?P<line>[^`]+)`\s+in\s+`(?P<table>\w+)`\s+of\s+`(?P<registry>[^`]+)`",
    re.DOTALL,
)

SHOWN = {
    "images/sets/toys.py": """
        from pathlib import Path
        import numpy as np
        from PIL import Image
        from diffcache.config import load_pipeline
        from diffcache.experiments.opening import open_images
        home = Path("toys"); (home / "images").mkdir(parents=True)
        for name in "abcd":
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(home / "images" / f"{name}.png")
        (home / "names.txt").write_text("cat\\ndog\\n")
        (home / "train.txt").write_text("images/a.png 0\\nimages/b.png 1\\n")
        (home / "test.txt").write_text("images/c.png 1\\nimages/d.png 0\\n")
        Path("p.toml").write_text('''
            [images]
            name = "toys"
            format = "toys"
            root = "toys"
            [backbone]
            card = "fashion_mnist_32"
            [extract]
            t = 10
            b = 7
            pool = 1
        ''')
        found = open_images(load_pipeline("p.toml"))
        print(list(found["train"].class_names), list(found["test"].labels))
        """,
    "heads/kinds/narrow.py": """
        from pathlib import Path
        from diffcache.config import head_sweep
        from diffcache.heads import train_sweep
        from tests.heads.stand_in import pair
        train, test = pair()
        sweep = head_sweep("narrow", {"epochs": 20, "lr": 5e-3, "seed": [0, 1], "device": "cpu"})
        run = train_sweep(train, test, sweep, runs="runs")
        print(run.kind, len(run.sweep), run.parameters, run.top1.value > 0.9)
        """,
    "analysis/metrics/top3.py": """
        import numpy as np
        from diffcache.analysis.metrics import described, measure_all
        labels, logits = np.array([0, 1, 2, 3]), np.tile(np.array([4.0, 3.0, 2.0, 1.0]), (4, 1))
        print(measure_all(labels, logits)["top3"].value, described()["top3"])
        """,
    "backbones/kinds/tiny.py": """
        import torch
        from torch import nn
        from diffcache import load_card, open_backbone
        torch.save(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)).state_dict(), "w.pt")
        backbone = open_backbone("tiny:w.pt", device="cpu", precision="fp32")
        found = backbone.features(torch.zeros(2, 1, 32, 32), t=None, noise=None, blocks=[2])
        recipe = backbone.recipe(seed=0, dtype="float16")
        print(f"{len(backbone.blocks)} layers, {backbone.blocks[1].shape}:", recipe.backbone, end=" ")
        print(backbone.card.name, tuple(found[2].shape))
        """,
}
"""Recipe's file to a script that uses what it adds."""

SAID = {
    "backbones/kinds/tiny.py": "2 layers, (8, 8, 8): tiny w (2, 8, 8, 8)",
    "images/sets/toys.py": "['cat', 'dog'] [np.int64(1), np.int64(0)]",
    "heads/kinds/narrow.py": f"narrow 2 {6 * 16 + 16 + 16 * 16 * 3 + 3} True",
    "analysis/metrics/top3.py": "0.75 Share of rows whose class is among the three likeliest.",
}


def recipes() -> dict[str, re.Match[str]]:
    found = RECIPE.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
    return {match["file"].removeprefix("diffcache/"): match for match in found}


def test_there_is_a_recipe_for_each():
    assert set(recipes()) == set(SHOWN)
    for file, recipe in recipes().items():
        assert len(recipe["code"].strip().splitlines()) <= (40 if file.startswith("backbones") else 16)


@pytest.mark.parametrize("file", SHOWN)
def test_a_recipe_is_all_that_is_needed(file, tmp_path):
    recipe = recipes()[file]
    shutil.copytree(ROOT / "diffcache", tmp_path / "diffcache", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "heads", tmp_path / "tests" / "heads", ignore=shutil.ignore_patterns("test_*"))
    added, registry = tmp_path / recipe["file"], tmp_path / recipe["registry"]
    assert not added.exists()
    added.write_text(recipe["code"])
    text = registry.read_text()
    begin = re.search(rf"^{recipe['table']}\b[^\n]*[({{]\n", text, re.MULTILINE)
    assert begin is not None
    registry.write_text(f"{text[: begin.end()]}    {recipe['line']}\n{text[begin.end() :]}")
    script = "\n".join(line.removeprefix(" " * 8) for line in SHOWN[file].splitlines())
    paths = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=paths, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == SAID[file]

"""Finished runs of made-up results, for the tests of listings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffcache.cache import Store
from diffcache.config import head_config, head_fields
from diffcache.heads.runs.run import METRICS, PREDICTIONS, RUN_FORMAT, RUN_JSON, WEIGHTS
from diffcache.setting import Setting


def write_run(root: Path, made_from: Setting, *, train: Store, test: Store, name: str, **changes: Any) -> Path:
    """A run's folder; ``changes`` replace keys of its record."""
    folder = root / train.images / name
    folder.mkdir(parents=True)
    for file in (METRICS, WEIGHTS, PREDICTIONS):
        (folder / file).write_bytes(b"")
    described = {
        role: {"images": store.images, "split": store.split, "fingerprint": store.fingerprint, "rows": 1}
        for role, store in (("train", train), ("test", test))
    }
    record = {
        "format": RUN_FORMAT,
        "images": train.images,
        "backbone": train.backbone,
        "setting": str(made_from),
        "shape": [16, 2, 2],
        "class_names": list(train.class_names),
        "head": head_fields(head_config("linear")),
        "features": described,
        "parameters": 3,
        "result": {
            "top1": {"value": 0.625, "low": 0.5, "high": 0.75, "correct": 5, "total": 8},
            "top5": None,
            "validation_top1": 0.5,
            "validation_loss": 1.0,
            "best_epoch": 1,
        },
        "seconds": 1.0,
    }
    (folder / RUN_JSON).write_text(json.dumps({**record, **changes}))
    return folder

"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import numpy as np

from diffcache.heads.evaluation import TOP5_ABOVE, Proportion, in_top, proportion


def measure(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | Proportion]:
    """Share of rows whose class is the likeliest; with more than ten classes, among the five likeliest too."""
    found: dict[str, float | Proportion] = {"top1": proportion(in_top(logits, labels, k=1))}
    if logits.shape[1] > TOP5_ABOVE:
        found["top5"] = proportion(in_top(logits, labels, k=5))
    return found

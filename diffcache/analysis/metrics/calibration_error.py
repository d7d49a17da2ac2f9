"""How far confidence is from accuracy (Guo et al. 2017, 1706.04599)."""

from __future__ import annotations

import numpy as np

from diffcache.analysis.calibration import reliability
from diffcache.analysis.probabilities import confidences


def measure(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Expected and maximum calibration error: |accuracy - mean confidence| in 15 bins of confidence."""
    predicted, confidence = confidences(logits)
    bins = [one for one in reliability(confidence, predicted == labels) if one.rows]
    expected = sum(one.rows * one.gap for one in bins) / len(labels)
    return {"expected_calibration_error": expected, "maximum_calibration_error": max(one.gap for one in bins)}

"""Proper scores of the probabilities: both are least, in expectation, for the true ones alone."""

from __future__ import annotations

import numpy as np

from diffcache.analysis.probabilities import log_probabilities


def measure(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Mean negative log-likelihood in nats, and Brier's score: squared error summed over the classes, from 0 to 2."""
    logs = log_probabilities(logits)
    own = logs[np.arange(len(labels)), labels]
    probabilities = np.exp(logs)
    # |p - y|^2 = |p|^2 - 2 p_y + 1, without an array of one-hot rows (Brier 1950, equation 2).
    brier = (probabilities**2).sum(axis=1) - 2 * np.exp(own) + 1
    return {"negative_log_likelihood": float(-own.mean()), "brier": float(np.maximum(brier, 0).mean())}

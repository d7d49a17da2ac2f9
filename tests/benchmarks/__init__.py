"""Benchmarks: what the library does, timed beside the floor under it, as ratios taken in one run.

``python -m tests.benchmarks`` runs them all, ``python -m tests.benchmarks gather`` one. A new one is a
file here with a function ``pairs``, and its name in :data:`BENCHMARKS`.
"""

BENCHMARKS = (
    "early_exit",
    "grid",
    "extract",
    "gather",
    "bucket",
    "epoch",
    "sweep",
    "scaling",
    "memory",
    "cka",
    "cluster",
    "experiment",
    "decode",
    "startup",
    "gpu",
)
"""Names of the modules, in the order of the table."""

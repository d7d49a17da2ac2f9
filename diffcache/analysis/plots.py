"""Pictures of results: one style for all of them, each saved as PNG and as SVG with the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcache.cache.files.disk import write_whole
from diffcache.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#B8A500")
"""Of lines and points, told apart with any colour vision: after Okabe & Ito 2008, its yellow darker, its black grey."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""For points, one beside each colour, so that a print in grey can be read too."""

COLOUR_MAP = "cividis"
"""For heatmaps: even in lightness, and the same with any colour vision (Nuñez, Anderton & Renslow 2018)."""

INK, FAINT = "#24292F", "#D0D7DE"
"""Of text and axes; of grids and edges."""

DPI = 150

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on any machine
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "image.cmap": COLOUR_MAP,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "diffcache",  # ids in an SVG are random otherwise
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def require_plots() -> None:
    """Raise DependencyError where matplotlib, which draws, cannot be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"matplotlib is needed for pictures and cannot be imported ({error}): pip install 'diffcache[plots]'"
        ) from None


@contextmanager
def picture(
    folder: Path, name: str, *, width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, Any]]:
    """Draw a picture: ``with picture(folder, "accuracy") as (figure, axes): axes.plot(...)``; saved at the end.

    No file is written where drawing fails. The user's own matplotlib settings change nothing.

    Args:
        folder: where its files go; made if it isn't there.
        name: stem of both files.
        width, height: of the whole, in inches.
        rows, columns: of a grid of axes.

    Yields:
        The figure and its axes: one, or an array of shape (rows, columns), of (columns,) or of (rows,).

    Raises:
        DependencyError: matplotlib is not installed.
    """
    require_plots()
    from cycler import cycler
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.figure import Figure

    # All settings, not ours alone, or a matplotlibrc of the user would show; but the backend is the process's own.
    settings: dict[Any, Any] = {key: rcParamsDefault[key] for key in rcParamsDefault if "backend" not in key}
    settings |= _STYLE
    with rc_context({**settings, "axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots(rows, columns)
        save(figure, folder, name)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.svg``, each whole; equal figures give equal bytes (with one matplotlib).

    Returns:
        The two files.
    """
    from matplotlib import rc_context

    files = folder / f"{name}.png", folder / f"{name}.svg"
    # Neither the time nor the version of matplotlib goes into the files.
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    for file in files:
        kind, content = file.suffix[1:], io.BytesIO()
        with rc_context({"svg.hashsalt": _STYLE["svg.hashsalt"], "svg.fonttype": _STYLE["svg.fonttype"]}):
            figure.savefig(content, format=kind, dpi=DPI, metadata=metadata[kind])
        write_whole(file, content.getvalue(), tmp=folder)
    return files

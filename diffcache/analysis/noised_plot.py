"""Images with more and more noise, as the paper's figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffcache.analysis.plots import picture


def draw_noised(images: np.ndarray, ts: Sequence[int], names: Sequence[str], folder: Path, *, title: str) -> str:
    """A grid: an image a row, a time step a column; the stem of the picture.

    Args:
        images: in [-1, 1] and beyond, which is cut off; (rows, len(ts), channels, height, width).
        ts: time steps.
        names: of the rows.
        folder: where the picture goes.
        title: what is shown.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    rows, columns = images.shape[:2]
    shown = np.clip((images + 1) / 2, 0, 1).transpose(0, 1, 3, 4, 2)
    with picture(folder, "noised", width=1.1 + 1.0 * columns, height=0.6 + 1.0 * rows, rows=rows, columns=columns) as (
        figure,
        axes,
    ):
        grid = np.asarray(axes).reshape(rows, columns)
        for row in range(rows):
            for column, t in enumerate(ts):
                one = grid[row, column]
                image = shown[row, column]
                one.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
                one.set(xticks=[], yticks=[])
                one.grid(visible=False)
                for spine in one.spines.values():
                    spine.set_visible(False)
                if row == 0:
                    one.set_title(f"t = {t}", loc="center", fontsize=9)
                if column == 0:
                    one.set_ylabel(names[row], rotation=0, ha="right", va="center")
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return "noised"

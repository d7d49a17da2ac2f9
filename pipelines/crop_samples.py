"""Cut the middle out of samples: the demo's network draws 28x28 images padded to 32x32, others are shown 28x28 ones.

python pipelines/crop_samples.py data/samples/50.npz data/samples/28/50.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Write ``arr_0``, uint8 (n, size, size, 3)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=28)
    arguments = parser.parse_args()
    with np.load(arguments.samples, allow_pickle=False) as arrays:
        images = arrays["arr_0"]
    top, left = ((side - arguments.size) // 2 for side in images.shape[1:3])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out, arr_0=images[:, top : top + arguments.size, left : left + arguments.size])
    print(f"{arguments.out}: {len(images):,} images")


if __name__ == "__main__":
    main()

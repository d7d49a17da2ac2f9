"""Write images of uniform noise as samplers write theirs: the far end of a scale of Frechet distances.

python pipelines/noise_images.py data/samples/noise.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Write ``arr_0``, uint8 (count, size, size, 3), grey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    shape = (arguments.count, arguments.size, arguments.size, 1)
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out, arr_0=grey.repeat(3, axis=3))
    print(f"{arguments.out}: {arguments.count:,} images")


if __name__ == "__main__":
    main()

"""JPEG files to squares of bytes, over a plain loop with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from diffcache.images import Preprocessing, load_batches, open_folder
from tests.benchmarks.frame import Pair

IMAGES = 128
BATCH = 32
WIDTH, HEIGHT = 500, 375
SIZE = 256


def pairs(scratch: Path) -> Iterator[Pair]:
    """One decoding thread and two, which also hash each file; the loop decodes, scales, cuts and keeps the bytes.

    For two threads it is the loop in as many, each with every other batch: all cores have the same to do.
    """
    folder = scratch / "images" / "all"
    _write_images(folder)
    source, preprocessing = open_folder(folder.parent), Preprocessing(image_size=SIZE)
    batches = np.split(np.arange(IMAGES), IMAGES // BATCH)
    files = sorted(folder.iterdir())

    def ours(threads: int) -> None:
        for _ in load_batches(source, preprocessing, batches, threads=threads, ahead=2):
            pass

    def loop(some: Sequence[np.ndarray]) -> None:
        for rows in some:
            pixels = np.empty((BATCH, 3, SIZE, SIZE), np.uint8)
            for k, i in enumerate(rows):
                pixels[k] = _square(files[i])

    def bare(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(loop, [batches[k::threads] for k in range(threads)]))

    # Other squares would be other work.
    first = next(load_batches(source, preprocessing, [[0]], threads=1, ahead=1))
    assert np.array_equal(first.pixels[0], _square(files[0]))

    for threads in (1, 2):
        yield Pair(
            what=f"load_batches, {threads} threads, {IMAGES} JPEGs {WIDTH}x{HEIGHT} to {SIZE}, over a bare Pillow loop "
            "in as many",
            ours=partial(ours, threads),
            floor=partial(bare, threads),
            most=1.10,
        )


def _square(file: Path) -> np.ndarray:
    """What the network's preprocessing comes to for images of this one size, uint8 (3, SIZE, SIZE)."""
    with Image.open(file) as image:
        scaled = image.resize((round(WIDTH * SIZE / HEIGHT), SIZE), Image.Resampling.BICUBIC)
    left = (scaled.width - SIZE) // 2
    return np.asarray(scaled.crop((left, 0, left + SIZE, SIZE))).transpose(2, 0, 1)


def _write_images(folder: Path) -> None:
    """Coarse shapes with some grain: about as many bytes as a photograph of that size."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        grain = random.normal(0, 6, (HEIGHT, WIDTH, 1))
        picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{i:03d}.jpg", quality=90)

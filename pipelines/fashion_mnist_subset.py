"""Cut the embedded image set out of Fashion-MNIST: the first images of each split, as gzip IDX.

    python pipelines/fashion_mnist_subset.py FOLDER data/fashion_mnist

FOLDER holds the four files that Zalando publishes (on Debian, the package dataset-fashion-mnist puts
them in /usr/share/datasets/fashion-mnist). The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import click

KEPT = {"train": 10_000, "t10k": 2_000}


@click.command(help=__doc__.split("\n\n", 1)[0])
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for split, count in KEPT.items():
        for what in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
            place = out / f"{split}-{what}"
            place.write_bytes(gzip.compress(first(gzip.decompress((folder / place.name).read_bytes()), count), mtime=0))
            click.echo(f"{place}: {count} items, {place.stat().st_size:,} bytes")


def first(idx: bytes, count: int) -> bytes:
    """An IDX file cut to its first ``count`` items."""
    dimensions = idx[3]
    shape = struct.unpack(f">{dimensions}I", idx[4 : 4 + 4 * dimensions])
    if count > shape[0]:
        raise click.ClickException(f"asked for {count} items, the file has {shape[0]}")
    header = idx[:4] + struct.pack(f">{dimensions}I", count, *shape[1:])
    item = 1
    for side in shape[1:]:
        item *= side
    return header + idx[4 + 4 * dimensions :][: count * item]


if __name__ == "__main__":
    main()

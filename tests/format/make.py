"""Makes the stores below ``v1``, which then stay as they are: what this version writes, later ones must go on reading.

    python -m tests.format.make

It refuses to overwrite: a store that was made again by other code or other libraries tests less. A new version of the
format gets a folder of its own.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from diffcache.cache import Cache, RowRange, Samples, Writer, convert_store, layout, open_cache
from diffcache.cache.formats import compressed
from diffcache.recipe import Recipe
from diffcache.setting import Setting
from tests.format import known

CHECKSUMS = known.STORED.with_suffix(".sha256")


def main() -> None:
    """Make all of them and the list of their checksums."""
    if known.STORED.exists():
        sys.exit(f"{known.STORED} is there already: stored stores are not made again")
    # A few kilobytes a chunk, so that few rows make several chunks and the last one has padding.
    layout.CHUNK_BYTES = compressed.CHUNK_BYTES = 4096
    for kind in known.KINDS:
        make(known.STORED / kind, kind)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(known.STORED.parent).as_posix()}\n"
        for path in stored_files()
    ]
    CHECKSUMS.write_text("".join(lines), encoding="utf-8", newline="\n")


def stored_files() -> list[Path]:
    """Every stored file, sorted by name."""
    return sorted((path for path in known.STORED.rglob("*") if path.is_file()), key=lambda path: path.as_posix())


def make(root: Path, kind: str) -> None:
    """Make one of the kinds as a cache in the folder ``root``."""
    format, _, compression = kind.partition("-")
    if compression:
        source = Cache(root.parent / format).stores()[0]
        convert_store(source, root, format=format, compression=compression)
        return
    first, more = known.SEGMENTS
    cache = open_cache(root, create=True)
    samples = Samples(known.ids(), known.labels(), known.CLASSES)
    store = cache.create_store(
        images=known.IMAGES,
        split=known.SPLIT,
        recipe=Recipe(**known.RECIPE),
        samples=samples[:first],
        format=format,
        backbone=known.BACKBONE,
        group_size=known.GROUP,
    )
    with store.writing() as writer:
        writer.mark({row: why for row, why in known.MARKS.items() if row in known.ZEROS})
        writer.add_segment(samples[first : first + more])
        shapes = {Setting.parse(text): shape for text, shape in known.SHAPES.items()}
        writer.add_arrays(shapes, block_names=known.BLOCKS)
        for pass_ in sorted({setting.pass_ for setting in shapes}):
            chosen = [setting for setting in shapes if setting.pass_ == pass_]
            for rows in store.missing(chosen)[chosen[0]]:
                write(writer, rows, chosen)
        writer.mark({row: why for row, why in known.MARKS.items() if row not in known.ZEROS})


def write(writer: Writer, rows: RowRange, chosen: list[Setting]) -> None:
    """Write and commit a range of the settings of a pass."""
    at = writer.store.segments[rows.segment].first_row + rows.start
    some = slice(at, at + rows.rows)
    with writer.begin(rows, chosen) as part:
        for setting in chosen:
            part.write(setting, rows.start, known.features(str(setting))[some])
        part.commit(
            known.content_hashes()[some],
            provenance={"group_size": known.GROUP, "device": "none"},
            fallbacks=[{"what": "precision", "asked": "bf16", "used": "fp32", "why": "a toy"}],
            stamps=known.stamps()[some],
        )


if __name__ == "__main__":
    main()

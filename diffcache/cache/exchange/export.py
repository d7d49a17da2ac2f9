"""Features of one setting as one file that other programs read: NumPy, safetensors or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffcache.cache.features import Features
from diffcache.cache.files.disk import disk_full, draft_name, flush_folder, require_room
from diffcache.errors import CacheError, ConfigError, DependencyError, MissingError, NotCachedError
from diffcache.events import OnEvent, Progress, ignore
from diffcache.recipe import Plain, canonical_json

_PIECE_BYTES = 8 << 20
"""Rows are read and written in pieces of about this."""

_DRAFT = ".export-"
"""How names of drafts begin: they may lie in a cache, whose own drafts any maker of a store removes."""

_GROUP_BYTES = 16 << 20
"""Bytes of a Parquet row group, which its writer holds in memory."""

_LONGEST_HEADER = 100_000_000
"""Bytes of the longest header that the safetensors library reads."""

_SAFETENSORS_TYPES = {"float16": "F16", "float32": "F32"}
_Pieces = Iterator[tuple[int, np.ndarray[Any, Any]]]


def export_features(
    features: Features, out: str | Path, *, replace: bool = False, on_event: OnEvent = ignore
) -> tuple[Path, ...]:
    """Write features with their samples into a file of another kind, in bounded memory.

    The ending of ``out`` decides what is written:

    - ``.npy``: the features (rows, C, H, W); beside it ``<stem>.labels.npy``, int64 (rows,), and
      ``<stem>.samples.csv`` with the columns row, id, label, class, marked (why the row's image could not be used).
      In the CSV, texts are as :func:`csv_text` writes them.
    - ``.safetensors``: the tensors ``features``, ``labels`` (int64) and ``marked`` (uint8, 1 where the row's image
      could not be used); in the metadata, as JSON, ``ids``, ``class_names``, ``marks``, ``recipe``, and as texts
      ``fingerprint``, ``setting``, ``derived_from``, ``block``, ``images``, ``split``.
    - ``.parquet``: the columns id, label, class, marked, and features as lists of C * H * W values of the stored
      type; the same metadata under ``diffcache``, as JSON, with ``shape``, the (C, H, W) of a row.

    Args:
        features: complete ones.
        out: the file; it is written under another name first.
        replace: whether files that are there are replaced.
        on_event: hears of progress.

    Returns:
        The files that were written, ``out`` first.

    Raises:
        ConfigError: another ending, or a file is there and is not to be replaced.
        NotCachedError: rows are missing.
        MissingError: the folder is not there.
        CacheError: the ids are too long together for the header of a safetensors file.
        DependencyError: pyarrow, which writes Parquet, is not installed.
        DiskFullError: no room.
    """
    out = Path(out).expanduser()
    if out.suffix not in _WRITERS:
        raise ConfigError(f"{out}: expected a name that ends in {', '.join(_WRITERS)}, got {out.suffix or 'no ending'}")
    if not out.parent.is_dir():
        raise MissingError(f"{out.parent}: no such folder; make it first")
    files = (out, *(out.with_name(out.stem + ending) for ending in _BESIDE.get(out.suffix, ())))
    if not replace:
        for file in files:
            if file.exists() or file.is_symlink():
                raise ConfigError(f"{file}: there is such a file already; name another, or replace it with --force")
    missing = int((~features.committed).sum())
    if missing:
        raise NotCachedError(f"{features.store.path}: {features.setting} lacks {missing} of {len(features)} rows")
    require_room(out.parent, features.nbytes if out.suffix != ".parquet" else 0)
    drafts = {file: out.with_name(draft_name(_DRAFT)) for file in files}
    try:
        with disk_full(out, features.nbytes):
            _WRITERS[out.suffix](features, tuple(drafts.values()), on_event)
            for file, draft in reversed(drafts.items()):  # the main one last: where it is, the others are
                draft.rename(file)
        flush_folder(out.parent)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return files


def csv_text(text: str) -> str:
    """A text that is safe in a CSV file that people open in a terminal or a spreadsheet.

    Backslashes, and control and other unprintable characters are escaped as Python does: ``a\\\\b``, ``a\\x1bb``.
    Then a text that a spreadsheet would take for a formula, since it begins with ``=``, ``+``, ``-`` or ``@``, gets
    an apostrophe in front, as does one that begins with an apostrophe, so that each has one meaning.
    """
    safe = "".join(
        one if one.isprintable() and one != "\\" else one.encode("unicode_escape").decode("ascii") for one in text
    )
    return f"'{safe}" if safe.startswith(("=", "+", "-", "@", "'")) else safe


# --- NumPy ------------------------------------------------------------------------------------


def _write_npy(features: Features, drafts: tuple[Path, ...], on_event: OnEvent) -> None:
    values, labels, samples = drafts
    with _new_file(values) as file:
        header = {"descr": features.dtype.str, "fortran_order": False, "shape": features.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for _, piece in _pieces(features, on_event):
            file.write(piece.reshape(-1).view(np.uint8).data)
    with _new_file(labels) as file:
        np.save(file, features.labels.astype("<i8"), allow_pickle=False)
    with _new_file(samples, text=True) as file:
        table = csv.writer(file)
        table.writerow(["row", "id", "label", "class", "marked"])
        names, marks = features.class_names, features.marks
        for row, (id_, label) in enumerate(zip(features.ids, features.labels.tolist(), strict=True)):
            name = names[label] if names else ""
            table.writerow([row, csv_text(id_), label, csv_text(name), csv_text(marks.get(row, ""))])


# --- safetensors ------------------------------------------------------------------------------


def _write_safetensors(features: Features, drafts: tuple[Path, ...], on_event: OnEvent) -> None:
    """As the format is documented: the header's length (8 bytes, little-endian), the header in JSON, the raw values.

    The library's own writer takes all values in memory.
    """
    rows, (draft,) = len(features), drafts
    tensors = {  # the widest type first, so that each is aligned
        "labels": ("I64", [rows], 8 * rows),
        "features": (_SAFETENSORS_TYPES[features.dtype.name], list(features.shape), features.nbytes),
        "marked": ("U8", [rows], rows),
    }
    facts = _facts(features)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    header: dict[str, Plain] = {"__metadata__": {**texts, "ids": json.dumps(list(features.ids))}}
    at = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    if len(data) > _LONGEST_HEADER:
        raise CacheError(
            f"{features.store.path}: the ids take {len(data)} bytes, and a safetensors file holds at most "
            f"{_LONGEST_HEADER} beside its tensors; export to .npy or .parquet"
        )
    with _new_file(draft) as file:
        file.write(len(data).to_bytes(8, "little"))
        file.write(data)
        file.write(features.labels.astype("<i8").tobytes())
        for _, piece in _pieces(features, on_event):
            file.write(piece.reshape(-1).view(np.uint8).data)
        file.write(features.marked.astype(np.uint8).tobytes())


# --- Parquet ----------------------------------------------------------------------------------


def _write_parquet(features: Features, drafts: tuple[Path, ...], on_event: OnEvent) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyError(
            f"pyarrow is needed for Parquet and cannot be imported ({error}): pip install 'diffcache[parquet]'"
        ) from None

    shape = features.shape[1:]
    size = int(np.prod(shape))
    kind = pa.float16() if features.dtype == np.float16 else pa.float32()
    columns = [("id", pa.string()), ("label", pa.int64()), ("class", pa.string()), ("marked", pa.string())]
    facts = json.dumps({**_facts(features), "shape": shape})
    schema = pa.schema([*columns, ("features", pa.list_(kind, size))]).with_metadata({"diffcache": facts})
    ids, labels, names, marks = features.ids, features.labels, features.class_names, features.marks
    (draft,) = drafts
    # A byte of each value beside the same byte of the next: what changes little from value to value compresses.
    split = {"use_dictionary": ["class"], "use_byte_stream_split": ["features.list.element"]}
    with _new_file(draft) as file, pq.ParquetWriter(file, schema, compression="zstd", **split) as writer:
        for start, piece in _pieces(features, on_event, nbytes=_GROUP_BYTES):
            here = range(start, start + len(piece))
            some = labels[start : here.stop]
            values = pa.array(piece.reshape(-1))
            columns = [
                pa.array(ids[start : here.stop], pa.string()),
                pa.array(some, pa.int64()),
                pa.array([names[label] for label in some.tolist()] if names else [None] * len(here), pa.string()),
                pa.array([marks.get(row) for row in here], pa.string()),
                pa.FixedSizeListArray.from_arrays(values, size),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(here))


# --- what they share --------------------------------------------------------------------------

_Writer = Callable[[Features, tuple[Path, ...], OnEvent], None]
_WRITERS: Mapping[str, _Writer] = {
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
}
_BESIDE = {".npy": (".labels.npy", ".samples.csv")}


def _facts(features: Features) -> dict[str, Plain]:
    """What a file says of the features in it."""
    derived = features.derived_from
    return {
        "setting": str(features.setting),
        "derived_from": "" if derived is None else str(derived),
        "block": features.block,
        "images": features.images,
        "split": features.split,
        "backbone": features.store.backbone,
        "fingerprint": features.fingerprint,
        "recipe": json.loads(canonical_json(features.recipe.plain())),
        "class_names": list(features.class_names),
        "marks": {str(row): features.marks[row] for row in sorted(features.marks)},
    }


def _pieces(features: Features, on_event: OnEvent, *, nbytes: int | None = None) -> _Pieces:
    """(first row, values) of all rows in order, little-endian and C-contiguous."""
    rows = len(features)
    step = max(1, (nbytes or _PIECE_BYTES) * rows // features.nbytes)
    task = f"export {features.images}/{features.split} {features.setting}"
    on_event(Progress(task, 0, rows, "rows"))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, features.gather(np.arange(start, stop))
        on_event(Progress(task, stop, rows, "rows"))


@contextmanager
def _new_file(path: Path, *, text: bool = False) -> Iterator[IO[Any]]:
    """A file that wasn't there, flushed at the end."""
    kind: dict[str, Any] = {"mode": "x", "encoding": "utf-8", "newline": ""} if text else {"mode": "xb"}
    with path.open(**kind) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())

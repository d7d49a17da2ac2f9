"""A reader of stores that was written from FORMAT.md alone: the standard library and NumPy, no zarr, HDF5 or diffcache.

    python tests/format/reader.py STORE

It tells what is damaged and what is committed. Features and everything under a checksum can be read of plain stores;
ids and labels only of zarr, and of compressed stores no features: their chunks are checked as bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
TYPES = {"float16": "<f2", "float32": "<f4", "uint8": "|u1"}
SETTING = re.compile(r"t(-|0|[1-9]\d{0,5})/b[1-9]\d{0,3}/pool(0|[1-9]\d{0,3})(?:/draw([1-9]\d{0,5}))?", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

RECIPE = {
    *("backbone", "architecture", "weights", "schedule", "preprocessing", "conditioning", "augmentation"),
    *("seed", "precision", "dtype", "version", "format_version"),
}
HEADER = {
    *("format_version", "images", "split", "recipe", "fingerprint", "format", "compression", "backbone"),
    *("class_names", "group_size", "range_rows", "created_by"),
}
SEGMENT = {"format_version", "segment", "first_row", "rows", "samples", "content_hash", "marked", "skeleton", "store"}
ARRAY = {"format_version", "segment", "setting", "block", "features", "committed", "skeleton"}
RECEIPT = {
    *("format_version", "fingerprint", "segment", "rows", "t", "draw", "settings", "samples", "content", "provenance"),
    *("fallbacks", "statistics"),
}


class Damage(Exception):
    """Something in a store is not as the page says."""


class NeedsLibrary(Exception):
    """This can be read, but not without the library of the file format."""


# --- texts --------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """The one text of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def unseal(path: Path, fields: set[str]) -> dict[str, Any]:
    """The values of a sealed file of format 1 with exactly these fields."""
    text = path.read_bytes().decode("latin-1")
    if not (text.isascii() and text.startswith('{"checksum":"') and text[77:79] == '",' and text.endswith("\n")):
        raise Damage(f"{path}: no sealed JSON")
    body = "{" + text[79:-1]
    if sha256(body.encode()) != text[13:77]:
        raise Damage(f"{path}: its text is not what its checksum was taken of")
    values = json.loads(body)
    version = values.get("format_version")
    if version != 1:
        raise Damage(f"{path}: of format {version}, which this page does not describe")
    if values.keys() != fields:
        raise Damage(f"{path}: expected the fields {sorted(fields)}, found {sorted(values)}")
    return dict(values)


def pass_of(setting: str) -> tuple[int | None, int]:
    """(t, draw) of a setting's text."""
    match = SETTING.fullmatch(setting)
    if match is None:
        raise Damage(f"{setting!r} is no setting")
    return (None if match[1] == "-" else int(match[1])), int(match[3] or 0)


# --- what a store holds -------------------------------------------------------------------------


@dataclass
class Store:
    """A store as the page's "What exists" has it.

    Attributes:
        root: its folder.
        header: ``store.json``.
        segments: the listings of its segments.
        arrays: those of its arrays, by segment and setting.
        receipts: the valid receipts.
        marks: reason by row, rows counted over the store.
        damage: what cannot be used: listings of arrays, receipts, marks.
    """

    root: Path
    header: dict[str, Any] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[int, str] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(segment["rows"] for segment in self.segments)

    @property
    def compressed(self) -> bool:
        return self.header["compression"] is not None

    @property
    def settings(self) -> list[str]:
        return sorted({setting for _, setting in self.arrays})

    def place(self, number: int) -> str:
        return f"features.{self.header['format']}/segment-{number:05d}"

    # --- opening ----------------------------------------------------------------------------

    def open(self) -> Store:
        """Read all JSON files; Damage where the store or a segment cannot be used."""
        self.header = header = unseal(self.root / "store.json", HEADER)
        if header["recipe"].keys() != RECIPE or sha256(canonical(header["recipe"]).encode()) != header["fingerprint"]:
            raise Damage("store.json: the fingerprint is not that of the recipe")
        if header["format"] not in ("zarr", "hdf5") or header["compression"] not in (None, "zstd"):
            raise Damage("store.json: a format or compression that this page does not know")
        if header["range_rows"] % header["group_size"]:
            raise Damage("store.json: ranges are no whole groups")
        if not (NAME.fullmatch(header["images"]) and NAME.fullmatch(header["split"])):
            raise Damage("store.json: its names cannot be those of folders")
        for number, path in enumerate(sorted((self.root / "segments").glob("segment-?????.json"))):
            self.segments.append(self._segment(number, path))
        if not self.segments:
            raise Damage("segments: there is none")
        for number in range(len(self.segments)):
            for path in sorted((self.root / f"arrays/segment-{number:05d}").glob("*.json")):
                self._try(path, self._array, number)
            for path in sorted((self.root / f"receipts/segment-{number:05d}").glob("*.json")):
                self._try(path, self._receipt, number)
            path = self.root / f"marks/segment-{number:05d}.json"
            if path.exists():
                self._try(path, self._marks, number)
        return self

    def _try(self, path: Path, read: Any, number: int) -> None:
        try:
            read(number, path)
        except (Damage, OSError) as error:
            self.damage.append(f"{path.relative_to(self.root)}: {error}")

    def _segment(self, number: int, path: Path) -> dict[str, Any]:
        segment = unseal(path, SEGMENT)
        if path.name != f"segment-{number:05d}.json" or (segment["segment"], segment["first_row"]) != (
            number,
            self.rows,
        ):
            raise Damage(f"{path}: a segment before it is missing, or it was moved")
        if segment["store"] != self.header:
            raise Damage(f"{path}: of another store")
        self._check(segment["content_hash"], [segment["rows"], 32], "uint8")
        self._check(segment["marked"], [segment["rows"]], "uint8")
        return segment

    def _array(self, number: int, path: Path) -> None:
        array = unseal(path, ARRAY)
        setting, rows = array["setting"], self.segments[number]["rows"]
        pass_of(setting)
        if path.name != f"{setting.replace('/', '.')}.json" or array["segment"] != number:
            raise Damage("of another place")
        shape = array["features"]["shape"]
        if len(shape) != 4 or shape[0] != rows:
            raise Damage(f"not of {rows} rows")
        self._check(array["features"], shape, self.header["recipe"]["dtype"], compressed=self.compressed)
        self._check(array["committed"], [rows], "uint8")
        self.arrays[number, setting] = array

    def _check(self, extents: dict[str, Any], shape: list[int], dtype: str, *, compressed: bool = False) -> None:
        held = sum(rows for _, _, rows in extents["runs"])
        if extents["shape"] != shape or extents["dtype"] != dtype or held != (0 if compressed else shape[0]):
            raise Damage(f"expected the extents of {dtype} {shape}")
        for path, offset, _ in extents["runs"]:
            if path.startswith("/") or ".." in path.split("/") or offset < 0:
                raise Damage(f"{path} leaves the store")

    def _receipt(self, number: int, path: Path) -> None:
        receipt = unseal(path, RECEIPT)
        segment, (start, stop), step = self.segments[number], receipt["rows"], self.header["range_rows"]
        key = sha256(canonical(sorted(receipt["settings"])).encode())[:12]
        t = "-" if receipt["t"] is None else receipt["t"]
        if path.name != f"{start:09d}.t{t}.draw{receipt['draw']}.{key}.json" or receipt["segment"] != number:
            raise Damage("of another place")
        if receipt["fingerprint"] != self.header["fingerprint"] or receipt["samples"] != segment["samples"]:
            raise Damage("of another store")
        if not receipt["settings"] or {pass_of(s) for s in receipt["settings"]} != {(receipt["t"], receipt["draw"])}:
            raise Damage("its settings are not of its pass")
        if not 0 <= start < stop or start % step or stop != min(start + step, segment["rows"]):
            raise Damage("its rows are none of the ranges")
        self.receipts.append(receipt)

    def _marks(self, number: int, path: Path) -> None:
        values = unseal(path, {"format_version", "segment", "marks"})
        for row, reason in values["marks"].items():
            if not 0 <= int(row) < self.segments[number]["rows"] or values["segment"] != number:
                raise Damage("of another segment")
            self.marks[self.segments[number]["first_row"] + int(row)] = reason

    # --- reading ----------------------------------------------------------------------------

    def committed(self, setting: str) -> Array:
        """Which rows of a setting are committed, bool (rows,)."""
        mask = np.zeros(self.rows, bool)
        for receipt in self.receipts:
            if setting in receipt["settings"] and (receipt["segment"], setting) in self.arrays:
                first = self.segments[receipt["segment"]]["first_row"]
                mask[first + receipt["rows"][0] : first + receipt["rows"][1]] = True
        return mask

    def features(self, setting: str) -> Array:
        """All rows of a setting, (rows, C, H, W); those that are not committed hold anything."""
        return np.concatenate([self.read(self.arrays[n, setting]["features"]) for n in range(len(self.segments))])

    def content_hashes(self) -> Array:
        """uint8 (rows, 32)."""
        return np.concatenate([self.read(segment["content_hash"]) for segment in self.segments])

    def read(self, extents: dict[str, Any]) -> Array:
        """The rows of an array through its runs."""
        dtype, shape = np.dtype(TYPES[extents["dtype"]]), extents["shape"]
        if not extents["runs"]:
            raise NeedsLibrary("compressed features")
        row = dtype.itemsize * int(np.prod(shape[1:], dtype=object))
        parts = []
        for path, offset, rows in extents["runs"]:
            with (self.root / path).open("rb") as file:
                file.seek(offset)
                parts.append(file.read(rows * row))
            if len(parts[-1]) != rows * row:
                raise Damage(f"{path}: it ends too early")
        return np.frombuffer(b"".join(parts), dtype).reshape(shape)

    @cached_property
    def samples(self) -> tuple[list[str], Array]:
        """Ids and labels of all rows, of zarr stores."""
        tables = [self.segment_samples(number) for number in range(len(self.segments))]
        return [id_ for ids, _ in tables for id_ in ids], np.concatenate([labels for _, labels in tables])

    def segment_samples(self, number: int) -> tuple[list[str], Array]:
        """Ids and labels of a segment, checked."""
        if self.header["format"] != "zarr":
            raise NeedsLibrary("ids and labels in HDF5")
        folder = self.root / self.place(number)
        data = (folder / "id/c.0").read_bytes()
        ids, at = [], 4
        for _ in range(int.from_bytes(data[:4], "little")):
            if at >= len(data):
                raise Damage(f"{self.place(number)}: the ids end too early")
            length = int.from_bytes(data[at : at + 4], "little")
            ids.append(data[at + 4 : at + 4 + length].decode())
            at += 4 + length
        labels = np.frombuffer((folder / "label/c.0").read_bytes(), "<i8")
        text = f"diffcache-samples-1\n{len(ids)}\n{canonical(self.header['class_names'])}\n".encode()
        text += labels.tobytes() + b"".join(id_.encode() + b"\0" for id_ in ids)
        if sha256(text) != self.segments[number]["samples"]:
            raise Damage(f"{self.place(number)}: ids and labels are not those that rows were committed for")
        return ids, labels

    # --- checking ---------------------------------------------------------------------------

    def check(self) -> list[str]:
        """All that is wrong: what opening found, and every checksum."""
        found = list(self.damage)
        for check in (self._check_samples, self._check_rows, self._check_skeletons, self._check_bytes):
            found += check()
        return found

    def _check_samples(self) -> Iterator[str]:
        for number in range(len(self.segments)):
            try:
                self.segment_samples(number)
            except NeedsLibrary:
                pass
            except (Damage, OSError, ValueError) as error:  # ValueError: no UTF-8, no whole labels
                yield str(error)

    def _check_rows(self) -> Iterator[str]:
        hashes = [self.read(segment["content_hash"]) for segment in self.segments]
        for receipt in self.receipts:
            number, (start, stop) = receipt["segment"], receipt["rows"]
            where = f"segment {number} rows {start} to {stop - 1}"
            if sha256(hashes[number][start:stop].tobytes()) != receipt["content"]:
                yield f"{where}: content hashes"
            for setting, expected in receipt["settings"].items():
                if (number, setting) not in self.arrays:
                    yield f"{where}: {setting} has no array"
                    continue
                try:
                    values = self.read(self.arrays[number, setting]["features"])[start:stop]
                except NeedsLibrary:
                    continue
                binding = f"diffcache-1\n{self.header['fingerprint']}\n{setting}\n{number}:{start}:{stop}\n"
                if sha256(binding.encode() + values.tobytes()) != expected:
                    yield f"{where}: features of {setting}"
                elif not np.isfinite(values).all():
                    yield f"{where}: features of {setting} are not finite"

    def _check_skeletons(self) -> Iterator[str]:
        zarr = self.header["format"] == "zarr"
        for number, segment in enumerate(self.segments):
            own = ["zarr.json", "id", "label", "content_hash", "marked"] if zarr else ["samples.h5"]
            if self._skeleton(number, own, segment["content_hash"], segment["marked"]) != segment["skeleton"]:
                yield f"segment {number}: skeleton"
        for (number, setting), array in self.arrays.items():
            name = setting.replace("/", ".")
            own = [name, f"{name}.committed"] if zarr else [f"{name}.h5"]
            if self._skeleton(number, own, array["features"], array["committed"]) != array["skeleton"]:
                yield f"segment {number} {setting}: skeleton"

    def _skeleton(self, number: int, entries: list[str], *arrays: dict[str, Any]) -> str:
        folder = self.root / self.place(number)
        files = {}
        for entry in entries:
            paths = [folder / entry] if (folder / entry).is_file() else (folder / entry).rglob("*")
            files |= {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
        digest = hashlib.sha256()
        for name in sorted(files):
            data = files[name].read_bytes()
            digest.update(f"{name}\n{len(data)}\n".encode())
            kept = np.ones(len(data), bool)
            for extents in arrays:
                row = np.dtype(TYPES[extents["dtype"]]).itemsize * int(np.prod(extents["shape"][1:], dtype=object))
                for path, offset, rows in extents["runs"]:
                    if path == f"{self.place(number)}/{name}":
                        kept[offset : offset + rows * row] = False
            digest.update(np.frombuffer(data, np.uint8)[kept].tobytes())
        return digest.hexdigest()

    def _check_bytes(self) -> Iterator[str]:
        """The bytes for outsiders say what receipts and marks say, unless a writer was killed."""
        for number, segment in enumerate(self.segments):
            rows = slice(segment["first_row"], segment["first_row"] + segment["rows"])
            marked = np.isin(np.arange(self.rows), list(self.marks))[rows]
            if not np.array_equal(self.read(segment["marked"]), marked):
                yield f"segment {number}: the bytes of marks"
            for setting in self.settings:
                array = self.arrays.get((number, setting))
                if array and not np.array_equal(self.read(array["committed"]), self.committed(setting)[rows]):
                    yield f"segment {number} {setting}: the bytes of committed rows"


def open_store(root: str | Path) -> Store:
    """Open the store in a folder."""
    return Store(Path(root)).open()


def main() -> None:
    store = open_store(sys.argv[1])
    for setting in store.settings:
        print(f"{setting}: {store.committed(setting).sum()} of {store.rows} rows")
    damage = store.check()
    print(*damage or ["well"], sep="\n")
    sys.exit(bool(damage))


if __name__ == "__main__":
    main()

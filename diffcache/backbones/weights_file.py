"""By which hash a file of weights is known, and what is remembered of it; no PyTorch is needed for that."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from diffcache.errors import MissingError


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    A file that was hashed before is not read again while its size and time stamps stay the same; what
    was found is kept in the user's own cache folder. Whoever loads the file compares what is remembered
    with :func:`content_hash`.

    Raises:
        MissingError: there is no such file.
    """
    key = _key(path)
    memory = _Memory()
    if (known := memory.get(key)) is not None:
        return known
    digest = content_hash(path)
    memory.put(key, digest)
    return digest


def content_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits, read now whatever is remembered.

    Raises:
        MissingError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file of weights") from None


def forget_hash(path: Path) -> None:
    """Drop what is remembered of a file as it is now; the next :func:`file_hash` reads it.

    Raises:
        MissingError: there is no such file.
    """
    _Memory().drop(_key(path))


def file_state(path: Path) -> str:
    """What changes when a file is written or replaced: its size, times and place on the disk.

    The time of change is among them: nobody can set it back, as copying tools do with the other one.

    Raises:
        MissingError: there is no such file.
    """
    try:
        facts = path.stat()
    except OSError:
        raise MissingError(f"{path}: no such file of weights") from None
    return f"{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}|{facts.st_ino}"


def _key(path: Path) -> str:
    return f"{path.resolve()}|{file_state(path)}"


class _Memory:
    """A small JSON file of hashes; losing it, or being unable to write it, costs only time."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
        self.file = Path(base) / "diffcache" / "weights.json"

    def get(self, key: str) -> str | None:
        found = self._read().get(key)
        return found if isinstance(found, str) and len(found) == 64 else None

    def put(self, key: str, digest: str) -> None:
        self._write({**self._read(), key: digest})

    def drop(self, key: str) -> None:
        self._write({known: digest for known, digest in self._read().items() if known != key})

    def _write(self, hashes: dict[str, object]) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.file.parent, delete=False) as file:
                json.dump(hashes, file)
            Path(file.name).replace(self.file)
        except OSError:
            return

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

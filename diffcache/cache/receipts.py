"""Receipts: the records, written last, that ranges of rows are committed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from sys import intern

from diffcache.cache.files import sealed
from diffcache.cache.layout import RowRange, segment_name
from diffcache.errors import CacheError, SettingError
from diffcache.recipe import FORMAT_VERSION, Plain, canonical_json
from diffcache.setting import Pass, Setting

FOLDER = "receipts"
NAME = re.compile(r"\d{9}\.t(-|\d+)\.draw\d+\.[0-9a-f]{12}\.json", re.ASCII)
"""What a receipt's file is called."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A range of rows of a pass is on the disk.

    Attributes:
        fingerprint: of the store's recipe.
        rows: the range.
        pass_: the (t, draw) that was run.
        settings: SHA-256 of :func:`binding` and the raw bytes of the rows, for each setting.
        samples: checksum of the segment's ids, labels and class names.
        content: SHA-256 of the rows' content hashes, uint8 (rows, 32).
        provenance: what can only move a feature's last bits, and when and how it was made.
        fallbacks: what was used in place of what was asked for.
        statistics: of each setting's values in these rows; see :mod:`diffcache.cache.statistics`.
    """

    fingerprint: str
    rows: RowRange
    pass_: Pass
    settings: Mapping[Setting, str]
    samples: str
    content: str
    provenance: Mapping[str, Plain] = field(default_factory=dict)
    fallbacks: tuple[Mapping[str, Plain], ...] = ()
    statistics: Mapping[Setting, Mapping[str, Plain]] = field(default_factory=dict)

    def seal(self) -> bytes:
        """The text of its file."""
        return sealed.seal(
            {
                "format_version": FORMAT_VERSION,
                "fingerprint": self.fingerprint,
                "segment": self.rows.segment,
                "rows": [self.rows.start, self.rows.stop],
                "t": self.pass_.t,
                "draw": self.pass_.draw,
                "settings": {str(setting): value for setting, value in self.settings.items()},
                "samples": self.samples,
                "content": self.content,
                "provenance": dict(self.provenance),
                "fallbacks": [dict(item) for item in self.fallbacks],
                "statistics": {str(setting): dict(value) for setting, value in self.statistics.items()},
            }
        )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the canonical JSON of all the rest."""
        return str(json.loads(self.seal())["checksum"])

    @cached_property
    def key(self) -> str:
        """Pass and settings as a short text: ``t90.draw0.1f0c8d5e6a7b``."""
        return _key(self.pass_, tuple(self.settings))

    @property
    def name(self) -> str:
        """Its file's name: the same range, pass and settings have the same, so a task that ran twice leaves one."""
        return f"{self.rows.start:09d}.{self.key}.json"

    def path(self, root: Path) -> Path:
        """Its file in the store at ``root``."""
        return receipt_path(root, self.rows, self.settings)

    def shared(self) -> Receipt:
        """The same, with texts that other receipts repeat held once: a store may have a hundred thousand of them."""
        return replace(
            self,
            fingerprint=intern(self.fingerprint),
            samples=intern(self.samples),
            content=intern(self.content),
            settings={_same(setting): value for setting, value in self.settings.items()},
            provenance=_shared(self.provenance),
            statistics={_same(setting): _shared(value) for setting, value in self.statistics.items()},
        )

    def without(self, settings: frozenset[Setting]) -> Receipt | None:
        """The receipt of the other settings; None where there are none."""
        left = {setting: value for setting, value in self.settings.items() if setting not in settings}
        statistics = {setting: value for setting, value in self.statistics.items() if setting in left}
        return replace(self, settings=left, statistics=statistics) if left else None

    @classmethod
    def unseal(cls, data: bytes, where: str | Path) -> Receipt:
        """The receipt back from its file's bytes.

        Raises:
            CacheError: it is damaged, or of a format that this version does not know.
        """
        return _receipt(sealed.unseal(data, where), where)


def receipt_path(root: Path, rows: RowRange, settings: Iterable[Setting]) -> Path:
    """The file of the receipt of some settings of one pass, in the store at ``root``, whether or not it is there."""
    settings = tuple(settings)
    return root / FOLDER / segment_name(rows.segment) / f"{rows.start:09d}.{_key(settings[0].pass_, settings)}.json"


@lru_cache(maxsize=4096)
def _same(setting: Setting) -> Setting:
    """The first of all settings that are equal to this one."""
    return setting


def _shared(values: Mapping[str, Plain]) -> dict[str, Plain]:
    return {intern(name): intern(value) if type(value) is str else value for name, value in values.items()}


_FIELDS = (
    *("format_version", "fingerprint", "segment", "rows", "t", "draw", "settings", "samples"),
    *("content", "provenance", "fallbacks", "statistics"),
)


def _receipt(values: Plain, where: str | Path) -> Receipt:
    if isinstance(values, dict) and not sealed.is_version(values.get("format_version")):
        raise CacheError(
            f"{where}: expected a receipt of format {FORMAT_VERSION}, found {values.get('format_version')!r:.40}; "
            f"a newer diffcache may read it"
        )
    values = sealed.fields(values, where, *_FIELDS)
    rows = sealed.listed(values["rows"], where, sealed.whole)
    if len(rows) != 2 or rows[0] >= rows[1]:
        raise CacheError(f"{where}: damaged: expected rows [start, stop), found {values['rows']!r:.60}")
    t = None if values["t"] is None else sealed.whole(values["t"], where)
    pass_ = Pass(t, sealed.whole(values["draw"], where))
    named = sealed.mapping(values["settings"], where)
    if not named:
        raise CacheError(f"{where}: damaged: it names no setting")
    checksums = sealed.digests(list(named.values()), where)
    measured = sealed.mapping(values["statistics"], where)
    statistics = {}
    if measured:
        tables = [sealed.mapping(value, where) for value in measured.values()]
        statistics = dict(zip(_settings(tuple(measured), pass_, where), tables, strict=True))
    return Receipt(
        fingerprint=intern(sealed.digest(values["fingerprint"], where)),
        rows=RowRange(sealed.whole(values["segment"], where), *rows),
        pass_=pass_,
        settings=dict(zip(_settings(tuple(named), pass_, where), checksums, strict=True)),
        samples=intern(sealed.digest(values["samples"], where)),
        content=intern(sealed.digest(values["content"], where)),
        provenance=_shared(sealed.mapping(values["provenance"], where)),
        fallbacks=sealed.listed(values["fallbacks"], where, sealed.mapping),
        statistics=statistics,
    )


def _settings(texts: tuple[str, ...], pass_: Pass, where: str | Path) -> tuple[Setting, ...]:
    try:
        return _parsed(texts, pass_)
    except SettingError as error:
        raise CacheError(f"{where}: damaged: {error}") from None


# Thousands of receipts name the same few lists of settings, so what comes of a list is remembered.
@lru_cache(maxsize=4096)
def _parsed(texts: tuple[str, ...], pass_: Pass) -> tuple[Setting, ...]:
    settings = tuple(map(Setting.parse, texts))
    for setting in settings:
        if setting.pass_ != pass_:
            raise SettingError(f"{setting} does not come out of the pass {pass_}")
    return settings


@lru_cache(maxsize=4096)
def _key(pass_: Pass, settings: tuple[Setting, ...]) -> str:
    t = "-" if pass_.t is None else pass_.t
    names = canonical_json(sorted(map(str, settings)))
    return f"t{t}.draw{pass_.draw}.{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def binding(fingerprint: str, setting: Setting, rows: RowRange) -> bytes:
    """The line that a checksum of feature bytes begins with, so that it holds for this place only."""
    return f"diffcache-1\n{fingerprint}\n{setting}\n{rows.segment}:{rows.start}:{rows.stop}\n".encode()

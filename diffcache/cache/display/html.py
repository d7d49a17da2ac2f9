"""Tables for notebooks: what is in a cache, a store, an array of features.

No colours, scripts or outside resources: they look as the page around them does, in light and in dark. All that came
from outside is escaped. Damage is said, never raised.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.errors import DiffcacheError

if TYPE_CHECKING:
    from diffcache.cache.cache import Cache
    from diffcache.cache.features import Features
    from diffcache.cache.store import Store

_ROWS = 50
"""More stores or settings than this are counted and not shown."""

T = TypeVar("T")


def _harmless(make: Callable[[T], str]) -> Callable[[T], str]:
    @wraps(make)
    def made(shown: T) -> str:
        try:
            return make(shown)
        except (DiffcacheError, OSError) as error:
            return f"<p>{_text(type(shown).__name__)}, damaged: {_text(error)}</p>"

    return made


@_harmless
def cache_html(cache: Cache) -> str:
    """A line for each store."""
    rows = [_store_row(store) for store in cache.stores()[:_ROWS]]
    head = ("images", "fingerprint", "backbone", "rows", "settings", "size")
    text = f"<p>cache {_code(cache.name)}</p>{_table(head, rows)}" + _more(len(cache.stores()))
    return text + "".join(f"<p>damaged: {_text(line)}</p>" for line in cache.damaged[:_ROWS])


def _store_row(store: Store) -> tuple[str, ...]:
    head = (_text(f"{store.images}/{store.split}"), _code(store.fingerprint[:16]), _text(store.backbone))
    try:
        return (*head, f"{store.rows:,}", f"{len(store.settings):,}", sized(store.disk_bytes))
    except (DiffcacheError, OSError) as error:
        return (*head, f"damaged: {_text(error)}", "", "")


@_harmless
def store_html(store: Store) -> str:
    """What it is of, and how much of each setting is committed."""
    facts = {
        "fingerprint": _code(store.fingerprint),
        "backbone": _text(store.backbone),
        "format": _text(store.format),
        "rows": f"{store.rows:,}",
        "classes": f"{len(store.class_names):,}",
        "size": sized(store.disk_bytes),
        "folder": _code(store.path),
    }
    if store.marks:
        facts["marked rows"] = f"{len(store.marks):,}"
    if store.damaged:
        facts["damaged"] = f"{len(store.damaged):,} receipts; {_text(store.damaged[0])}"
    rows = []
    for setting in store.settings[:_ROWS]:
        done = int(store.committed(setting).sum())
        rows.append((_text(setting), "all" if done == store.rows else f"{done:,} of {store.rows:,}"))
    return (
        f"<p>store {_text(f'{store.images}/{store.split}')}</p>{_facts(facts)}"
        f"{_table(('setting', 'committed'), rows)}{_more(len(store.settings))}"
    )


@_harmless
def features_html(features: Features) -> str:
    """What they are and where."""
    facts = {
        "shape": " x ".join(f"{size:,}" for size in features.shape),
        "type": _text(features.dtype),
        "size": sized(features.nbytes),
        "block": _text(features.block),
        "fingerprint": _code(features.fingerprint),
        "folder": _code(features.store.path),
    }
    if features.derived_from is not None:
        facts["derived from"] = _text(features.derived_from)
    missing = int((~features.committed).sum())
    if missing:
        facts["missing rows"] = f"{missing:,}"
    if features.marks:
        facts["marked rows"] = f"{len(features.marks):,}"
    title = _text(f"{features.images}/{features.split} {features.setting}")
    return f"<p>features {title}</p>{_facts(facts)}"


def _text(value: object) -> str:
    return html.escape(printable(value))


def _code(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f'<tr><th style="text-align:left">{name}</th>{_cell(value)}</tr>' for name, value in facts.items())
    return f"<table>{rows}</table>"


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """The rows are HTML already."""
    names = "".join(f'<th style="text-align:left">{name}</th>' for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: str) -> str:
    return f'<td style="text-align:left">{content}</td>'


def _more(count: int) -> str:
    return f"<p>and {count - _ROWS:,} more</p>" if count > _ROWS else ""

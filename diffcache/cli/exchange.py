"""``convert``, ``export`` and ``import``: features into other forms, and in from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from diffcache.cache import Store
from diffcache.cache.display.text import printable
from diffcache.cache.layout import sized
from diffcache.cli.progress import shown
from diffcache.cli.stores import one_folder
from diffcache.errors import ConfigError


def convert(store: str, cache: str, *, to: str, format: str | None, compression: str | None) -> None:
    """``diffcache convert``."""
    from diffcache.cache.exchange.convert import convert_store

    source = Store.open(one_folder(store, cache))
    with shown() as on_event:
        new = convert_store(source, to, format=format, compression=compression, on_event=on_event)
    form = new.format if new.header.compression is None else f"{new.format} compressed by {new.header.compression}"
    click.echo(f"{new.images}/{new.split} {new.fingerprint[:16]}: {form}, {_on_disk(new.path)}  {printable(new.path)}")


def _on_disk(folder: Path) -> str:
    return sized(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def export(store: str, setting: str, out: str, cache: str, *, replace: bool) -> None:
    """``diffcache export``."""
    from diffcache.cache.derived import open_features
    from diffcache.cache.exchange.export import export_features
    from diffcache.setting import Setting

    features = open_features(Store.open(one_folder(store, cache)), Setting.parse(setting))
    with shown() as on_event:
        files = export_features(features, out, replace=replace, on_event=on_event)
    click.echo(f"{features!r}")
    for file in files:
        click.echo(f"{sized(file.stat().st_size):>10}  {printable(file)}")


def import_(
    features: str,
    cache: str,
    *,
    images: str,
    split: str,
    name: str,
    labels: str,
    ids: str | None,
    class_names: str | None,
    dtype: str | None,
    format: str,
    key: str | None,
) -> None:
    """``diffcache import``."""
    from diffcache.cache.exchange.importing import IMPORTED, import_features

    with shown() as on_event:
        store = import_features(
            features,
            cache,
            images=images,
            split=split,
            name=name,
            labels=labels,
            ids=ids,
            class_names=None if class_names is None else _names(class_names),
            dtype=dtype,
            format=format,
            key=key,
            on_event=on_event,
        )
    shape = " x ".join(map(str, store.array(IMPORTED, segment=0).spec.shape[1:]))
    click.echo(
        f"{store.images}/{store.split}  {printable(store.backbone)}  {store.rows:,} rows of {shape} "
        f"{store.recipe.dtype}, {len(store.class_names)} classes  {IMPORTED}  {printable(store.path)}"
    )


def _names(given: str) -> Sequence[str]:
    """Names separated by commas, or one a line of a file, where names have commas."""
    if not Path(given).is_file():
        return [name.strip() for name in given.split(",")]
    try:
        lines = Path(given).read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{given}: expected class names in UTF-8, one a line") from None
    return [line.removesuffix("\r") for line in lines]

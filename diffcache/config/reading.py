"""From a TOML file and command-line overrides to a validated Pipeline."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffcache.config.checks import at_home, different, fail, file_path, is_url, name, number, one_of, text
from diffcache.config.fusing import fused_settings
from diffcache.config.kinds import HEADS, KINDS, OF_ATTENTION, ONLY_FOR, TRAINED
from diffcache.config.presets import preset_values, with_presets
from diffcache.config.sets import NEEDED, SETS, SetConfig
from diffcache.config.tables import (
    MOST_SWEPT,
    SPLITS,
    SWEPT,
    AblateConfig,
    BackboneConfig,
    DrawsConfig,
    ExtractConfig,
    HeadConfig,
    HeadsConfig,
    HeadSweep,
    ImagesConfig,
    Pipeline,
    SplitConfig,
)
from diffcache.errors import ConfigError, MissingError, brief, nearest
from diffcache.setting import Setting

ALL_PRESETS = "heads.*.preset"
"""Key of the override that names presets for every head of a pipeline that has them."""


def load_pipeline(file: str | Path, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """Read and validate a pipeline file.

    Args:
        file: path of the TOML file.
        overrides: values that replace the file's, by dotted key (``extract.t``, ``cache``), and presets of all
            heads that have them (:data:`ALL_PRESETS`).
            Paths among them are relative to the working directory, not to the file.

    Raises:
        MissingError: there is no such file.
        ConfigError: the file is no TOML, or a key or value in it cannot be used.
    """
    file = Path(file)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise MissingError(f"{file}: no such pipeline file; those that come with diffcache are in pipelines/") from None
    except OSError as error:
        raise MissingError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"{file}: not a TOML file: {error}") from None
    return parse_pipeline(values, file=file, overrides=overrides)


def parse_pipeline(values: Mapping[str, Any], *, file: Path, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """The pipeline that a parsed file describes; arguments and errors as :func:`load_pipeline`."""
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for dotted, value in (overrides or {}).items():
        if dotted == ALL_PRESETS:
            values["heads"] = with_presets(values.get("heads", {}), value, "--preset")
            continue
        *outer, key = dotted.split(".")
        table = values
        for step in outer:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{file}: {step}: expected a table, got {brief(table)}")
        table[key] = at_home(value, dotted).absolute() if isinstance(value, Path) else value

    where = str(file)
    _known(values, [field.name for field in dataclasses.fields(Pipeline) if field.name != "file"], where)
    backbone = values.get("backbone")
    imported = isinstance(backbone, Mapping) and backbone.get("imported") is not None
    for needed in ("images", "backbone") if imported else ("images", "backbone", "extract"):
        if needed not in values:
            raise ConfigError(f"{where}: the table [{needed}] is missing")
    folder = file.absolute().parent

    def place(key: str, default: str) -> Path:
        return _within(folder, file_path(values.get(key, default), f"{where}: {key}"))

    cache = values.get("cache")
    network = _read(BackboneConfig, backbone, f"{where}: backbone", folder)
    network = dataclasses.replace(network, card=_placed(network.card, folder))
    network.require(f"{where}: backbone")
    heads = _heads(_table(values.get("heads", {}), f"{where}: heads"), f"{where}: heads")
    if imported and heads.pixels:
        raise ConfigError(
            f"{where}: heads.pixels: expected false where features are imported: their images are unknown"
        )
    return Pipeline(
        name=name(values.get("name", file.stem), f"{where}: name"),
        file=file,
        cache=str(cache).rstrip("/") if is_url(cache) else place("cache", "../cache"),
        runs=place("runs", "../runs"),
        results=place("results", "../results"),
        images=_images(_table(values["images"], f"{where}: images"), f"{where}: images", folder, imported=imported),
        backbone=network,
        extract=_extract(values.get("extract", {}), f"{where}: extract", folder, imported=imported),
        heads=heads,
        ablate=_read(AblateConfig, values.get("ablate", {}), f"{where}: ablate", None),
        draws=_read(DrawsConfig, values.get("draws", {}), f"{where}: draws", None),
    )


def head_config(kind: str, values: Mapping[str, Any] | None = None, *, where: str = "heads") -> HeadConfig:
    """A validated head of one kind; what ``values`` leaves out has its ``preset``'s value, or that kind's default.

    Raises:
        ConfigError: an unknown kind or preset, or a key or value that the kind does not take.
    """
    one_of(*HEADS)(kind, where)
    values = _with_preset(kind, values or {}, where)
    for key in values:
        if kind not in ONLY_FOR.get(key, HEADS):
            instead = "name those to join with fuse" if key == "settings" else f"it is for {', '.join(ONLY_FOR[key])}"
            raise ConfigError(f"{where}.{key}: a {kind} head has no {key}; {instead}")
    if "fuse" in values:
        values["settings"] = fused_settings(values.pop("fuse"), f"{where}.fuse")
    config = _read(HeadConfig, {**KINDS[kind].defaults, **values}, where, None, kind=kind)
    if not _has_blocks(config):
        for key in OF_ATTENTION if kind == "fusion" else ():
            if key in values:
                raise ConfigError(f'{where}.{key}: join = "concat" is one linear layer; leave it out')
    elif config.width % config.num_heads:
        raise ConfigError(f"{where}: width must be a multiple of num_heads, got {config.width} and {config.num_heads}")
    return config


def _has_blocks(config: HeadConfig) -> bool:
    """Whether a head has transformer blocks."""
    return config.kind == "attention" or (config.kind == "fusion" and config.join == "attention")


def _with_preset(kind: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of a head with those of the preset that they name; what they say themselves comes first."""
    own = {key: value for key, value in values.items() if key != "preset"}
    return {**preset_values(kind, values["preset"], f"{where}.preset"), **own} if "preset" in values else own


def head_sweep(kind: str, values: Mapping[str, Any] | None = None, *, where: str = "heads") -> HeadSweep:
    """Validated heads of one kind: every combination of the values that are listed.

    Args:
        kind: of head.
        values: as of :func:`head_config`; ``lr``, ``weight_decay``, ``seed`` and ``l2`` may be lists.
        where: names the place in errors.

    Raises:
        ConfigError: as :func:`head_config`; a list that is empty or holds a value twice.
    """
    one_of(*HEADS)(kind, where)
    preset = (values or {}).get("preset")
    values = {**KINDS[kind].sweep, **_with_preset(kind, values or {}, where)}
    lists = {name: values.pop(name) for name in SWEPT if isinstance(values.get(name), list | tuple)}
    lists = {name: different(number)(several, f"{where}.{name}") for name, several in lists.items()}
    count = math.prod(map(len, lists.values()))
    if count > MOST_SWEPT:
        raise ConfigError(
            f"{where}: {' x '.join(lists)} makes {count:,} heads, at most {MOST_SWEPT:,} are trained together; list "
            f"fewer values"
        )
    combinations = itertools.product(*lists.values())
    return HeadSweep(
        tuple(
            head_config(kind, {**values, **dict(zip(lists, some, strict=True))}, where=where) for some in combinations
        ),
        preset=preset,
    )


def head_fields(config: HeadConfig) -> dict[str, Any]:
    """The fields that this kind of head has, as plain values; ``settings`` left out."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name != "settings"
        and config.kind in ONLY_FOR.get(field.name, HEADS)
        and (config.kind != "fusion" or field.name not in OF_ATTENTION or _has_blocks(config))
    }


def _extract(values: Any, where: str, folder: Path, *, imported: bool) -> ExtractConfig:
    """The grid; of imported features it has one setting, which the table need not name."""
    if not imported:
        read: ExtractConfig = _read(ExtractConfig, values, where, folder)
        return read
    one = {"t": "-", "b": 1, "pool": 0}
    read = _read(ExtractConfig, {**one, **_table(values, where)}, where, folder)
    if read.settings != (Setting(None, 1, 0),):
        raise ConfigError(
            f"{where}: imported features have the one setting t-/b1/pool0; leave out t, b, pool and draws"
        )
    return read


def _images(values: dict[str, Any], where: str, folder: Path, *, imported: bool) -> ImagesConfig:
    if "name" not in values:
        raise ConfigError(f"{where}: name is missing")
    if "format" in values and one_of("folder", "idx", "npz", *SETS)(values["format"], f"{where}.format") in SETS:
        whole = _image_set(values, where, folder)
        return ImagesConfig(name=name(values["name"], f"{where}.name"), splits={}, whole=whole)
    _known(values, ("name", "format", "class_names", "made_by", *SPLITS), where)
    splits = {}
    for split in SPLITS:
        if split not in values:
            if imported:  # where the images are does not matter
                continue
            raise ConfigError(f"{where}: the table [images.{split}] is missing; both {' and '.join(SPLITS)} are needed")
        table = _table(values[split], f"{where}.{split}")
        shared = {"format": values["format"]} if "format" in values else {}
        splits[split] = _read(SplitConfig, {**shared, **table}, f"{where}.{split}", folder)
        splits[split].require(f"{where}.{split}")
    names = values.get("class_names")
    return ImagesConfig(
        name=name(values["name"], f"{where}.name"),
        splits=splits,
        class_names=None if names is None else different(text)(names, f"{where}.class_names"),
        made_by=text(values["made_by"], f"{where}.made_by") if "made_by" in values else None,
    )


def _image_set(values: dict[str, Any], where: str, folder: Path) -> SetConfig:
    """A set in its authors' layout: a root, and the options that this set has."""
    checks = {"root": file_path, **SETS[values["format"]]}
    _known(values, ("name", "format", *checks), where)
    for needed in ("root", *NEEDED.get(values["format"], ())):
        if needed not in values:
            raise ConfigError(f'{where}: format "{values["format"]}" needs {needed}, which is missing')
    read = {key: check(values[key], f"{where}.{key}") for key, check in checks.items() if key in values}
    read = {key: _within(folder, value) if isinstance(value, Path) else value for key, value in read.items()}
    return SetConfig(format=values["format"], root=read.pop("root"), options=read)


def _heads(values: dict[str, Any], where: str) -> HeadsConfig:
    own = {f.name for f in dataclasses.fields(HeadsConfig) if f.name != "heads"}
    some_alone = {key for key, kinds in ONLY_FOR.items() if not set(TRAINED) <= set(kinds)}
    shared_names = {f.name for f in dataclasses.fields(HeadConfig)} - {"kind", "settings", *some_alone}
    _known(values, (*sorted(own), *HEADS, *sorted(shared_names)), where)
    heads = []
    for kind, table in values.items():
        if kind not in HEADS:
            continue
        shared = {
            key: value for key, value in values.items() if key in shared_names and kind in ONLY_FOR.get(key, HEADS)
        }
        several = table if isinstance(table, list) else [table]
        if not several:
            raise fail(f"{where}.{kind}", "at least one table", table)
        for i, one in enumerate(several):
            place = f"{where}.{kind}" + (f"[{i}]" if len(several) > 1 else "")
            heads += [head_sweep(kind, own, where=place) for own in _by_preset(kind, _table(one, place), shared, place)]
    _require_different(heads, where)
    common = _read(HeadsConfig, {key: value for key, value in values.items() if key in own}, where, None)
    return dataclasses.replace(common, heads=tuple(heads))


def _by_preset(kind: str, table: dict[str, Any], shared: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """The values of a table's heads, one of each preset that it names; these come before what all heads share."""
    if "preset" not in table:
        yield {**shared, **table}
        return

    def known(name: Any, place: str) -> str:
        preset_values(kind, name, place)
        return str(name)

    for preset in different(known)(table["preset"], f"{where}.preset"):
        rest = {key: value for key, value in shared.items() if key not in preset_values(kind, preset, where)}
        yield {**rest, **table, "preset": preset}


def _require_different(heads: Sequence[HeadSweep], where: str) -> None:
    """Raise ConfigError where two tables of one kind describe the same head on the same settings."""
    for i, head in enumerate(heads):
        if head in heads[:i]:
            raise ConfigError(f"{where}.{head.kind}: two tables of the same values; leave one out, or change one")


def _read(cls: type, values: Any, where: str, folder: Path | None, **fixed: Any) -> Any:
    """A dataclass from a table: every key known, every value checked, paths made absolute."""
    table = _table(values, where)
    checks = {f.name: f.metadata["check"] for f in dataclasses.fields(cls) if "check" in f.metadata}
    _known(table, checks, where)
    for f in dataclasses.fields(cls):
        required = f.default is dataclasses.MISSING and f.name in checks
        if required and f.name not in table:
            raise ConfigError(f"{where}: {f.name} is missing")
    checked = {key: checks[key](value, f"{where}.{key}") for key, value in table.items()}
    if folder is not None:
        checked = {key: _within(folder, value) if isinstance(value, Path) else value for key, value in checked.items()}
    return cls(**checked, **fixed)


def _placed(card: str | Path, folder: Path) -> str | Path:
    """A card ``KIND:PLACE`` with the place made absolute where it is one beside the pipeline file."""
    kind, colon, place = str(card).partition(":")
    if isinstance(card, Path) or not colon or not (folder / place).exists():
        return card
    return f"{kind}:{_within(folder, Path(place))}"


def _within(folder: Path, place: Path) -> Path:
    """A place relative to a folder; what is above a link is what is above the folder that it leads to."""
    path = folder / place
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise fail(where, "a table", value)
    return dict(value)


def _known(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, known)}")

"""Pipeline files (TOML) and command-line overrides, read into validated plain values.

A pipeline file describes one experiment: its images, the backbone, the grid of settings and the
heads. It is validated whole before any work starts; paths in it are relative to the file.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffcache.errors import ConfigError, MissingError, SettingError, brief, nearest
from diffcache.setting import Setting, grid

Check = Callable[[Any, str], Any]
"""Turns what a file holds into the value used, or raises ConfigError naming the place."""

AUTO = "auto"
SPLITS = ("train", "test")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


# --- checks -----------------------------------------------------------------------------------


def _fail(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: expected {expected}, got {brief(value)}")


def whole(low: int, high: int | None = None, *, or_auto: bool = False, or_none: bool = False) -> Check:
    """A whole number in [low, high]."""
    span = f"at least {low}" if high is None else f"{low} to {high}"
    expected = f"a whole number, {span}" + (', or "auto"' if or_auto else "")

    def check(value: Any, where: str) -> int | str | None:
        if (or_auto and value == AUTO) or (or_none and value is None):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise _fail(where, expected, value)
        return value

    return check


def real(low: float, high: float | None = None, *, above: bool = False) -> Check:
    """A finite number in [low, high], or in (low, high] with ``above``."""
    span = f"{'above' if above else 'at least'} {low:g}" + ("" if high is None else f", at most {high:g}")

    def check(value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _fail(where, f"a number {span}", value)
        over = value > low if above else value >= low
        under = value <= sys.float_info.max if high is None else value <= high
        if not (over and under):
            raise _fail(where, f"a number {span}", value)
        return float(value)

    return check


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in words:
            hint = f" ({nearest(value, words)})" if isinstance(value, str) else ""
            raise _fail(where, "one of " + ", ".join(f'"{word}"' for word in words) + hint, value)
        return value

    return check


def name(value: Any, where: str) -> str:
    """A name that is safe as a folder: letters, digits, dots, dashes and underscores."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _fail(where, "a name of letters, digits, '.', '-' and '_' that begins with a letter or digit", value)
    return value


def text(value: Any, where: str) -> str:
    """Any text but an empty one."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise _fail(where, "a text that is not empty", value)
    return value


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _fail(where, "true or false", value)
    return value


def many(check: Check) -> Check:
    """A list of at least one value, or one value alone; repeated values are kept once."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(_each(check, value, where)))

    return check_all


def different(check: Check) -> Check:
    """A list of at least one value, or one value alone; repeated values are refused."""

    def check_all(value: Any, where: str) -> tuple[Any, ...]:
        values = _each(check, value, where)
        if len(set(values)) < len(values):
            twice = next(item for item in values if values.count(item) > 1)
            raise ConfigError(f"{where}: expected values that differ, {brief(twice)} is there twice")
        return tuple(values)

    return check_all


def _each(check: Check, value: Any, where: str) -> list[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise _fail(where, "at least one value", value)
    places = [f"{where}[{i}]" if len(values) > 1 else where for i in range(len(values))]
    return list(map(check, values, places))


def file_path(value: Any, where: str) -> Path:
    """A path; :func:`load_pipeline` makes it relative to the pipeline file."""
    if isinstance(value, Path):
        return value
    return _at_home(Path(text(value, where)), where)


def _at_home(path: Path, where: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{where}: {path}: there is no such user") from None


def card(value: Any, where: str) -> str | Path:
    """A card's name, or the path of a card file, which ends in ``.toml``."""
    return file_path(value, where) if str(value).endswith(".toml") else text(value, where)


def condition(value: Any, where: str) -> str | int:
    """What a class-conditional network is told: a class number, or the mean of its classes."""
    return value if value == "mean" else whole(0)(value, where)


def time_step(value: Any, where: str) -> int | None:
    """A diffusion time step; ``"-"`` for a network without noise."""
    return None if value in ("-", None) else whole(0)(value, where)


def chosen_settings(value: Any, where: str) -> str | tuple[Setting, ...]:
    """``"all"``, ``"best"`` or a list of settings."""
    if value in ("all", "best"):
        return value
    try:
        return many(lambda item, _: Setting.parse(item))(value, where)
    except SettingError as error:
        raise ConfigError(f'{where}: {error}; or "all", or "best"') from None


def _field(check: Check, default: Any = dataclasses.MISSING) -> Any:
    return field(default=default, metadata={"check": check})


# --- what a pipeline file holds ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Where one split of an image set is.

    Attributes:
        format: ``folder`` (one folder a class) or ``idx``.
        path: the folder of classes; for ``folder``.
        images: IDX file of images, plain or gzip; for ``idx``.
        labels: IDX file of labels, plain or gzip; for ``idx``.
        follow_links: whether symbolic links that lead out of the folder are followed; for ``folder``.
    """

    format: str = _field(one_of("folder", "idx"), "folder")
    path: Path | None = _field(file_path, None)
    images: Path | None = _field(file_path, None)
    labels: Path | None = _field(file_path, None)
    follow_links: bool = _field(flag, False)

    def require(self, where: str) -> None:
        """Raise ConfigError unless exactly the paths of the format are named."""
        needed = {"folder": ("path",), "idx": ("images", "labels")}[self.format]
        for key in ("path", "images", "labels"):
            if key in needed and getattr(self, key) is None:
                raise ConfigError(f'{where}: format "{self.format}" needs {" and ".join(needed)}; {key} is missing')
            if key not in needed and getattr(self, key) is not None:
                raise ConfigError(f'{where}.{key}: format "{self.format}" takes {" and ".join(needed)} only')


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """A named image set with its splits.

    Attributes:
        name: the image set's name, part of a store's key.
        splits: split name to its place; ``train`` and ``test``, which pipelines of imported features need not have.
        class_names: names of the classes in label order, where the files do not tell them.
    """

    name: str
    splits: Mapping[str, SplitConfig]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The frozen network, or the name under which features that it made elsewhere were imported.

    Attributes:
        card: name of a card (``diffcache blocks`` lists them), or path of a card file; empty for imported features.
        imported: name that features were imported under, in place of a card and all else.
        weights: file of weights; a card with weights of its own needs none.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...
        condition: a class number or ``"mean"``; for class-conditional networks.
    """

    card: str | Path = _field(card, "")
    imported: str | None = _field(name, None)
    weights: Path | None = _field(file_path, None)
    precision: str = _field(one_of(AUTO, "fp32", "bf16", "fp16"), AUTO)
    device: str = _field(text, AUTO)
    condition: str | int | None = _field(condition, None)

    def require(self, where: str) -> None:
        """Raise ConfigError unless there is either a card or a name of imported features, which is all of it then."""
        if self.imported is None:
            if not self.card:
                raise ConfigError(f'{where}: card is missing; or name features made elsewhere, with imported = "NAME"')
            return
        own = BackboneConfig(imported=self.imported, device=self.device)  # heads take their device from it
        for key in ("card", "weights", "precision", "condition"):
            if getattr(self, key) != getattr(own, key):
                raise ConfigError(
                    f"{where}.{key}: imported features have no {key}; leave it out, or leave out imported"
                )


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """The grid of settings and how stage one writes it.

    Attributes:
        t, b, pool: the grid; every combination is extracted.
        draws: noise draws an image; draw 0 is the one evaluation uses.
        seed: seed of the noise and of the augmentation.
        augmentation: what draws after 0 do to the image: ``none``, ``flip`` or ``crop_flip``.
        format: ``zarr`` or ``hdf5``; of new stores.
        dtype: type of the stored values.
        derive: whether a smaller pool is served from a stored larger one, and not computed.
        on_overflow: what becomes of values that float16 cannot hold: ``error``, or ``saturate``, recorded.
        on_unreadable: what becomes of an image that cannot be decoded: ``error``, or ``mark`` its row.
        on_changed: what becomes of images that were removed or changed since they were extracted:
            ``error``, or ``mark`` their rows.
        batch_size: images computed together (the group size), or ``auto``.
        decode_threads: threads that read and decode images ahead of the network.
    """

    t: tuple[int | None, ...] = _field(many(time_step))
    b: tuple[int, ...] = _field(many(whole(1)))
    pool: tuple[int, ...] = _field(many(whole(0)))
    draws: int = _field(whole(1, 10_000), 1)
    seed: int = _field(whole(0, 2**63 - 1), 0)
    augmentation: str = _field(one_of("none", "flip", "crop_flip"), "none")
    format: str = _field(one_of("zarr", "hdf5"), "zarr")
    dtype: str = _field(one_of("float16", "float32"), "float16")
    derive: bool = _field(flag, True)
    on_overflow: str = _field(one_of("error", "saturate"), "error")
    on_unreadable: str = _field(one_of("error", "mark"), "error")
    on_changed: str = _field(one_of("error", "mark"), "error")
    batch_size: int | str = _field(whole(1, 65_536, or_auto=True), AUTO)
    decode_threads: int = _field(whole(1, 256), 4)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting of the grid, sorted."""
        return grid(t=self.t, b=self.b, pool=self.pool, draws=self.draws)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A head and how it is trained. Fields that a kind of head does not have are refused for it.

    Attributes:
        kind: ``linear``, ``mlp``, ``cnn`` or ``attention``.
        settings: which settings to train it on: ``"all"``, ``"best"`` (the setting on which the
            linear head has the best validation accuracy) or a list.
        epochs: passes over the training rows, at most.
        batch_size: rows a step.
        optimizer: ``adamw`` or ``sgd``.
        lr: learning rate at the start.
        momentum: of ``sgd``.
        weight_decay: decoupled for ``adamw``, L2 for ``sgd``.
        schedule: ``cosine``, ``step`` or ``constant``.
        step_epochs, step_factor: ``step`` multiplies the rate by the factor every so many epochs.
        warmup_epochs: epochs of linear warm-up from 0.
        label_smoothing: weight of the uniform distribution in the target.
        patience: epochs without a better validation accuracy before training stops; 0 for never.
        standardize: whether each feature is shifted and scaled to mean 0 and deviation 1, by
            statistics of the training rows.
        seed: seed of the initial weights and of dropout.
        order_seed: seed of the order of batches.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        device: where to train.
        hidden: width of the hidden layers of ``mlp``; channels of ``cnn``.
        depth: hidden layers of ``mlp``, convolutions of ``cnn``, transformer blocks of ``attention``.
        dropout: on the hidden layers of ``mlp``, ``cnn`` and ``attention``.
        width: width of a token of ``attention``.
        num_heads: attention heads a block of ``attention``.
        mlp_ratio: hidden width of a transformer block over ``width``.
    """

    kind: str
    settings: str | tuple[Setting, ...] = _field(chosen_settings, "best")
    epochs: int = _field(whole(1, 100_000), 28)
    batch_size: int = _field(whole(1, 1_000_000), 256)
    optimizer: str = _field(one_of("adamw", "sgd"), "adamw")
    lr: float = _field(real(0, above=True), 1e-3)
    momentum: float = _field(real(0, 1), 0.9)
    weight_decay: float = _field(real(0), 0.0)
    schedule: str = _field(one_of("cosine", "step", "constant"), "cosine")
    step_epochs: int = _field(whole(1), 7)
    step_factor: float = _field(real(0, 1, above=True), 0.1)
    warmup_epochs: int = _field(whole(0), 0)
    label_smoothing: float = _field(real(0, 0.99), 0.0)
    patience: int = _field(whole(0), 0)
    standardize: bool = _field(flag, True)
    seed: int = _field(whole(0, 2**63 - 1), 0)
    order_seed: int = _field(whole(0, 2**63 - 1), 0)
    precision: str = _field(one_of(AUTO, "fp32", "bf16", "fp16"), "fp32")
    device: str = _field(text, AUTO)
    hidden: int = _field(whole(1, 1_000_000), 512)
    depth: int = _field(whole(1, 1_000), 1)
    dropout: float = _field(real(0, 0.99), 0.0)
    width: int = _field(whole(1, 1_000_000), 128)
    num_heads: int = _field(whole(1, 10_000), 8)
    mlp_ratio: float = _field(real(0, above=True), 4.0)


_ONLY_FOR = {
    "hidden": ("mlp", "cnn"),
    "depth": ("mlp", "cnn", "attention"),
    "dropout": ("mlp", "cnn", "attention"),
    "width": ("attention",),
    "num_heads": ("attention",),
    "mlp_ratio": ("attention",),
}

_HEAD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"settings": "all"},
    "mlp": {"depth": 1, "hidden": 512, "dropout": 0.3},
    "cnn": {"depth": 2, "hidden": 128, "dropout": 0.3},
    "attention": {"depth": 2, "width": 128, "num_heads": 8, "dropout": 0.1},
}

HEADS = tuple(_HEAD_DEFAULTS)


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Stage two: the heads, and what they share.

    Attributes:
        heads: the heads to train, in the order of the file.
        validation: share of each class's training images that is held out to choose by.
        split_seed: seed of that choice.
        pixels: whether the linear head is also trained on raw pixels, to compare with.
    """

    heads: tuple[HeadConfig, ...] = ()
    validation: float = _field(real(0, 0.9, above=True), 0.1)
    split_seed: int = _field(whole(0, 2**63 - 1), 0)
    pixels: bool = _field(flag, False)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One experiment, as a pipeline file describes it.

    Attributes:
        name: the experiment's name.
        file: the file it was read from.
        cache: root folder of the cache.
        runs: folder of the runs.
    """

    name: str
    file: Path
    cache: Path
    runs: Path
    images: ImagesConfig
    backbone: BackboneConfig
    extract: ExtractConfig
    heads: HeadsConfig


# --- reading ----------------------------------------------------------------------------------


def load_pipeline(file: str | Path, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """Read and validate a pipeline file.

    Args:
        file: path of the TOML file.
        overrides: values that replace the file's, by dotted key (``extract.t``, ``cache``).
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
        *outer, key = dotted.split(".")
        table = values
        for step in outer:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{file}: {step}: expected a table, got {brief(table)}")
        table[key] = _at_home(value, dotted).absolute() if isinstance(value, Path) else value

    where = str(file)
    _known(values, ("name", "cache", "runs", "images", "backbone", "extract", "heads"), where)
    backbone = values.get("backbone")
    imported = isinstance(backbone, Mapping) and backbone.get("imported") is not None
    for needed in ("images", "backbone") if imported else ("images", "backbone", "extract"):
        if needed not in values:
            raise ConfigError(f"{where}: the table [{needed}] is missing")
    folder = file.absolute().parent

    def place(key: str, default: str) -> Path:
        return _within(folder, file_path(values.get(key, default), f"{where}: {key}"))

    network = _read(BackboneConfig, backbone, f"{where}: backbone", folder)
    network.require(f"{where}: backbone")
    heads = _heads(_table(values.get("heads", {}), f"{where}: heads"), f"{where}: heads")
    if imported and heads.pixels:
        raise ConfigError(
            f"{where}: heads.pixels: expected false where features are imported: their images are unknown"
        )
    return Pipeline(
        name=name(values.get("name", file.stem), f"{where}: name"),
        file=file,
        cache=place("cache", "../cache"),
        runs=place("runs", "../runs"),
        images=_images(_table(values["images"], f"{where}: images"), f"{where}: images", folder, imported=imported),
        backbone=network,
        extract=_extract(values.get("extract", {}), f"{where}: extract", folder, imported=imported),
        heads=heads,
    )


def head_config(kind: str, values: Mapping[str, Any] | None = None, *, where: str = "heads") -> HeadConfig:
    """A validated head of one kind; what ``values`` leaves out has that kind's default.

    Raises:
        ConfigError: an unknown kind, or a key or value that the kind does not take.
    """
    one_of(*HEADS)(kind, where)
    values = dict(values or {})
    for key in values:
        if kind not in _ONLY_FOR.get(key, HEADS):
            raise ConfigError(f"{where}.{key}: a {kind} head has no {key}; it is for {', '.join(_ONLY_FOR[key])}")
    config = _read(HeadConfig, {**_HEAD_DEFAULTS[kind], **values}, where, None, kind=kind)
    if kind == "attention" and config.width % config.num_heads:
        raise ConfigError(f"{where}: width must be a multiple of num_heads, got {config.width} and {config.num_heads}")
    return config


def head_fields(config: HeadConfig) -> dict[str, Any]:
    """The fields that this kind of head has, as plain values; ``settings`` left out."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name != "settings" and config.kind in _ONLY_FOR.get(field.name, HEADS)
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
    _known(values, ("name", "format", "class_names", *SPLITS), where)
    if "name" not in values:
        raise ConfigError(f"{where}: name is missing")
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
    )


def _heads(values: dict[str, Any], where: str) -> HeadsConfig:
    own = {f.name for f in dataclasses.fields(HeadsConfig) if f.name != "heads"}
    shared_names = {f.name for f in dataclasses.fields(HeadConfig)} - {"kind", "settings", *_ONLY_FOR}
    _known(values, (*sorted(own), *HEADS, *sorted(shared_names)), where)
    shared = {key: value for key, value in values.items() if key in shared_names}
    heads = tuple(
        head_config(kind, {**shared, **_table(table, f"{where}.{kind}")}, where=f"{where}.{kind}")
        for kind, table in values.items()
        if kind in HEADS
    )
    common = _read(HeadsConfig, {key: value for key, value in values.items() if key in own}, where, None)
    return dataclasses.replace(common, heads=heads)


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


def _within(folder: Path, place: Path) -> Path:
    """A place relative to a folder, without ``..`` in it where that is only spelling."""
    return Path(os.path.normpath(folder / place))


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _fail(where, "a table", value)
    return dict(value)


def _known(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = list(known)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, known)}")

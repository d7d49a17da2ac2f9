"""What a pipeline file holds, table by table, with the check and the default of each value."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffcache.config.arms import ARMS, Arm, arms
from diffcache.config.checks import (
    AUTO,
    card,
    checked,
    chosen_settings,
    condition,
    different,
    file_path,
    flag,
    many,
    name,
    one_of,
    real,
    setting,
    text,
    time_step,
    whole,
)
from diffcache.config.sets import SetConfig
from diffcache.errors import ConfigError
from diffcache.setting import SPANS, Setting, grid

SPLITS = ("train", "test")

JOINS = ("attention", "concat")
"""Ways of joining the settings of a fusion head."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Where one split of an image set is.

    Attributes:
        format: ``folder`` (one folder a class), ``idx``, or ``npz`` (images ``arr_0`` and labels ``arr_1``).
        path: the folder of classes, for ``folder``; the file, for ``npz``.
        images: IDX file of images, plain or gzip; for ``idx``.
        labels: IDX file of labels, plain or gzip; for ``idx``.
        follow_links: whether symbolic links that lead out of the folder are followed; for ``folder``.
    """

    format: str = checked(one_of("folder", "idx", "npz"), "folder")
    path: Path | None = checked(file_path, None)
    images: Path | None = checked(file_path, None)
    labels: Path | None = checked(file_path, None)
    follow_links: bool = checked(flag, False)

    def require(self, where: str) -> None:
        """Raise ConfigError unless exactly the paths of the format are named."""
        needed = {"folder": ("path",), "idx": ("images", "labels"), "npz": ("path",)}[self.format]
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
        splits: split name to its place; ``train`` and ``test``, which pipelines of imported features need not have;
            empty where ``whole`` is given.
        class_names: names of the classes in label order, where the files do not tell them.
        whole: the set in the layout of its authors, which tells its own splits.
        made_by: the command that writes the files, where they are not downloaded; for the error line that lacks them.
    """

    name: str
    splits: Mapping[str, SplitConfig]
    class_names: tuple[str, ...] | None = None
    whole: SetConfig | None = None
    made_by: str | None = None


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
        compile: whether ``torch.compile`` translates the network first, which takes a minute or more: for many images.
    """

    card: str | Path = checked(card, "")
    imported: str | None = checked(name, None)
    weights: Path | None = checked(file_path, None)
    precision: str = checked(one_of(AUTO, "fp32", "bf16", "fp16"), AUTO)
    device: str = checked(text, AUTO)
    condition: str | int | None = checked(condition, None)
    compile: bool = checked(flag, False)

    def require(self, where: str) -> None:
        """Raise ConfigError unless there is either a card or a name of imported features, which is all of it then."""
        if self.imported is None:
            if not self.card:
                raise ConfigError(f'{where}: card is missing; or name features made elsewhere, with imported = "NAME"')
            return
        own = BackboneConfig(imported=self.imported, device=self.device)  # heads take their device from it
        for key in ("card", "weights", "precision", "condition", "compile"):
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

    t: tuple[int | None, ...] = checked(many(time_step))
    b: tuple[int, ...] = checked(many(whole(*SPANS["b"])))
    pool: tuple[int, ...] = checked(many(whole(*SPANS["pool"])))
    draws: int = checked(whole(1, 10_000), 1)
    seed: int = checked(whole(0, 2**63 - 1), 0)
    augmentation: str = checked(one_of("none", "flip", "crop_flip"), "none")
    format: str = checked(one_of("zarr", "hdf5"), "zarr")
    dtype: str = checked(one_of("float16", "float32"), "float16")
    derive: bool = checked(flag, True)
    on_overflow: str = checked(one_of("error", "saturate"), "error")
    on_unreadable: str = checked(one_of("error", "mark"), "error")
    on_changed: str = checked(one_of("error", "mark"), "error")
    batch_size: int | str = checked(whole(1, 65_536, or_auto=True), AUTO)
    decode_threads: int = checked(whole(1, 256), 4)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting of the grid, sorted."""
        return grid(t=self.t, b=self.b, pool=self.pool, draws=self.draws)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A head and how it is trained. Fields that a kind of head does not have are refused for it.

    Attributes:
        kind: ``linear``, ``mlp``, ``cnn`` or ``attention``, trained by gradient steps; ``fusion``, one head on
            several settings at once; ``logistic``, a linear head fitted by L-BFGS; or ``ridge``, one fitted in closed
            form.
        settings: which settings to train it on: ``"all"``, ``"best"`` (the setting on which the
            linear head has the best validation accuracy) or a list. Of ``fusion``, whose table names them by
            ``fuse``, those that are joined: ``"all"`` or a list.
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
        join: how ``fusion`` joins its settings: ``attention`` between tokens of all maps, or ``concat``, a linear layer
            on all values side by side.
        tokens: what is a token of ``fusion`` that joins by attention: each of a map's ``positions``, or one each of
            the ``maps``, which keeps what is where and takes far less time.
        hidden: width of the hidden layers of ``mlp``; channels of ``cnn``.
        depth: hidden layers of ``mlp``, convolutions of ``cnn``, transformer blocks of ``attention``.
        dropout: on the hidden layers of ``mlp``, ``cnn`` and ``attention``.
        width: width of a token of ``attention``.
        num_heads: attention heads a block of ``attention``.
        mlp_ratio: hidden width of a transformer block over ``width``; like ``depth``, ``dropout``, ``width`` and
            ``num_heads`` also of ``fusion`` that joins by attention.
        l2: weight of the penalty of ``logistic`` and ``ridge``: they minimise the mean loss of a row plus
            ``l2 / 2`` times the sum of squared weights; scikit-learn's ``C`` is 1 / (rows l2), its ``alpha`` rows l2.
        iterations: of ``logistic``, at most.
    """

    kind: str
    settings: str | tuple[Setting, ...] = checked(chosen_settings, "best")
    epochs: int = checked(whole(1, 100_000), 28)
    batch_size: int = checked(whole(1, 1_000_000), 256)
    optimizer: str = checked(one_of("adamw", "sgd"), "adamw")
    lr: float = checked(real(0, above=True), 1e-3)
    momentum: float = checked(real(0, 1), 0.9)
    weight_decay: float = checked(real(0), 0.0)
    schedule: str = checked(one_of("cosine", "step", "constant"), "cosine")
    step_epochs: int = checked(whole(1), 7)
    step_factor: float = checked(real(0, 1, above=True), 0.1)
    warmup_epochs: int = checked(whole(0), 0)
    label_smoothing: float = checked(real(0, 0.99), 0.0)
    patience: int = checked(whole(0), 0)
    standardize: bool = checked(flag, True)
    seed: int = checked(whole(0, 2**63 - 1), 0)
    order_seed: int = checked(whole(0, 2**63 - 1), 0)
    precision: str = checked(one_of(AUTO, "fp32", "bf16", "fp16"), "fp32")
    device: str = checked(text, AUTO)
    join: str = checked(one_of(*JOINS), JOINS[0])
    tokens: str = checked(one_of("positions", "maps"), "positions")
    hidden: int = checked(whole(1, 1_000_000), 512)
    depth: int = checked(whole(1, 1_000), 1)
    dropout: float = checked(real(0, 0.99), 0.0)
    width: int = checked(whole(1, 1_000_000), 128)
    num_heads: int = checked(whole(1, 10_000), 8)
    mlp_ratio: float = checked(real(0, above=True), 4.0)
    l2: float = checked(real(0, above=True), 1e-3)
    iterations: int = checked(whole(1, 100_000), 100)


SWEPT = ("lr", "weight_decay", "seed", "l2")
"""Fields that a pipeline file may give several values of."""

MOST_SWEPT = 1_000
"""Heads of one sweep."""


@dataclass(frozen=True)
class HeadSweep:
    """Heads of one kind that differ in what is swept and are trained together; one head is a sweep of one.

    Attributes:
        heads: every combination of the values, the last swept field varying fastest; at least one.
        preset: name of the preset that their table names, to be shown; the values alone make a head what it is.
    """

    heads: tuple[HeadConfig, ...]
    preset: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse heads that no grid makes: what a run is known by is the grid."""
        if not self.heads:
            raise ConfigError("a sweep: expected at least one head, got none")
        combinations: list[dict[str, Any]] = [
            dict(zip(self.swept, values, strict=True)) for values in itertools.product(*self.swept.values())
        ]
        made = [replace(self.heads[0], **combination) for combination in combinations]
        if made != list(self.heads):
            raise ConfigError(
                f"a sweep of {self.kind} heads: expected every combination of its values of {', '.join(SWEPT)}, in "
                f"order, and no other difference, got {len(self.heads)} heads; make it with head_sweep"
            )

    @property
    def kind(self) -> str:
        """Kind of head."""
        return self.heads[0].kind

    @property
    def settings(self) -> str | tuple[Setting, ...]:
        """Which settings to train them on."""
        return self.heads[0].settings

    @property
    def swept(self) -> dict[str, tuple[float, ...]]:
        """The fields that have several values, with these in order."""
        values = {name: tuple(dict.fromkeys(getattr(head, name) for head in self.heads)) for name in SWEPT}
        return {name: found for name, found in values.items() if len(found) > 1}

    def replaced(self, **fields: Any) -> HeadSweep:
        """The same sweep with some fields of all its heads replaced."""
        return replace(self, heads=tuple(replace(head, **fields) for head in self.heads))


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Stage two: the heads, and what they share.

    Attributes:
        heads: the heads to train, in the order of the file; each a sweep, most of them of one.
        validation: share of each class's training images that is held out to choose by.
        split_seed: seed of that choice.
        pixels: whether the linear head is also trained on raw pixels, to compare with.
        tensorboard: whether runs also get event files of their epochs; no part of what a run is.
    """

    heads: tuple[HeadSweep, ...] = ()
    validation: float = checked(real(0, 0.9, above=True), 0.1)
    split_seed: int = checked(whole(0, 2**63 - 1), 0)
    pixels: bool = checked(flag, False)
    tensorboard: bool = checked(flag, False)


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """What ``ablate`` adds to the grid and the heads.

    Attributes:
        seeds: of the initial weights and of dropout; every head that has a seed is trained from each.
    """

    seeds: tuple[int, ...] = checked(different(whole(0, 2**63 - 1)), (0, 1, 2))


@dataclass(frozen=True, kw_only=True)
class DrawsConfig:
    """What ``draws`` measures.

    Attributes:
        settings: the linear head is trained on each, in every arm.
        arms: how many stored draws, or fresh noise, each with or without augmentation.
        epochs: of every arm; with fresh noise the network runs once in each.
        seeds: of the heads.
    """

    settings: tuple[Setting, ...] = checked(different(setting), ())
    arms: tuple[Arm, ...] = checked(arms, ARMS)
    epochs: int = checked(whole(1, 100_000), 12)
    seeds: tuple[int, ...] = checked(different(whole(0, 2**63 - 1)), (0, 1, 2))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One experiment, as a pipeline file describes it.

    Attributes:
        name: the experiment's name.
        file: the file it was read from.
        cache: root folder of the cache, or the URL of one in a bucket, which is only read.
        runs: folder of the runs.
        results: folder of what experiments found; each pipeline has a folder in it.
    """

    name: str
    file: Path
    cache: Path | str
    runs: Path
    results: Path
    images: ImagesConfig
    backbone: BackboneConfig
    extract: ExtractConfig
    heads: HeadsConfig
    ablate: AblateConfig
    draws: DrawsConfig

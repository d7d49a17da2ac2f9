"""The Frechet distance between two sets of images in the feature space of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcache.analysis.frechet import FeatureSpace, Gaussian, frechet_distance, gaussian
from diffcache.errors import ConfigError, HeadError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.distances.rows import Reader, SideRows
from diffcache.experiments.distances.sides import Side, StatisticsSide, open_side
from diffcache.experiments.distances.space import Named, Space, find_space

_UNKNOWN = FeatureSpace("", "", "")


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far two sides lie apart.

    Attributes:
        sides: what was compared.
        statistics: mean and covariance of each.
        space: what they are of; of empty texts between statistics that do not say.
        value: the distance, in squared units of the features.
    """

    sides: tuple[Side, Side]
    statistics: tuple[Gaussian, Gaussian]
    space: FeatureSpace
    value: float


def frechet(
    a: str | Path,
    b: str | Path,
    *,
    named: Named | None = None,
    most: int | None = None,
    allow_few: bool = False,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int | str = "auto",
    decode_threads: int = 4,
    on_event: OnEvent = ignore,
) -> Distance:
    """The Frechet distance between two sets of images: that of the normal distributions of their features.

    Features are read from a cache where it has them, else computed as an extraction would: with noise by the images'
    ids, in the storage type. They are flattened. Means and covariances are streamed, so that memory does not grow with
    the images. With an Inception network as backbone, or its statistics, the distance is the FID.

    Args:
        a, b: ``FILE.toml:SPLIT``, a folder of images, an ``.npz`` of images or of statistics, or a store's folder.
        named: setting and network, in place of the pipeline's.
        most: images of each that are used, the first ones; None for all.
        allow_few: whether fewer images than values are taken, where the distance is far too large.
        overrides: of the pipeline files, such as ``cache``.
        batch_size: images that pass the network together, or ``auto``.
        decode_threads: threads that read and decode.
        on_event: hears of progress, and of what makes distances hard to compare.

    Raises:
        ConfigError, MissingError, ImageError: something named cannot be compared.
        HeadError: too few images, another width or recipe, values that are not finite.
        NotCachedError, AmbiguousError, CacheError: of the cache.
        WeightsError, DeviceError: of the network.
    """
    named = Named() if named is None else named
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 2):
        raise ConfigError(f"frechet: expected at least 2 images, got {most!r}")
    alone = named.card is None and not any(".toml" in str(one) for one in (a, b))
    sides = (
        open_side(a, overrides=overrides, prefer_statistics=alone),
        open_side(b, overrides=overrides, prefer_statistics=alone),
    )
    space = find_space(sides, named)
    if space is None:
        label = _told(sides)
        found = [side.statistics for side in sides if isinstance(side, StatisticsSide)]
    else:
        label = space.label
        reader = Reader(space=space, most=most, batch_size=batch_size, decode_threads=decode_threads, on_event=on_event)
        rows = [None if isinstance(side, StatisticsSide) else reader.rows(k, side) for k, side in enumerate(sides)]
        _check(sides, rows, space, allow_few=allow_few)
        found = [_statistics(side, some, space) for side, some in zip(sides, rows, strict=True)]
    first, second = found
    for line in _warnings(sides, found):
        on_event(Notice(line))
    where = " and ".join(side.name for side in sides)
    value = frechet_distance(first, second, allow_few=allow_few, where=where)
    return Distance(sides=sides, statistics=(first, second), space=label, value=value)


def _told(sides: Sequence[Side]) -> FeatureSpace:
    """What statistics say they are of.

    Raises:
        HeadError: they say different things.
    """
    told = {side.statistics.space for side in sides if isinstance(side, StatisticsSide)} - {None}
    if len(told) > 1:
        known = " and ".join(sorted(f"{one.network} {one.setting} (recipe {one.recipe[:16]})" for one in told if one))
        raise HeadError(f"{sides[0].name} and {sides[1].name}: expected statistics of one feature space, got {known}")
    return next((one for one in told if one is not None), _UNKNOWN)


def _check(sides: Sequence[Side], rows: Sequence[SideRows | None], space: Space, *, allow_few: bool) -> None:
    """Refuse what cannot be compared before anything is computed.

    Raises:
        HeadError: no more rows than values, or statistics of another width.
    """
    for side, some in zip(sides, rows, strict=True):
        if some is not None and some.count <= some.values and not allow_few:
            smaller = f"a smaller pool than {space.setting}" if space.setting.pool != 1 else "a block of fewer channels"
            raise HeadError(
                f"{side.name}: {some.count:,} images and features of {some.values:,} values: a covariance needs at "
                f"least {some.values + 1:,} images, and should have several times as many; give more images, choose "
                f"{smaller}, or take a distance that is far too large with --allow-few"
            )
        if isinstance(side, StatisticsSide):
            wanted = next(one.values for one in rows if one is not None)
            if side.statistics.values != wanted:
                raise HeadError(
                    f"{side.name}: expected statistics of {wanted:,} values, as {space.label.network} {space.setting} "
                    f"has, got {side.statistics.values:,}: they are of another network or setting"
                )


def _statistics(side: Side, rows: SideRows | None, space: Space) -> Gaussian:
    if isinstance(side, StatisticsSide):
        return side.statistics
    assert rows is not None
    return replace(gaussian(rows.batches(), where=side.name), space=space.label)


def _warnings(sides: Sequence[Side], found: Sequence[Gaussian]) -> list[str]:
    """What makes the distance hard to compare with others."""
    lines = []
    counts = [one.rows for one in found]
    if None not in counts and counts[0] != counts[1]:
        text = " and ".join(f"{count:,} of {side.name}" for side, count in zip(sides, counts, strict=True))
        lines.append(
            f"unequal numbers of images, {text}: the distance falls as images are added; --max N takes the first N of "
            f"each"
        )
    for side, one in zip(sides, found, strict=True):
        if one.rows is not None and one.rows <= one.values:
            lines.append(
                f"{side.name}: {one.rows:,} images for {one.values:,} values: their covariance lacks rank, and nothing "
                f"is put in its place: the distance is far too large; compare it with those of as many images only"
            )
    return lines

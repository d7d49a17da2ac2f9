"""What a trained head says of new images: through the network that its features came from, and the head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffcache.errors import ConfigError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.experiments.of_run import Part, run_backbone, run_parts, weights_of_run
from diffcache.heads import Run, load_run
from diffcache.images import ListedImages, list_images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from diffcache.backbones import Backbone
    from diffcache.heads.data.standardize import StandardizedHead
    from diffcache.setting import Setting


@dataclass(frozen=True)
class Prediction:
    """What a head says of one image.

    Attributes:
        path: the image.
        top: the likeliest classes, each with its probability, the likeliest first.
    """

    path: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a head says of some images.

    Attributes:
        run: the head's.
        settings: what the head was given; several where it joins several.
        weights: SHA-256 of the network's file of weights; None for raw pixels.
        file: the file that was used; None for raw pixels.
        precision: of the network's arithmetic.
        draws: noise draws that the probabilities are the mean of.
        predictions: of the images that could be read, in their order.
        unreadable: path to the reason, of those that could not.
    """

    run: Run = field(repr=False)
    settings: tuple[Setting, ...]
    weights: str | None
    file: Path | None
    precision: str
    draws: int
    predictions: tuple[Prediction, ...]
    unreadable: Mapping[str, str]


def predict(
    run: Run | str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    weights: str | Path | None = None,
    top: int = 5,
    draws: int = 1,
    ids: Sequence[str] | None = None,
    device: str = "auto",
    precision: str | None = None,
    batch_size: int | str = "auto",
    decode_threads: int = 4,
    on_event: OnEvent = ignore,
) -> Predicted:
    """Classify images that need be in no image set.

    They go through the network as the run's recipe says: preprocessing, precision, class, seed and storage type. Their
    noise is that of the run's t, the seed and their id, so that an image of the run's test split under the id that it
    has there gets the run's answer, to rounding: the group that it passes with may move last bits.

    Args:
        run: a finished run, or its folder.
        images: files, and folders whose images are taken, those of folders in them too.
        weights: file of the network's weights; by default looked for, see
            :func:`diffcache.experiments.of_run.weights_of_run`.
        top: how many classes to give of each image, at most; all where there are fewer.
        draws: the probabilities are the mean over so many noise draws, draw 0 the first.
        ids: of the images, in place of their names; they decide nothing but the noise.
        device: where network and head compute.
        precision: of the network, in place of the run's.
        batch_size: images that pass together, or ``auto``.
        decode_threads: threads that read and decode.
        on_event: hears of progress, of images that are scaled up, and of another precision than the run's.

    Raises:
        MissingError: no such run, or the weights are not found.
        WeightsError: weights of another hash.
        HeadError: a run on imported features, or one of another version of diffcache.
        ConfigError: several draws where there is no noise, or a number that cannot be used.
        DeviceError: no such device, or it cannot compute in the precision.
    """
    run = run if isinstance(run, Run) else load_run(run)
    for name, number in (("top", top), ("draws", draws)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"predict: {name} must be a whole number of at least 1, got {number!r}")
    parts = run_parts(run)
    file = weights_of_run(run, parts[0].recipe, named=None if weights is None else Path(weights))
    backbone = run_backbone(run, parts[0].recipe, file, device=device, precision=precision)
    source, refused = list_images([images] if isinstance(images, str | Path) else images, ids=ids)
    if backbone.precision != parts[0].recipe.precision:
        on_event(
            Notice(f"the network computes in {backbone.precision}, the run's features in {parts[0].recipe.precision}")
        )
    if run.kind == "ridge":
        on_event(Notice("a ridge head has no probabilities: those given are the softmax of its outputs, nearly even"))
    unreadable, predictions = dict(refused), []
    answers = _answers(
        run, parts, backbone, source, draws=draws, batch_size=batch_size, threads=decode_threads, on_event=on_event
    )
    names, done, task = run.class_names, 0, f"predict ({run.backbone})"
    if len(source):
        on_event(Progress(task, 0, len(source)))
    for rows, bad, shares in answers:
        unreadable.update((source.paths[row], reason) for row, reason in bad.items())
        predictions += [
            Prediction(source.paths[row], _top(share, names, count=top))
            for row, share in zip(rows.tolist(), shares, strict=True)
        ]
        done += len(rows) + len(bad)
        on_event(Progress(task, done, len(source)))
    _say_scaled(source, backbone, on_event)
    return Predicted(
        run=run,
        settings=tuple(part.setting for part in parts),
        weights=parts[0].recipe.weights,
        file=file,
        precision=backbone.precision,
        draws=draws,
        predictions=tuple(predictions),
        unreadable=unreadable,
    )


_Answer = tuple["NDArray[np.int64]", Mapping[int, str], "NDArray[np.float64]"]
"""Of a group of images: rows, why others could not be read, probabilities float64 (n, classes)."""


def _answers(
    run: Run,
    parts: Sequence[Part],
    backbone: Backbone,
    source: ListedImages,
    *,
    draws: int,
    batch_size: int | str,
    threads: int,
    on_event: OnEvent,
) -> Iterator[_Answer]:
    from diffcache.extraction.unstored import compute_unstored

    recipe = parts[0].recipe
    judge = _Judge(run, parts, backbone)
    total = np.empty((0, 0))
    groups = compute_unstored(
        backbone,
        source,
        [part.computed for part in parts],
        seed=recipe.seed,
        dtype=recipe.dtype,
        draws=draws,
        batch_size=batch_size,
        decode_threads=threads,
        on_event=on_event,
    )
    for group in groups:
        shares = judge.probabilities(group.values) if len(group.rows) else np.empty((0, len(run.class_names)))
        total = shares if group.draw == 0 else total + shares
        if group.draw == draws - 1:
            yield group.rows, group.unreadable, total / draws


class _Judge:
    """A run's head, applied to features as they would be read from a store."""

    def __init__(self, run: Run, parts: Sequence[Part], backbone: Backbone) -> None:
        self._parts, self._device = parts, backbone.device
        self._head: StandardizedHead = run.head().to(backbone.device)
        self._precision = str(run.record["head"].get("precision", "fp32"))

    def probabilities(self, values: Mapping[Setting, Tensor]) -> NDArray[np.float64]:
        """float64 (n, classes)."""
        import torch

        from diffcache.heads.training.scoring import autocast

        features = [self._derived(part, values[part.computed]) for part in self._parts]
        with torch.inference_mode(), autocast(self._device, self._precision):
            logits = self._head(features[0] if len(features) == 1 else features)
        shares: NDArray[np.float64] = torch.softmax(logits.cpu().double(), dim=1).numpy()
        return shares

    def _derived(self, part: Part, values: Tensor) -> Tensor:
        """The values of a smaller pool, averaged as the cache does when they are read."""
        if part.computed == part.setting:
            return values
        import torch

        from diffcache.cache.derived import average

        maps = values.cpu().numpy()
        made = average(maps, maps.shape[2] // part.setting.pool).astype(maps.dtype)
        return torch.from_numpy(made).to(self._device)


def _top(shares: NDArray[np.float64], names: Sequence[str], *, count: int) -> tuple[tuple[str, float], ...]:
    """The likeliest classes; of equal ones the lower number first, as where accuracy is counted."""
    best = np.argsort(-shares, kind="stable")[:count]
    return tuple((names[label], float(shares[label])) for label in best.tolist())


def _say_scaled(source: ListedImages, backbone: Backbone, on_event: OnEvent) -> None:
    preprocessing = backbone.card.preprocessing
    side = preprocessing.image_size
    small = int(np.count_nonzero((source.sides > 0) & (source.sides < side)))
    if small and preprocessing.fit == "crop":
        on_event(Notice(f"{small:,} of {len(source):,} images are smaller than the network's {side}x{side}: scaled up"))

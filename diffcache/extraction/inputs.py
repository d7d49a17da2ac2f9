"""What the network is given: groups of images with the noise of every pass, made ahead of it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffcache.cache import Store
from diffcache.diffusion import sample_noise
from diffcache.diffusion.noise import sample_generator
from diffcache.errors import ImageError, MissingError
from diffcache.extraction.decoded import Decoded
from diffcache.extraction.matching import Matching
from diffcache.extraction.work import RangeWork
from diffcache.images import (
    Augmentation,
    ImageSource,
    LoadedBatch,
    Preprocessing,
    Wanted,
    Window,
    load_batches,
    to_unit,
)
from diffcache.setting import Pass

_DECODED_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Group:
    """A group of images; short groups are padded to the group size by repeating the last image.

    Attributes:
        work: the range that it is part of.
        start, stop: its rows in the segment, padding left out.
        digests: content hashes, uint8 (stop - start, 32).
        stamps: of the images' files, int64 (stop - start, 2).
        ids: ids of the rows, padding included.
        unreadable: row, counted over the store, to the reason why its image is not used.
    """

    work: RangeWork
    start: int
    stop: int
    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    ids: list[str]
    unreadable: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Input:
    """One forward computation.

    Attributes:
        group, pass_: what is computed.
        x0: the images in [-1, 1], float32 (size, channels, height, width), on the host; one tensor for all passes
            that see the same images.
        noise: like ``x0``; None without noise.
    """

    group: Group
    pass_: Pass
    x0: Tensor
    noise: Tensor | None


class Inputs:
    """Every forward computation of a job: each group is decoded once and serves all its passes, draw after draw.

    The images of one draw at a time are made floating-point numbers, so that memory holds few however many there are.

    Args:
        store: the store; rows that it has marked are not read again.
        source: the images.
        matching: which image each row is.
        preprocessing: what is done to each.
        augmentation: what draws after 0 do to it.
        threads: decoding threads.
        pinned: whether the tensors lie in page-locked memory, for copies that do not block.
        mark_unreadable: whether images that cannot be read are passed over, with a reason, in place of an error.
        decoded: keeps the images of a range for the call that has another pass over it.

    Raises:
        ImageError, MissingError: by :meth:`of`, where an image cannot be read.
    """

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        matching: Matching,
        preprocessing: Preprocessing,
        *,
        augmentation: Augmentation | None,
        threads: int,
        pinned: bool,
        mark_unreadable: bool,
        decoded: Decoded | None = None,
    ) -> None:
        self._decoded = decoded
        self._store, self._source, self._rows = store, source, matching.rows
        self._preprocessing, self._augmentation = preprocessing, augmentation
        self._threads, self._pinned, self._mark_unreadable = threads, pinned, mark_unreadable
        self._size, self._seed = store.group_size, store.recipe.seed
        self._marked = np.zeros(store.rows, np.bool_)  # as of now: the writer adds to the store's own
        self._marked[list(store.marks)] = True

    def of(self, work: Iterable[RangeWork]) -> Generator[Input, None, None]:
        """The forward computations of what is left."""
        groups = [(part, start, stop) for part in work for start, stop in part.groups(self._size)]
        with closing(self._batches(groups)) as batches:
            for (part, start, stop), batch in zip(groups, batches, strict=True):
                group, lacking = self._group(part, start, stop, batch), self._size - len(batch)
                shown, x0 = -1, torch.empty(0)
                for pass_ in sorted(part.passes, key=lambda pass_: (pass_.draw, pass_)):
                    draw = pass_.draw if pass_.draw in batch.augmented else 0
                    if draw != shown:
                        shown, x0 = draw, self._on_host(batch.of_draw(draw), lacking)
                    yield Input(group, pass_, x0, self._noise(group, pass_))

    def _batches(self, groups: list[tuple[RangeWork, int, int]]) -> Generator[LoadedBatch, None, None]:
        """The images of some groups, decoded now or for an earlier call."""
        key = None
        if self._decoded is not None and len({part.rows for part, _, _ in groups}) == 1:
            part = groups[0][0]
            rows = slice(part.first_row, part.first_row + part.rows.rows)
            key = (
                self._store.path,
                part.rows,
                () if self._augmentation is None else part.draws,
                self._marked[rows].tobytes(),
            )
            if (kept := self._decoded.get(key)) is not None:
                yield from kept
                return
        batches = load_batches(
            self._source,
            self._preprocessing,
            self._wanted(groups),
            threads=self._threads,
            ahead=_DECODED_AHEAD,
            windows=None if self._augmentation is None else self._window,
            mark_unreadable=self._mark_unreadable,
        )
        with closing(batches):
            loaded = _with_remedy(batches)
            yield from loaded if key is None or self._decoded is None else self._decoded.keeping(key, loaded)

    def _wanted(self, groups: Iterable[tuple[RangeWork, int, int]]) -> Iterator[Wanted]:
        for part, start, stop in groups:
            rows = slice(part.store_row(start), part.store_row(stop))
            yield Wanted(self._rows[rows], part.draws, frozenset(np.flatnonzero(self._marked[rows]).tolist()))

    def _window(self, i: int, draw: int) -> Window | None:
        assert self._augmentation is not None
        generator = sample_generator(self._seed, self._source.ids[i], t=None, draw=draw, purpose="augmentation")
        return self._augmentation.window(generator)

    def _group(self, part: RangeWork, start: int, stop: int, batch: LoadedBatch) -> Group:
        first, lacking = part.store_row(start), self._size - len(batch)
        marked = np.flatnonzero(self._marked[first : first + len(batch)])
        if len(marked) and self._store.ledger.at(part.rows):
            # What was seen of a marked row's image when its range was first committed stays what is recorded.
            batch.digests[marked] = self._store.content_hashes_of(part.rows.segment, start, stop)[marked]
        ids = [self._source.ids[i] if i >= 0 else "" for i in batch.indices.tolist()]
        return Group(
            work=part,
            start=start,
            stop=stop,
            digests=batch.digests,
            stamps=batch.stamps,
            ids=[*ids, *[ids[-1]] * lacking],
            unreadable={first + k: reason for k, reason in batch.unreadable.items()},
        )

    def _on_host(self, pixels: NDArray[np.uint8], lacking: int) -> Tensor:
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], lacking, axis=0)]) if lacking else pixels
        return self._pin(to_unit(padded))

    def _noise(self, group: Group, pass_: Pass) -> Tensor | None:
        if pass_.t is None:
            return None
        return self._pin(
            sample_noise(group.ids, self._preprocessing.shape, seed=self._seed, t=pass_.t, draw=pass_.draw)
        )

    def _pin(self, values: NDArray[np.float32]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._pinned else tensor


def _with_remedy(batches: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
    """The same; an error says what else can be done with images that cannot be read."""
    try:
        yield from batches
    except (ImageError, MissingError) as error:
        raise type(error)(
            f'{error}; mend the image, or leave the rows of such images out with on_unreadable = "mark" '
            f"(--on-unreadable mark)"
        ) from None

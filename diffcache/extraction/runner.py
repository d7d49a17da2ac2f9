"""Where the network of an extraction runs: in this process, or on the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from diffcache.backbones import Backbone
from diffcache.cache import Store
from diffcache.cache.writer import Writer
from diffcache.compute.interrupts import interrupts_held
from diffcache.events import Fallback, Notice, OnEvent
from diffcache.extraction.decoded import Decoded
from diffcache.extraction.forward import Forward
from diffcache.extraction.group_size import choose_group_size
from diffcache.extraction.inputs import Inputs
from diffcache.extraction.matching import Matching
from diffcache.extraction.outcome import Account
from diffcache.extraction.work import RangeWork
from diffcache.images import ImageSource, augmentation_named
from diffcache.setting import Pass


@dataclass(frozen=True, kw_only=True)
class How:
    """What of an extraction is the same for all of its ranges.

    Attributes:
        augmentation: what draws after 0 do to the image, by name.
        decode_threads: threads that read and decode images, in each process.
        mark_unreadable: whether images that cannot be read are passed over.
        saturate: whether values beyond the storage type become its largest.
    """

    augmentation: str
    decode_threads: int
    mark_unreadable: bool
    saturate: bool

    def inputs(
        self,
        store: Store,
        source: ImageSource,
        matching: Matching,
        backbone: Backbone,
        *,
        decoded: Decoded | None = None,
    ) -> Inputs:
        """What the network is given."""
        return Inputs(
            store,
            source,
            matching,
            backbone.card.preprocessing,
            augmentation=augmentation_named(self.augmentation),
            threads=self.decode_threads,
            pinned=backbone.device.type == "cuda",
            mark_unreadable=self.mark_unreadable,
            decoded=decoded,
        )


class Runner(Protocol):
    """Runs the network for an extraction.

    Attributes:
        fallbacks: what is used in place of what was asked for, as far as it is known by now.
    """

    @property
    def fallbacks(self) -> Sequence[Fallback]: ...

    def load(self, on_event: OnEvent) -> Sequence[Fallback]:
        """Have the weights loaded; the fallbacks that this brought."""
        ...

    def group_size(
        self, asked: int | str, *, blocks: Collection[int], pass_: Pass
    ) -> tuple[int, Sequence[Fallback], float]:
        """The group size of a new store, what it fell back from, and the seconds that belong to the extraction."""
        ...

    def run(
        self,
        writer: Writer,
        work: Sequence[RangeWork],
        *,
        source: ImageSource,
        matching: Matching,
        how: How,
        fallbacks: Sequence[Fallback],
        account: Account,
    ) -> None:
        """Compute and commit all of it.

        Raises:
            ImageError, MissingError: an image cannot be read; what was committed before stays, as with all of these.
            StorageOverflowError: a value does not fit the storage type.
            DeviceError: out of memory.
            DiskFullError: no room.
            Interrupted: Ctrl-C; it says what is left.
        """
        ...


class Here:
    """Runs the network in this process; see :class:`Runner`.

    Args:
        backbone: the network.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    @property
    def fallbacks(self) -> Sequence[Fallback]:
        """See :class:`Runner`."""
        return self._backbone.fallbacks

    def load(self, on_event: OnEvent) -> Sequence[Fallback]:
        """See :class:`Runner`."""
        backbone = self._backbone
        if backbone.card.has_network:
            on_event(Notice(f"{backbone.card.name} on {backbone.device} in {backbone.precision}"))
        known = len(backbone.fallbacks)
        backbone.load()
        return backbone.fallbacks[known:]

    def group_size(
        self, asked: int | str, *, blocks: Collection[int], pass_: Pass
    ) -> tuple[int, Sequence[Fallback], float]:
        """See :class:`Runner`."""
        began = time.perf_counter()
        size, halved = choose_group_size(asked, self._backbone, blocks=blocks, pass_=pass_)
        # A network that is compiled is so in the first group that it is given.
        return size, halved, time.perf_counter() - began if self._backbone.compiled else 0.0

    def run(
        self,
        writer: Writer,
        work: Sequence[RangeWork],
        *,
        source: ImageSource,
        matching: Matching,
        how: How,
        fallbacks: Sequence[Fallback],
        account: Account,
    ) -> None:
        """See :class:`Runner`.

        Raises:
            Interrupted: Ctrl-C; it says what is left.
        """
        made = how.inputs(writer.store, source, matching, self._backbone)
        forward = Forward(self._backbone, writer.store, mark=writer.mark, fallbacks=fallbacks, saturate=how.saturate)
        with interrupts_held() as pressed:
            whole = forward.run(work, made, stop=pressed, on_group=account.add)
            if not whole or pressed():  # while the last groups were written
                raise account.interrupted()
        account.end(marked=forward.marked, saturated=forward.saturated)

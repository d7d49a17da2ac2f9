"""Backbones of modules that are not written here: what a new kind must say of its network, and the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcache.backbones.card import Card
from diffcache.backbones.checkpoint import load_weights
from diffcache.backbones.kinds import Kind, generic_recipe
from diffcache.backbones.protocol import BlockInfo, check_blocks
from diffcache.backbones.weighted import WeightedBackbone, exact_convolutions
from diffcache.compute import not_compiled, torch_dtype
from diffcache.errors import ConfigError, DependencyError, DiffcacheError, MissingError
from diffcache.recipe import Recipe

Outputs = Iterable[tuple[str, Tensor | None]]
"""Of each block, in the order data passes: its name, and its map (n, C, H, W), or None where it is not asked for."""


class PluginKind(Kind):
    """A kind whose networks are ordinary modules; at the least ``name``, :meth:`build` and :meth:`outputs` say which.

    Attributes:
        packages: what has to be installed for it.
        extra: the extra of diffcache that installs them; empty where none does.
        code: raised when this code comes to compute other features from the same weights.
    """

    packages: tuple[str, ...] = ()
    extra: str = ""
    code: int = 1

    @abstractmethod
    def build(self, card: Card) -> nn.Module:
        """The card's network with new weights, on PyTorch's default device, which may be ``meta``."""

    @abstractmethod
    def outputs(self, network: nn.Module, x: Tensor, *, t: int | None, wanted: Collection[int]) -> Outputs:
        """What each block makes of a group, as far as the last one that is wanted, or further.

        Args:
            network: of :meth:`build` or :meth:`read`.
            x: its input, (n, channels, size, size) in its own precision: noised where ``t`` is given, normalized.
            t: time step; None for a network without noise.
            wanted: numbers of the blocks that are asked for, from 1.
        """

    def read(self, card: Card, weights: Path) -> nn.Module:
        """The network with the weights of a file, whose names are those of its state dict unless this is replaced.

        Raises:
            WeightsError: the file does not fit.
        """
        with torch.device("meta"):
            network = self.build(card)
        load_weights(network, weights, card=card.name)
        return network

    def check(self, card: Card, weights: Path | None, *, condition: str | int | None) -> None:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        self.require_packages(f"card {card.name}")
        if condition is not None:
            raise ConfigError(f"condition: card {card.name} takes no classes, got {condition!r}")
        if weights is not None and not weights.is_file():
            raise MissingError(f"{weights}: no such file of weights{card.weights_hint}")

    def require_packages(self, where: str) -> None:
        """Raise DependencyError, naming what to install, unless all packages are installed."""
        for package in self.packages:
            if find_spec(package) is None:
                remedy = f"pip install 'diffcache[{self.extra}]'" if self.extra else f"install {package}"
                raise DependencyError(f"{where}: needs {package}, which is not installed: {remedy}")

    def recipe(self, card: Card, *, condition: str | int | None, **values: Any) -> Recipe:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        recipe = generic_recipe(self.name, card, **values)
        return recipe if self.code == 1 else generic_recipe(self.name, card, conditioning={"code": self.code}, **values)

    def open(self, card: Card, weights: Path | None, **arguments: Any) -> PluginBackbone:
        """See :class:`~diffcache.backbones.kinds.Kind`."""
        return PluginBackbone(self, card, weights, **arguments)


class PluginBackbone(WeightedBackbone[nn.Module]):
    """A network of a :class:`PluginKind`; see :class:`diffcache.backbones.Backbone`."""

    def __init__(self, kind: PluginKind, card: Card, weights: Path | None, **arguments: Any) -> None:
        super().__init__(card, weights, **arguments)
        self._kind = kind
        self.libraries = dict(_versions(kind.packages))
        if self.compiled:
            self.compiled = False
            self.fallbacks += (not_compiled(f"networks of kind {kind.name} are not"),)

    def _copy(self) -> PluginBackbone:
        return PluginBackbone(self._kind, self.card, None, device=self.device, precision=self.precision)

    @cached_property
    def blocks(self) -> tuple[BlockInfo, ...]:
        """The network's blocks, known without its weights: from a pass on the ``meta`` device."""
        where = f"card {self.card.name}"
        try:
            with torch.device("meta"), torch.inference_mode():
                network = self._kind.build(self.card).eval()
                x = torch.zeros(1, *self.card.preprocessing.shape)
                t = None if self.card.schedule is None else 0
                found = list(self._kind.outputs(network, x, t=t, wanted=range(1, 1 << 16)))
        except DiffcacheError:
            raise
        except Exception as error:  # of settings that make no network, libraries raise nearly anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            shape = self.card.preprocessing.shape
            raise ConfigError(f"{where}: not a network that can be run on images {shape}: {reason}") from None
        return tuple(_block(number, name, output, where) for number, (name, output) in enumerate(found, start=1))

    def _build(self) -> nn.Module:
        return self._kind.build(self.card)

    def _read(self, weights: Path) -> nn.Module:
        return self._kind.read(self.card, weights)

    @torch.inference_mode()
    def features(
        self, x0: Tensor, *, t: int | None, noise: Tensor | None, blocks: Collection[int]
    ) -> dict[int, Tensor]:
        """See :class:`diffcache.backbones.Backbone`."""
        wanted = check_blocks(blocks, self.blocks, card=self.card.name)
        schedule, found = self.card.schedule, {}
        if schedule is None:
            x = self._normalized(x0)
        elif t is None or noise is None:
            raise ConfigError(f"card {self.card.name}: features need a time step and noise")
        else:
            x = schedule.q_sample(x0, t, noise=noise)
        network = self.network
        with exact_convolutions():
            outputs = self._kind.outputs(network, x.to(torch_dtype(self.precision)), t=t, wanted=wanted)
            for number, (_, output) in enumerate(outputs, start=1):
                if number in wanted and output is not None:
                    found[number] = output
                if len(found) == len(wanted):
                    break
        return found

    def _normalized(self, x0: Tensor) -> Tensor:
        """Images in [-1, 1] as the network takes them."""
        preprocessing = self.card.preprocessing
        if preprocessing.mean is None or preprocessing.std is None:
            return x0
        mean, std = (x0.new_tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        return (x0 * 0.5 + 0.5 - mean) / std


def tapped(modules: Sequence[tuple[str, nn.Module]], call: Callable[[], Any], *, wanted: Collection[int]) -> Outputs:
    """The outputs of modules while something is called, which is left after the last one that is wanted.

    Args:
        modules: names and modules, in the order data passes.
        call: runs the network.
        wanted: numbers of the modules whose outputs are kept, from 1.

    Returns:
        A name and an output for each module; of a tuple its first part.
    """
    kept: dict[int, Tensor] = {}
    last = max((number for number in wanted if number <= len(modules)), default=len(modules))
    with ExitStack() as hooks:
        for number, (_, module) in enumerate(modules, start=1):
            if number in wanted:
                hooks.enter_context(_hook(module, number, kept, last=number == last))
        with suppress(_Enough):
            call()
    return [(name, kept.get(number)) for number, (name, _) in enumerate(modules, start=1)]


class _Enough(Exception):
    """Leaves a network's forward."""


@contextmanager
def _hook(module: nn.Module, number: int, kept: dict[int, Tensor], *, last: bool) -> Iterator[None]:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        kept[number] = output[0] if isinstance(output, tuple | list) else output
        if last:
            raise _Enough

    handle = module.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def _block(number: int, name: str, output: Tensor | None, where: str) -> BlockInfo:
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[0] != 1:
        shape = "nothing" if output is None else tuple(getattr(output, "shape", ())) or type(output).__name__
        raise ConfigError(f"{where}: block {number} ({name}) cannot be tapped: expected maps (1, C, H, W), got {shape}")
    return BlockInfo(number=number, name=name, channels=output.shape[1], height=output.shape[2], width=output.shape[3])


def _versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # installed by hand
            yield package, "unknown"

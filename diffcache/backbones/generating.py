"""The same network from its other end: opened to generate images, not for features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from diffcache.backbones.card import Card, load_card
from diffcache.backbones.opening import open_backbone
from diffcache.compute import require_values
from diffcache.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffcache.backbones.adm_config import AdmConfig
    from diffcache.diffusion import Schedule


@runtime_checkable
class Generator(Protocol):
    """A backbone that can also generate: it predicts the noise in its input.

    Attributes:
        card: what describes it.
        config: its architecture: the images' shape, the number of classes, the size of images to enlarge.
        schedule: its noise schedule.
        weights: its file of weights.
        device: where it computes.
        precision: resolved arithmetic, ``fp32``, ``bf16`` or ``fp16``.
    """

    card: Card
    config: AdmConfig
    schedule: Schedule
    weights: Path | None
    device: torch.device
    precision: str

    def weights_hash(self) -> str | None:
        """SHA-256 of the file of weights; None where there is none."""
        ...

    def predict_noise(self, x: Tensor, t: Tensor, *, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """The noise in images, and its variance where the network learned it.

        Args:
            x: noised images, float32 (n, channels, size, size), on the backbone's device.
            t: time steps of the whole schedule, (n,), or (1,) for all images.
            y: classes, whole numbers (n,), for a class-conditional network.
            low_res: images to enlarge in [-1, 1], (n, channels, any, any), for a super-resolution network.

        Returns:
            (n, out_channels, size, size) in the network's precision: the noise, then variance channels.

        Raises:
            ConfigError: y or low_res is missing, or given to a network that takes none; or there are no weights.
            WeightsError: the weights are not those of the card.
        """
        ...


def open_generator(
    card: str | Path | Card, weights: str | Path | None, *, device: str = "auto", precision: str = "auto"
) -> Generator:
    """Open the network that a card describes, to generate images. Its weights are read at the first use.

    Args:
        card, weights, device, precision: as for :func:`diffcache.backbones.opening.open_backbone`.

    Raises:
        ConfigError: no such card, a card of a kind that cannot generate or without noise schedule, or no weights.
        MissingError: no such file of weights.
        DeviceError: no such device here, or one that holds no values.
    """
    card = load_card(card)
    backbone = open_backbone(card, weights if card.has_network else None, device=device, precision=precision)
    if not isinstance(backbone, Generator):
        raise ConfigError(f"card {card.name}: kind {card.kind!r} is no diffusion network: it cannot generate images")
    if weights is None:
        raise ConfigError(f"card {card.name}: name its file of weights with --weights{card.weights_hint}")
    require_values(backbone.device)
    return backbone

"""The architecture of an ADM as plain values, known without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from diffcache.errors import ConfigError, brief

if TYPE_CHECKING:
    from diffcache.backbones.card import Card

GROUPS = 32
"""Groups of every group norm."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1_000


_KINDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number, 1 to 1,000,000", _whole),
    "int | None": ("a whole number, 1 to 1,000,000", lambda value: value is None or _whole(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "float": ("a number, 0 or more, under 1", lambda value: value == 0 or (_positive(value) and value < 1)),
    "tuple[int, ...]": (
        "a list of whole numbers of at least 1",
        lambda value: isinstance(value, list | tuple) and all(map(_whole, value)),
    ),
    "tuple[float, ...]": (
        "a list of 1 to 20 numbers above 0, at most 1,000",
        lambda value: isinstance(value, list | tuple) and 1 <= len(value) <= 20 and all(map(_positive, value)),
    ),
}
"""Type of a field: what it may hold, in words and as a check."""


@dataclass(frozen=True, kw_only=True)
class AdmConfig:
    """The architecture of an ADM.

    Attributes:
        image_size: height and width of the input.
        in_channels: channels of the image; a super-resolution network takes as many again.
        model_channels: channels at the first level.
        out_channels: channels of the output; twice the image's where the variance is learned.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        attention_resolutions: downsampling factors at which blocks have attention.
        channel_mult: channels of each level over ``model_channels``.
        num_head_channels: channels of an attention head; -1 to go by ``num_heads``.
        num_heads: attention heads, where ``num_head_channels`` is -1.
        use_scale_shift_norm: whether the time embedding scales and shifts the second group norm
            (AdaGN, equation 3 of appendix B) or is only added.
        resblock_updown: whether residual blocks change the resolution, or plain convolutions do.
        use_new_attention_order: whether queries, keys and values are split before the heads.
        num_classes: classes of a class-conditional network.
        super_res: whether the network also takes a low-resolution image.
        dropout: in the residual blocks; matters only in training.
    """

    image_size: int
    in_channels: int
    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[float, ...]
    num_head_channels: int = -1
    num_heads: int = 1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    num_classes: int | None = None
    super_res: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        smallest = 2 ** (len(self.channel_mult) - 1)
        if self.image_size % smallest:
            raise ConfigError(
                f"AdmConfig: {len(self.channel_mult)} levels need an image_size that {smallest} divides, "
                f"got {self.image_size}"
            )
        for level, multiple in enumerate(self.channel_mult):
            channels = int(multiple * self.model_channels)
            if channels % GROUPS:
                raise ConfigError(
                    f"AdmConfig: group norm needs a multiple of {GROUPS} channels, got {channels} "
                    f"(channel_mult {multiple:g} x model_channels {self.model_channels})"
                )
            with_attention = 2**level in self.attention_resolutions or level == len(self.channel_mult) - 1
            width = self.num_heads if self.num_head_channels == -1 else self.num_head_channels
            if with_attention and channels % width:
                what = "num_heads" if self.num_head_channels == -1 else "num_head_channels"
                raise ConfigError(
                    f"AdmConfig: {what} must divide the channels of blocks with attention, got {width} and {channels}"
                )

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            expected, fits = _KINDS[str(field.type)]
            if not fits(value) and not (field.name == "num_head_channels" and value == -1):
                raise ConfigError(f"AdmConfig: {field.name} must be {expected}, got {brief(value)}")

    def plain(self) -> dict[str, Any]:
        """The architecture as JSON values, without dropout, which decides no feature."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        del values["dropout"]
        return values

    def heads(self, channels: int) -> int:
        """How many attention heads a block of so many channels has."""
        return self.num_heads if self.num_head_channels == -1 else channels // self.num_head_channels

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image: (in_channels, image_size, image_size)."""
        return (self.in_channels, self.image_size, self.image_size)

    @property
    def low_res_size(self) -> int:
        """Side of the image that a super-resolution network enlarges; both published ones enlarge four times."""
        return self.image_size // 4


def adm_config(card: Card) -> AdmConfig:
    """The architecture of a card.

    Raises:
        ConfigError: it does not make a network, or the preprocessing gives other images than it takes.
    """
    try:
        config = AdmConfig(**card.architecture)
    except (TypeError, ConfigError) as error:  # TypeError: an unknown or missing key
        raise ConfigError(f"card {card.name}: architecture: {error}") from None
    given, taken = card.preprocessing.shape, config.image_shape
    if given != taken:
        raise ConfigError(f"card {card.name}: preprocessing gives images {given}, the architecture takes {taken}")
    return config

"""ADM, the ablated diffusion model: the U-Net of guided-diffusion.

Written from Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2105.05233,
section 3 and appendix B), with the parameter names of the published checkpoints, so that those load
unchanged.

Maps stay in ``channels_last`` memory all the way: attention works on the same bytes, seen as tokens.
Without gradients a map that nobody else holds is changed where it lies: a fresh map costs more than the
arithmetic done on it, being memory that is touched for the first time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcache.backbones.adm_config import GROUPS, AdmConfig
from diffcache.backbones.protocol import BlockInfo, check_blocks
from diffcache.errors import ConfigError

_WIDE, _LARGE = 16, 1024
"""Channels of a group and positions of a map from which on PyTorch's norm of bf16 maps is fast on processors; below
both it takes three to eight times as long as one of float32 copies (measured with AVX-512)."""


class ADM(nn.Module):
    """The U-Net. New networks hold zeros: load a state dict, or call :meth:`initialize` to train one.

    Filling half a billion weights with random numbers takes longer than reading them from a file,
    so nothing is drawn until it is asked for. Under ``torch.device("meta")`` no memory is taken.

    Args:
        config: the architecture.

    Attributes:
        blocks: number, name, channels, height and width of every block, in the order data passes.
    """

    def __init__(self, config: AdmConfig) -> None:
        super().__init__()
        device = torch.get_default_device()
        with torch.device("meta"):
            self._build(config)
        self._apply(lambda tensor: _zeros(tensor, device))
        self.config = config

    def _build(self, config: AdmConfig) -> None:
        width = config.model_channels
        emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, emb)

        def residual(c_in: int, c_out: int, change: str | None = None) -> ResBlock:
            return ResBlock(
                c_in, c_out, emb, change=change, scale_shift=config.use_scale_shift_norm, dropout=config.dropout
            )

        def attention(channels: int) -> AttentionBlock:
            return AttentionBlock(channels, config.heads(channels), split_first=config.use_new_attention_order)

        def with_attention(layers: list[nn.Module], channels: int, factor: int) -> list[nn.Module]:
            return [*layers, attention(channels)] if factor in config.attention_resolutions else layers

        channels = int(config.channel_mult[0] * width)
        image_channels = config.in_channels * (2 if config.super_res else 1)
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(image_channels, channels, 3, padding=1)])])
        shapes = [(channels, 1)]  # channels and downsampling factor of each block's output

        for level, multiple in enumerate(config.channel_mult):
            factor = 2**level
            for _ in range(config.num_res_blocks):
                c_out = int(multiple * width)
                self.input_blocks.append(Block(with_attention([residual(channels, c_out)], c_out, factor)))
                channels = c_out
                shapes.append((channels, factor))
            if level + 1 < len(config.channel_mult):
                down = residual(channels, channels, "down") if config.resblock_updown else Downsample(channels)
                self.input_blocks.append(Block([down]))
                shapes.append((channels, 2 * factor))

        skips = [c for c, _ in shapes]
        self.middle_block = Block([residual(channels, channels), attention(channels), residual(channels, channels)])
        shapes.append((channels, factor))

        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(config.channel_mult))):
            factor = 2**level
            for i in range(config.num_res_blocks + 1):
                c_out = int(multiple * width)
                layers = with_attention([residual(channels + skips.pop(), c_out)], c_out, factor)
                channels = c_out
                if level and i == config.num_res_blocks:
                    layers.append(residual(channels, channels, "up") if config.resblock_updown else Upsample(channels))
                    factor //= 2
                self.output_blocks.append(Block(layers))
                shapes.append((channels, factor))

        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, config.out_channels, 3, padding=1)
        )
        sides = [config.image_size // factor for _, factor in shapes]
        self.blocks = tuple(
            BlockInfo(number=b, name=name, channels=c, height=side, width=side)
            for b, (name, (c, _), side) in enumerate(zip(self._block_names(), shapes, sides, strict=True), start=1)
        )

    def _block_names(self) -> Iterator[str]:
        yield from (f"input_blocks.{i}" for i in range(len(self.input_blocks)))
        yield "middle_block"
        yield from (f"output_blocks.{i}" for i in range(len(self.output_blocks)))

    def initialize(self, generator: torch.Generator | None = None) -> ADM:
        """Draw weights to train from: PyTorch's usual uniform ones, and zeros where a residual branch ends.

        Args:
            generator: where the random numbers come from.

        Returns:
            The network itself.
        """
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in module.parameters(recurse=False):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
        ends: list[nn.Module] = [m.out_layers[3] for m in self.modules() if isinstance(m, ResBlock)]
        ends += [m.proj_out for m in self.modules() if isinstance(m, AttentionBlock)]
        for end in (*ends, self.out[2]):
            for parameter in end.parameters():
                nn.init.zeros_(parameter)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The type that the network computes in."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, low_res: Tensor | None = None) -> Tensor:
        """The whole pass.

        Args:
            x: noised images in [-1, 1] plus noise, (n, in_channels, size, size).
            t: time steps in [0, T), before any respacing, (n,); whole or real numbers. Or (1,), one for all images,
                which is faster: what it scales and shifts is then done by the norms themselves.
            y: classes, whole numbers (n,); or embeddings made of them, real numbers (n, 4 model_channels). Or of
                length 1, as ``t``.
            low_res: images to enlarge, (n, in_channels, any, any); for super-resolution networks.

        Returns:
            (n, out_channels, size, size): the predicted noise, then the variance where it is learned.

        Raises:
            ConfigError: y or low_res is missing, or given to a network that takes none.
        """
        for _, output in self._outputs(x, t, y, low_res):
            h = output  # earlier ones are let go of
        return self.out(h)

    def features(
        self,
        x: Tensor,
        t: Tensor,
        *,
        blocks: Collection[int],
        y: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """The outputs of some blocks; nothing after the last of them is computed.

        Args:
            x, t, y, low_res: as for :meth:`forward`.
            blocks: block numbers, from 1.

        Returns:
            Block number to its output, (n, channels, height, width) as ``blocks`` of the network tells.

        Raises:
            SettingError: no such block.
            ConfigError: as :meth:`forward`.
        """
        wanted = check_blocks(blocks, self.blocks)
        found: dict[int, Tensor] = {}
        for b, h in self._outputs(x, t, y, low_res):
            if b in wanted:
                found[b] = h
                if len(found) == len(wanted):
                    break
        return {b: found[b] for b in blocks}

    def _outputs(self, x: Tensor, t: Tensor, y: Tensor | None, low_res: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Each block's number and output, computed as they are asked for."""
        emb = self._embedding(t, y)
        h = self._input(x, low_res)
        b = 0
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
            yield (b := b + 1), h
        h = self.middle_block(h, emb)
        yield (b := b + 1), h
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
            yield (b := b + 1), h

    def _embedding(self, t: Tensor, y: Tensor | None) -> Tensor:
        if (y is None) != (self.config.num_classes is None):
            takes = "takes no classes" if y is not None else f"needs y, one of {self.config.num_classes} classes"
            raise ConfigError(f"ADM: this network {takes}")
        emb = self.time_embed(sinusoids(t, self.config.model_channels).to(self.dtype))
        if y is not None:
            emb = emb + (y.to(self.dtype) if y.is_floating_point() else self.label_emb(y))
        return emb

    def _input(self, x: Tensor, low_res: Tensor | None) -> Tensor:
        if (low_res is None) == self.config.super_res:
            takes = "needs low_res, the images to enlarge" if self.config.super_res else "takes no low_res"
            raise ConfigError(f"ADM: this network {takes}")
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, size=x.shape[-2:], mode="bilinear")], dim=1)
        return x.to(self.dtype, memory_format=torch.channels_last)


def _zeros(like: Tensor, device: torch.device) -> Tensor:
    """Zeros in place of a tensor of the ``meta`` device."""
    if device.type == "meta":
        return like
    if device.type == "cpu":
        # NumPy asks the kernel for zeroed pages, which take no time until they are written.
        return torch.from_numpy(np.zeros(like.shape, np.float32))
    return torch.zeros_like(like, device=device)


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of time steps (Transformer positions; DDPM, 2006.11239, appendix B).

    Args:
        t: time steps, (n,).
        dim: width, even; cosines fill the first half, sines the second.

    Returns:
        float32 (n, dim).
    """
    half = dim // 2
    rates = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Block(nn.ModuleList):
    """Layers that data passes one after another; the residual ones are shown the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class Downsample(nn.Module):
    """Halves the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbours, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_resample(x, "up"))


class ResBlock(nn.Module):
    """BigGAN's residual block: norm, SiLU, convolution, twice, the second norm told the time.

    Args:
        c_in, c_out: channels of input and output.
        emb: width of the time embedding.
        change: ``"down"`` or ``"up"`` to halve or double the resolution, None to keep it.
        scale_shift: whether the embedding scales and shifts the second norm or is added before it.
        dropout: before the last convolution.
    """

    def __init__(
        self, c_in: int, c_out: int, emb: int, *, change: str | None, scale_shift: bool, dropout: float
    ) -> None:
        super().__init__()
        self.change = change
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out if scale_shift else c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, c_out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        _, _, conv_in = self.in_layers
        _, _, dropout, conv_out = self.out_layers
        norm_in, norm_out = cast(nn.GroupNorm, self.in_layers[0]), cast(nn.GroupNorm, self.out_layers[0])
        h = _silu(_normed(norm_in, x))
        if self.change is not None:
            h, x = _resample(h, self.change), _resample(x, self.change)
        h = conv_in(h)
        emb = self.emb_layers(emb)
        h = _scaled_norm(norm_out, h, emb) if self.scale_shift else _normed(norm_out, _add(h, emb[:, :, None, None]))
        return _add(conv_out(dropout(_silu(h))), self.skip_connection(x))


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a map, with a residual connection.

    Args:
        channels: channels of input and output.
        heads: attention heads.
        split_first: the order in which ``qkv`` holds its rows: queries, keys and values, each by
            head (True), or heads, each with its query, key and value (False).
    """

    def __init__(self, channels: int, heads: int, *, split_first: bool) -> None:
        super().__init__()
        self.heads = heads
        self.split_first = split_first
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        positions = height * width
        qkv = _tokens(_pointwise(self.qkv, _normed(self.norm, x)))
        if self.split_first:
            q, k, v = qkv.view(n, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.view(n, positions, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, height, width, c)
        return _add(_pointwise(self.proj_out, mixed.permute(0, 3, 1, 2)), x)


def _tokens(x: Tensor) -> Tensor:
    """A map as (n, height x width, channels): a view where it is ``channels_last``."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _pointwise(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution over single positions, of a map."""
    if x.device.type == "cpu":  # in float32 oneDNN's kernels for it take half the time of a product of narrow matrices
        return F.conv2d(x, layer.weight[..., None], layer.bias)
    out = F.linear(_tokens(x), layer.weight[:, :, 0], layer.bias)
    return out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def _scaled_norm(norm: nn.GroupNorm, h: Tensor, emb: Tensor) -> Tensor:
    """The norm of a map, times 1 + scale, plus shift.

    Args:
        norm: has weights of its own.
        h: the map, (n, channels, height, width).
        emb: scale and shift, (n or 1, 2 channels).
    """
    scale, shift = emb.chunk(2, dim=1)
    if len(emb) == 1:  # the same for all images: weights of the norm, which spare two passes over the map
        scale = scale[0] + 1
        return _group_norm(norm, h, norm.weight * scale, norm.bias * scale + shift[0])
    scale, shift = scale[:, :, None, None] + 1, shift[:, :, None, None]
    if torch.is_grad_enabled():
        return _normed(norm, h) * scale + shift
    return _normed(norm, h).mul_(scale).add_(shift)


def _normed(norm: nn.GroupNorm, h: Tensor) -> Tensor:
    return _group_norm(norm, h, norm.weight, norm.bias)


def _group_norm(norm: nn.GroupNorm, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The norm of a map with other weights than its own."""
    _, c, height, width = h.shape
    narrow = c // norm.num_groups < _WIDE and height * width < _LARGE
    if narrow and h.dtype != torch.float32 and h.device.type == "cpu":
        h32 = F.group_norm(h.float(), norm.num_groups, weight.float(), bias.float(), norm.eps)
        return h32.to(h.dtype)
    return F.group_norm(h, norm.num_groups, weight, bias, norm.eps)


def _silu(h: Tensor) -> Tensor:
    """SiLU of a map that nobody else holds."""
    return F.silu(h, inplace=not torch.is_grad_enabled())


def _add(h: Tensor, other: Tensor) -> Tensor:
    """The sum of a map that nobody else holds and another."""
    return h + other if torch.is_grad_enabled() else h.add_(other)


def _resample(x: Tensor, change: str) -> Tensor:
    if change == "up":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.avg_pool2d(x, 2)


def state_dict_shapes(config: AdmConfig) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a network, without making it."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in ADM(config).state_dict().items()}

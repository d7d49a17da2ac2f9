"""The residual network (1512.03385) with torchvision's parameter names; how the layers are wired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Args:
        layers: residual blocks of each of the four stages.
        bottleneck: whether blocks are 1x1, 3x3, 1x1 convolutions, the last four times as wide, or two 3x3.
        stem: channels of the first convolution.
        kernel: its side: 7 with stride 2 and a pooling behind it, or 3 with neither, for small images.
        channels: of the images.
        width: of the 3x3 convolutions of the first stage; each stage has twice the last one's.
    """

    def __init__(
        self, *, layers: Sequence[int], bottleneck: bool, stem: int, kernel: int, channels: int, width: int
    ) -> None:
        super().__init__()
        self.small = kernel == 3
        self.conv1 = nn.Conv2d(channels, stem, kernel, stride=1 if self.small else 2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        # Of twice as wide bottlenecks only the 3x3 convolutions are wider, not what goes out.
        out, before = 64 if bottleneck else width, stem
        for stage, depth in enumerate(layers):
            inner, after = width << stage, (out << stage) * (4 if bottleneck else 1)
            blocks: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(ResidualBlock(before, inner, after, stride=stride, bottleneck=bottleneck))
                before = after
            setattr(self, f"layer{stage + 1}", nn.ModuleList(blocks))

    def blocks(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Of images (n, channels, H, W) the stem's and each block's name and output, computed as they are asked for."""
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        yield "stem", x
        for stage in range(1, 5):
            for number, block in enumerate(getattr(self, f"layer{stage}")):
                x = block(x)
                yield f"layer{stage}.{number}", x


class ResidualBlock(nn.Module):
    """x + f(x), f being two or three convolutions with batch norm; the stride is in the 3x3 one."""

    def __init__(self, before: int, inner: int, after: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
            self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(after)
        else:
            self.conv1 = nn.Conv2d(before, inner, 3, stride=stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(inner, after, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        self.bottleneck = bottleneck
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
            if stride != 1 or before != after
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))

"""The parts of REDIRT: weight-normed convolutions, the RDB* and the channel shuffle.

The trade-off: plain modules that follow the paper's drawing. Everything that makes them fast is in
`inference.py`, and does not change what they compute.

Source of the architecture: M. Lamba, K. Mitra, "Restoring Extremely Dark Images in Real Time",
CVPR 2021, sections 3.1-3.3 and figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

LEAK = 0.2
"""Negative slope of every leaky ReLU of the network."""
GROWTH = 32
"""Channels that each dense layer of an RDB adds."""
NORM_GROUPS = 8
"""Groups of `redirt-gn`: of 4 channels after a dense layer, of 8 after the 1x1 convolution."""

MakeConv = Callable[[int, int, int, float], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The form of a network's output: the channels before the final pixel shuffle, and the shuffle's factor."""

    outputs: int
    shuffle: int
    """Pixels of the output per packed pixel, in each direction; 1 for packed planes."""


def unit_clamp(x: Tensor, *, training: bool) -> Tensor:
    """Return `x` clamped to [0, 1]; in training, the gradient passes the clamp unchanged."""
    return x + (x.clamp(0, 1) - x).detach() if training else x.clamp(0, 1)


def plain_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    slope: float = 1.0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Return a convolution of stride 1 that keeps height and width; weights are Kaiming-normal by fan-in.

    `slope` is the negative slope of the leaky ReLU before or after the convolution; 1 means that there is
    none.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, groups=groups, bias=bias)
    nn.init.kaiming_normal_(conv.weight, a=slope, mode="fan_in", nonlinearity="leaky_relu")
    return conv


def normed_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    slope: float = 1.0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Return `plain_conv` with weight normalisation: w = g * v / |v|, one norm per output channel."""
    conv = plain_conv(inputs, outputs, kernel, slope=slope, groups=groups, bias=bias)
    weight_norm(conv, name="weight", dim=0)
    return conv


def weight_normed(inputs: int, outputs: int, kernel: int, slope: float) -> nn.Module:
    """Return a convolution for the published RDB*: with weight norm, without bias."""
    return normed_conv(inputs, outputs, kernel, slope=slope, bias=False)


def group_normed(inputs: int, outputs: int, kernel: int, slope: float) -> nn.Module:
    """Return a convolution for the RDB* of `redirt-gn`: without weight norm, followed by a GroupNorm."""
    return nn.Sequential(
        plain_conv(inputs, outputs, kernel, slope=slope, bias=False),
        nn.GroupNorm(NORM_GROUPS, outputs),
    )


class ResidualDenseBlock(nn.Module):
    """The paper's RDB*: each layer convolves the leaky ReLU of all features computed so far.

    Unlike in the classic RDB, the features are kept as they are before the leaky ReLU, so that later layers
    can use negative values. There is no leaky ReLU before the first layer and before the last layer.
    """

    def __init__(self, features: int, layers: int, make_conv: MakeConv = weight_normed) -> None:
        super().__init__()
        slopes = [1.0, *[LEAK] * (layers - 2), 1.0]
        self.dense = nn.ModuleList(
            make_conv(features + n * GROWTH, GROWTH, 3, slope) for n, slope in enumerate(slopes)
        )
        self.rectifier = nn.LeakyReLU(LEAK)
        self.squeeze = make_conv(features + layers * GROWTH, features, 1, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape as the input, `(B, features, h, w)`."""
        features, rectified = [x], [self.rectifier(x)]
        for n, conv in enumerate(self.dense):
            inner = 0 < n < len(self.dense) - 1
            new = conv(torch.cat(rectified if inner else features, dim=1))
            features.append(new)
            rectified.append(self.rectifier(new))
        out: Tensor = self.squeeze(torch.cat(features, dim=1)) + x
        return out


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a leaky ReLU between them, and a skip connection.

    If the numbers of input and output channels differ (X-Trans), the skip connection is a 1x1 convolution,
    as in ResNets.
    """

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.conv1 = normed_conv(inputs, features, 3, slope=LEAK)
        self.rectifier = nn.LeakyReLU(LEAK)
        self.conv2 = normed_conv(features, features, 3)
        self.skip = nn.Identity() if inputs == features else normed_conv(inputs, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, features, h, w)` for `(B, inputs, h, w)`."""
        out: Tensor = self.conv2(self.rectifier(self.conv1(x))) + self.skip(x)
        return out


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Interleave `groups` groups of channels: a0..an, b0..bn become a0, b0, a1, b1, ..."""
    batch, channels, height, width = x.shape
    runs = x.reshape(batch, groups, channels // groups, height, width)
    return runs.transpose(1, 2).reshape(x.shape)

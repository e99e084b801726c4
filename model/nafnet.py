"""NAFNet: a U-Net of convolutions, gates and channel attention, without activation functions.

Width 32, with the block counts that its authors use to denoise photographs (SIDD). The trade-off: the
attention averages over the whole input. So a frame must be restored in one piece, which takes much memory,
and a crop is restored slightly differently from the frame it was cut from.

Source: L. Chen, X. Chu, X. Zhang, J. Sun, "Simple Baselines for Image Restoration", ECCV 2022.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model.blocks import Head, unit_clamp

WIDTH = 32
ENCODER_BLOCKS = (2, 2, 4, 8)
"""Number of blocks at full size, 1/2, 1/4 and 1/8, on the way down to 1/16."""
MIDDLE_BLOCKS = 12
DECODER_BLOCKS = (2, 2, 2, 2)
"""Number of blocks at 1/8, 1/4, 1/2 and full size, on the way up."""
NORM_FLOOR = 1e-6


class ChannelNorm(nn.Module):
    """Layer normalisation of each pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features, of the same shape `(B, channels, h, w)`."""
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        spread = (centred.square().mean(dim=1, keepdim=True) + NORM_FLOOR).rsqrt()
        return centred * spread * self.weight[:, None, None] + self.bias[:, None, None]


def gate(x: Tensor) -> Tensor:
    """Return the product of the first and the second half of the channels."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NafBlock(nn.Module):
    """Two residual parts, one spatial and one across channels; their learnt weights start at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.widen1 = nn.Conv2d(channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.narrow1 = nn.Conv2d(channels, channels, 1)
        self.widen2 = nn.Conv2d(channels, wide, 1)
        self.narrow2 = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.zeros(channels, 1, 1))
        self.scale2 = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape as the input, `(B, channels, h, w)`."""
        y = gate(self.depthwise(self.widen1(self.norm1(x))))
        y = y * self.attention(y.mean(dim=(2, 3), keepdim=True))
        x = x + self.narrow1(y) * self.scale1
        y = self.narrow2(gate(self.widen2(self.norm2(x))))
        return cast(Tensor, x + y * self.scale2)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(NafBlock(channels) for _ in range(count)))


class NafNet(nn.Module):
    """NAFNet: four levels down, each with twice the channels, and four levels up with added skip connections.

    As published, a network that restores the planes it reads adds its output to them; further planes of the input
    are not added.
    """

    def __init__(self, planes: int, head: Head) -> None:
        super().__init__()
        widths = [WIDTH << level for level in range(len(ENCODER_BLOCKS) + 1)]
        self.head = head
        self.adds_input = head.shuffle == 1
        self.intro = nn.Conv2d(planes, WIDTH, 3, padding=1)
        self.encoders = nn.ModuleList(map(_blocks, widths, ENCODER_BLOCKS))
        self.down = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = _blocks(widths[-1], MIDDLE_BLOCKS)
        self.up = nn.ModuleList(nn.Conv2d(w, 2 * w, 1, bias=False) for w in widths[:0:-1])
        self.decoders = nn.ModuleList(map(_blocks, widths[-2::-1], DECODER_BLOCKS))
        self.ending = nn.Conv2d(WIDTH, head.outputs, 3, padding=1)

    def forward(self, packed: Tensor) -> Tensor:
        """Return the target's values in [0, 1] for amplified planes `(B, C, h, w)`.

        h and w are multiples of 16. The planes have black subtracted and are normalised to white = 1;
        values above 1 are clipped. In training, the gradient passes the clamp of the output unchanged.
        """
        planes = packed.clamp(max=1)
        x, skips = self.intro(planes), []
        for encoder, down in zip(self.encoders, self.down, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle(x)
        for up, decoder in zip(self.up, self.decoders, strict=True):
            x = decoder(F.pixel_shuffle(up(x), 2) + skips.pop())
        out = cast(Tensor, self.ending(x))
        out = out + planes[:, : self.head.outputs] if self.adds_input else out
        return unit_clamp(F.pixel_shuffle(out, self.head.shuffle), training=self.training)

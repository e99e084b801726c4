"""REDIRT: three encoders that read the mosaic in parallel, and two blocks that fuse their results.

    packed (B, C, h, w) --+-- unshuffle 16 -- higher-scale encoder --+
                          |                                         fuse block 1 --+
                          +-- unshuffle 4 --- medium-scale encoder --+            fuse block 2 -- RGB
                          |                                                        |
                          +-- lower-scale encoder ---------------------------------+

The encoders do not depend on each other, so they can run at the same time (`cuda.py`).
The trade-off: the graph as published, including the clamp, rather than one that trains more easily.

Source: M. Lamba, K. Mitra, "Restoring Extremely Dark Images in Real Time", CVPR 2021. The
published network takes a mosaic of one plane and begins with `pixel_unshuffle(2)`; the packed Bayer
planes equal the output of this operation. For X-Trans nothing is published: its nine packed planes
are the input here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model.blocks import LEAK, Head, ResidualBlock, normed_conv, shuffle_channels

FEATURES = 64
"""Channels of the medium and the higher scale."""
COARSE = 16
"""Packed pixels per pixel of the higher scale (1/32 of the Bayer mosaic)."""
MIDDLE = 4
"""Packed pixels per pixel of the medium scale (1/8 of the Bayer mosaic)."""


class HigherScaleEncoder(nn.Module):
    """HSE: holds most of the layers, at 1/32 of the size, where they are cheap and have a large receptive field."""

    def __init__(self, planes: int, groups: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.head = nn.Sequential(
            normed_conv(planes * COARSE**2, groups, 3, groups=groups),
            normed_conv(groups, FEATURES, 3),
        )
        self.blocks = nn.ModuleList(blocks)
        self.gather = normed_conv(len(blocks) * FEATURES, FEATURES, 1, bias=False)

    def forward(self, packed: Tensor) -> Tensor:
        """Return `(B, 64, h/16, w/16)` for `(B, planes, h, w)`."""
        return self.from_head(self.head(F.pixel_unshuffle(packed, COARSE)))

    def from_head(self, head: Tensor) -> Tensor:
        """Run all layers after the first convolution; input and output are `(B, 64, h/16, w/16)`."""
        x, outputs = head, []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        out: Tensor = self.gather(torch.cat(outputs, dim=1))
        return out + head


class MediumScaleEncoder(nn.Module):
    """MSE: one residual block at 1/8 of the size."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.block = ResidualBlock(planes * MIDDLE**2, FEATURES)

    def forward(self, packed: Tensor) -> Tensor:
        """Return `(B, 64, h/4, w/4)` for `(B, planes, h, w)`."""
        out: Tensor = self.block(F.pixel_unshuffle(packed, MIDDLE))
        return out


class LowerScaleEncoder(nn.Module):
    """LSE: a single linear 5x5 convolution at the full size of the packed planes."""

    def __init__(self, planes: int, outputs: int) -> None:
        super().__init__()
        self.conv = normed_conv(planes, outputs, 5)

    def forward(self, packed: Tensor) -> Tensor:
        """Return `(B, outputs, h, w)` for `(B, planes, h, w)`."""
        out: Tensor = self.conv(packed)
        return out


class FuseBlock1(nn.Module):
    """FB1: enlarge the coarsest scale to the size of the medium one, fuse the two, and enlarge to the packed planes' size."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.lift = normed_conv(FEATURES // MIDDLE**2, FEATURES, 3)
        self.mix = normed_conv(2 * FEATURES, 32, 3, groups=4)
        self.expand = normed_conv(32, outputs * MIDDLE**2, 3, slope=LEAK)
        self.rectifier = nn.LeakyReLU(LEAK)

    def forward(self, coarse: Tensor, middle: Tensor) -> Tensor:
        """Return `(B, outputs, h, w)` for `(B, 64, h/16, w/16)` and `(B, 64, h/4, w/4)`."""
        lifted = self.lift(F.pixel_shuffle(coarse, COARSE // MIDDLE))
        both = shuffle_channels(torch.cat([middle, lifted], dim=1), groups=2)
        return F.pixel_shuffle(self.rectifier(self.expand(self.mix(both))), MIDDLE)


class FuseBlock2(nn.Module):
    """FB2: fuse the lower scale with the output of FB1 into RGB at the size of the mosaic.

    For the target `raw`, for which nothing is published, its convolution returns packed planes instead.
    """

    def __init__(self, inputs: int, head: Head) -> None:
        super().__init__()
        self.head = head
        self.conv = normed_conv(inputs, head.outputs, 5)

    def forward(self, fine: Tensor, fused: Tensor) -> Tensor:
        """Return RGB `(B, 3, cell*h, cell*w)` or planes `(B, C, h, w)`, not yet clamped, for the two halves of the input planes, each `(B, inputs/2, h, w)`."""
        return F.pixel_shuffle(self.conv(torch.cat([fine, fused], dim=1)), self.head.shuffle)


class Redirt(nn.Module):
    """REDIRT: three encoders and two fuse blocks.

    As published, the clamp of the output has no gradient where it clips; docs/models.md describes the
    effect on training from scratch.
    """

    def __init__(
        self,
        *,
        higher: HigherScaleEncoder,
        medium: MediumScaleEncoder,
        lower: LowerScaleEncoder,
        fuse1: FuseBlock1,
        fuse2: FuseBlock2,
    ) -> None:
        super().__init__()
        self.higher_scale_encoder = higher
        self.medium_scale_encoder = medium
        self.lower_scale_encoder = lower
        self.fuse_block_1 = fuse1
        self.fuse_block_2 = fuse2

    def forward(self, packed: Tensor) -> Tensor:
        """Return RGB `(B, 3, cell*h, cell*w)` or planes `(B, C, h, w)`, in [0, 1], for amplified planes `(B, C, h, w)`.

        h and w are multiples of 16. The planes have black subtracted and are normalised to white = 1; as
        published, they are not clipped at 1.
        """
        coarse = self.higher_scale_encoder(packed)
        middle = self.medium_scale_encoder(packed)
        fine = self.lower_scale_encoder(packed)
        return self.fuse(coarse, middle, fine)

    def fuse(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """Return the result in [0, 1] for the outputs of the three encoders."""
        out: Tensor = self.fuse_block_2(fine, self.fuse_block_1(coarse, middle))
        return out.clamp(0, 1)

"""The U-Net of SID, which REDIRT is compared with, and which ELD, PMN and LED train from RAW to RAW.

The trade-off: written for readability and for training, not for speed; it needs 10 times REDIRT's
arithmetic in any case.

Source: C. Chen, Q. Chen, J. Xu, V. Koltun, "Learning to See in the Dark", CVPR 2018, section 4.1;
from RAW to RAW, K. Wei, Y. Fu, J. Yang, H. Huang, "A Physics-based Noise Formation Model for Extreme Low-light
Raw Denoising", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model.blocks import Head, unit_clamp

LEAK = 0.2
WIDTHS = (32, 64, 128, 256, 512)


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.LeakyReLU(LEAK),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(LEAK),
    )


class UNet(nn.Module):
    """A U-Net: four levels down, four levels up with skip connections, a 1x1 convolution and a pixel shuffle.

    `keeps_negative` states whether input below black is kept; input above white is always clipped.
    """

    def __init__(self, planes: int, head: Head, *, keeps_negative: bool) -> None:
        super().__init__()
        self.head = head
        self.lowest = None if keeps_negative else 0
        self.down = nn.ModuleList(
            _double_conv(before, after)
            for before, after in zip((planes, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        wide_to_narrow = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.lift = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in wide_to_narrow
        )
        self.up = nn.ModuleList(_double_conv(wide, narrow) for wide, narrow in wide_to_narrow)
        self.out = nn.Conv2d(WIDTHS[0], head.outputs, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights that keep the variance of the signal from layer to layer; biases are 0.

        With torch's default weights each layer divides it by three, and the first thousand steps of a training run
        are spent on undoing this. Source: K. He et al., "Delving Deep into Rectifiers", ICCV 2015, for this slope.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, a=LEAK)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, packed: Tensor) -> Tensor:
        """Return RGB `(B, 3, cell*h, cell*w)` or planes `(B, C, h, w)`, in [0, 1], for amplified planes `(B, C, h, w)`.

        h and w are multiples of 16. The planes have black subtracted and are normalised to white = 1. As in
        Chen et al., the input is clipped at 1. Chen et al. clip the output when they write a picture but
        not in the loss, so the clamp passes the gradient unchanged.
        """
        x, skips = packed.clamp(self.lowest, 1), []
        for level in self.down[:-1]:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for lift, level in zip(self.lift, self.up, strict=True):
            x = level(torch.cat([lift(x), skips.pop()], dim=1))
        out = F.pixel_shuffle(self.out(x), self.head.shuffle)
        return unit_clamp(out, training=self.training)

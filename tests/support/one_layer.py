"""A network of one layer, which takes the names of REDIRT in tests of what is around the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model import Target, build
from darkprep.model.build import Mosaic

NAMES = ("redirt", "redirt-2rdb")
PUBLISHED = {name: build._BUILDERS[name] for name in NAMES}


class OneLayer(nn.Module):
    """A linear layer on each packed pixel; results are in [0, 1] as those of all networks."""

    def __init__(self, mosaic: Mosaic, target: Target) -> None:
        super().__init__()
        self.head = mosaic.head(target)
        self.conv = nn.Conv2d(mosaic.inputs, self.head.outputs, 1)

    def forward(self, packed: Tensor) -> Tensor:
        return torch.sigmoid(F.pixel_shuffle(self.conv(packed), self.head.shuffle))

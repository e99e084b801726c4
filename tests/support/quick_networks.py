"""REDIRT's names for a network of one layer, for tests of what is around the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model import Target, build
from darkprep.model.build import Mosaic

NAMES = ("redirt", "redirt-2rdb")
_PUBLISHED = {name: build._BUILDERS[name] for name in NAMES}


class OneLayer(nn.Module):
    """A linear layer on each packed pixel; results are in [0, 1] as those of all networks."""

    def __init__(self, mosaic: Mosaic, target: Target) -> None:
        super().__init__()
        self.head = mosaic.head(target)
        self.conv = nn.Conv2d(mosaic.inputs, self.head.outputs, 1)

    def forward(self, packed: Tensor) -> Tensor:
        return torch.sigmoid(F.pixel_shuffle(self.conv(packed), self.head.shuffle))


@pytest.fixture
def quick_networks() -> Iterator[None]:
    """Let `redirt` and `redirt-2rdb` be networks of one layer in this process, so that a step takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(build._BUILDERS, name, OneLayer)
        yield


@pytest.fixture
def published_networks(quick_networks: None) -> Iterator[None]:
    """Let these names be REDIRT in one test of a module that uses `quick_networks`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(build._BUILDERS, name, _PUBLISHED[name])
        yield

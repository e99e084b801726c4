"""REDIRT's names for a network of one layer, for tests of what is around the network.

The network is imported in the fixtures, so that the process that distributes the tests loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def quick_networks() -> Iterator[None]:
    """Let `redirt` and `redirt-2rdb` be networks of one layer in this process, so that a step takes a third of the time."""
    from darkprep.model import build
    from tests.support.one_layer import NAMES, OneLayer

    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(build._BUILDERS, name, OneLayer)
        yield


@pytest.fixture
def published_networks(quick_networks: None) -> Iterator[None]:
    """Let these names be REDIRT in one test of a module that uses `quick_networks`."""
    from darkprep.model import build
    from tests.support.one_layer import PUBLISHED

    with pytest.MonkeyPatch.context() as patch:
        for name, builder in PUBLISHED.items():
            patch.setitem(build._BUILDERS, name, builder)
        yield

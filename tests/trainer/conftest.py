"""A reader that needs no spool, and one thread: the tests share the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from darkprep.shards.format import SampleMeta
from tests.support.fake_reader import FakeReader, meta_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_reader() -> type[FakeReader]:
    return FakeReader


@pytest.fixture
def make_meta() -> Callable[..., SampleMeta]:
    return meta_of

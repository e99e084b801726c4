"""Each test of a command stands in an empty directory of its own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass

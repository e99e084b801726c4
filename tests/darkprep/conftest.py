"""Each test of a command stands in an empty directory of its own, and reads files without a process that may crash."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass


@pytest.fixture(autouse=True)
def _without_guard(unguarded: None) -> None:
    pass

"""Limits for hostile inputs: a test that hangs ends the run with its stack, also within a call of C code."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def seconds() -> Iterator[None]:
    """End the process if a test takes more than a minute."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()

"""Files that are read in the process of the tests: forking it, which the guarded reading of files does, takes long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from darkprep.pipeline.raw.guard import GuardedReader


@pytest.fixture
def unguarded() -> Iterator[None]:
    """Let files be read without a process that may crash. A module that needs this process overrides the fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuardedReader, "__call__", lambda reader, path: reader._read(path))
        yield

"""A spool whose plan is over small RAW files."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprep.shards import Spool
from tests.support.builds import planned
from tests.support.sid_tree import write_sid


@pytest.fixture
def raw_spool(tmp_path: Path) -> Spool:
    """Nine small shards in three epochs over three scenes; none is written yet."""
    return planned(tmp_path / "spool", write_sid(tmp_path / "data"))

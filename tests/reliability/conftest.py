"""Small spools of both kinds: filled by hand with known codes, or planned over real RAW files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.plan.plan import PlanOptions, make_plan
from darkprep.shards import Spool
from tests.shards.conftest import fill, stream
from tests.support.sid_tree import write_sid

SMALL = {
    "camera": "sony", "crop": 32, "margin": 4, "samples_per_shard": 8, "crops_per_visit": 4, "window": 2,
    "epochs": 3,
}  # fmt: skip


def planned(path: Path, root: Path, **changes: Any) -> Spool:
    """A spool whose plan is over the RAW files below `root`."""
    spool = Spool(path)
    make_plan(root, PlanOptions(**{**SMALL, **changes})).save(spool)
    return spool


@pytest.fixture
def raw_spool(tmp_path: Path) -> Spool:
    return planned(tmp_path / "spool", write_sid(tmp_path / "data"))


@pytest.fixture
def make_spool(tmp_path: Path) -> Callable[..., Spool]:
    def make(
        name: str = "spool", *, ready: range | list[int] = range(0), **settings: int | None
    ) -> Spool:
        spool = Spool(tmp_path / name)
        spool.create(stream(**settings), {"pairs": [name]}, {"root": "data"})
        fill(spool, ready)
        return spool

    return make

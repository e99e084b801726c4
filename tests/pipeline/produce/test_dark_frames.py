"""Shards whose noise is from dark frames: the same bytes each time, at each place of the sensor, and files that changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.noise.sampled_darks import DarkFile, SampledDarks
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.options import SAMPLED, PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.worker import _dark_frame
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.shards import DatasetError, PlanError, Spool, SpoolReader
from tests.support.builds import SMALL, make_shards, shard_bytes
from tests.support.sid_tree import write_sid

BLACK, STEP = 512, 200
"""Codes by which a dark frame rises from one column of its planes to the next: more than the light of a sample adds."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 64 x 96 pixels."""
    return write_sid(tmp_path_factory.mktemp("data"))


@pytest.fixture
def darks(tmp_path: Path) -> Path:
    """A directory for dark frames."""
    (tmp_path / "darks").mkdir()
    return tmp_path / "darks"


def write_dark(path: Path, size: tuple[int, int]) -> None:
    codes = BLACK + np.broadcast_to(STEP * (np.arange(size[1]) // 2), size)
    write_dng(path, codes.astype(np.uint16), DngTags(exposure_s=0.1, iso=1600))


def planned(spool: Path, photographs: Path, darks: Path, size: tuple[int, int]) -> Spool:
    """A spool with a plan that takes its noise from the one dark frame, and nearly no shot noise."""
    fingerprint = open_source(darks / "a.dng").fingerprint()
    file = DarkFile(path="a.dng", fingerprint=fingerprint, iso=1600.0, gain=1e-3)
    sampled = SampledDarks(files=(file,), cfa="bayer", height=size[0], width=size[1])
    options = PlanOptions(**{**SMALL, "noise": SAMPLED, "sampled_darks": sampled})
    found = Spool(spool)
    make_plan(photographs, options, darks=darks).save(found)
    return found


@pytest.mark.parametrize("size", [(64, 96), (80, 128)])
def test_crops_have_the_noise_of_their_place_if_the_sensors_have_one_size(
    tmp_path: Path, photographs: Path, darks: Path, size: tuple[int, int]
):
    """Else that of any place of the dark frame; either way two spools have equal bytes."""
    write_dark(darks / "a.dng", size)
    first, second = (
        planned(tmp_path / name, photographs, darks, size) for name in ("first", "second")
    )
    make_shards(first, (0, 1), stored=True)
    _dark_frame.cache_clear()
    make_shards(second, (1, 0), stored=False)

    assert len(shard_bytes(first)) == 2
    assert shard_bytes(first) == shard_bytes(second)
    with SpoolReader(first, batch_size=8, stop_after=1, keep=True) as reader:
        batch = next(reader)
        columns = [(int(low[0, 0, 0]) - BLACK) // STEP for low in batch.low]
        own = [meta.origin[1] // 2 for meta in batch.metas]
        assert {meta.iso for meta in batch.metas} == {1600.0}
    assert (columns == own) == (size == (64, 96))
    assert max(columns) <= (size[1] - batch.low.shape[3] * 2) // 2
    assert len(set(columns)) > 2


def test_a_dark_frame_that_changed_or_is_missing_ends_the_producer(
    tmp_path: Path, photographs: Path, darks: Path
):
    """No other frame takes its place, as one of a photograph would."""
    write_dark(darks / "a.dng", (64, 96))
    spool = planned(tmp_path / "spool", photographs, darks, (64, 96))
    write_dark(darks / "a.dng", (66, 96))

    with pytest.raises(DatasetError, match=r"a.dng: has changed since the plan was made; build a"):
        make_shards(spool, (0,), stored=False)
    (darks / "a.dng").unlink()
    with pytest.raises(DatasetError, match=r"a.dng: no such file"):
        make_shards(spool, (0,), stored=False)


def test_a_spool_whose_dark_frames_are_unknown_here_is_built_again(
    tmp_path: Path, photographs: Path, darks: Path
):
    write_dark(darks / "a.dng", (64, 96))
    spool = planned(tmp_path / "spool", photographs, darks, (64, 96))
    replace(Plan.load(spool), darks=None).save(spool)

    with pytest.raises(PlanError, match="no record of where its dark frames are; run `darkprep"):
        make_shards(spool, (0,), stored=False)

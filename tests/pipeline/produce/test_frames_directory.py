"""Frames on another disk than the spool: shared by spools one after another, within a budget of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import divide_budget, smallest_budget
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.frame_store import FrameStore, frame_allocation
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import OptionError, PlanError, Spool, SpoolBusy
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.plan_record import ProducerSettings
from tests.support.builds import SMALL, InlinePool, shard_bytes
from tests.support.sid_tree import write_sid

PLENTY = 1 << 30
FIXED = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_sid(tmp_path / "data")


def planned(path: Path, root: Path, folder: Path | None = None, **changes: Any) -> Spool:
    """A spool whose frames are in `folder`, with `budget` bytes for them."""
    spool = Spool(path)
    directory = FramesDirectory.from_options(
        path, folder, changes.pop("budget", PLENTY) if folder else None
    )
    make_plan(root, PlanOptions(**{**SMALL, **changes})).save(
        spool, directory.recorded_in(ProducerSettings())
    )
    return spool


def produce(spool: Spool, *, until: int = 9, pool: Any = None) -> ProducerStatus:
    config = ProducerConfig(budget_bytes=PLENTY, jobs=1, until=until)
    return Producer(spool, config, pool or InlinePool()).run()


def test_frames_are_stored_there_and_the_shards_are_the_same(root: Path, tmp_path: Path):
    here, there = (
        planned(tmp_path / "here", root),
        planned(tmp_path / "there", root, tmp_path / "f"),
    )
    produce(here)

    report = produce(there)

    assert shard_bytes(there) == shard_bytes(here)
    assert not there.frames.exists()
    assert FrameStore(tmp_path / "f").names() == FrameStore(here.frames).names()
    assert report.disk_bytes == there.disk_bytes() < here.disk_bytes()


def test_frames_stored_in_the_spool_before_are_deleted(root: Path, tmp_path: Path):
    spool = planned(tmp_path / "spool", root)
    produce(spool, until=2)
    assert FrameStore(spool.frames).names()

    produce(planned(tmp_path / "spool", root, tmp_path / "f"), until=3)

    assert not FrameStore(spool.frames).names()


def test_real_workers_store_them_there_too(root: Path, tmp_path: Path):
    spool = planned(tmp_path / "spool", root, tmp_path / "f")

    report = produce(spool, until=2, pool=LokyPool(1))

    assert len(FrameStore(tmp_path / "f").names()) == (report.frames_decoded or 0) > 0


def test_the_next_spool_decodes_nothing_again(root: Path, tmp_path: Path):
    produce(planned(tmp_path / "first", root, tmp_path / "f"))

    report = produce(planned(tmp_path / "second", root, tmp_path / "f", seed=1))

    assert report.shards_made == 9
    assert report.frames_decoded == 0


def test_the_whole_disk_budget_is_for_shards(root: Path, tmp_path: Path):
    spool = planned(tmp_path / "spool", root, tmp_path / "f")
    plan = Plan.load(spool)
    least = smallest_budget(plan)

    assert divide_budget(plan, least, jobs=1).frames == frozenset()
    assert len(divide_budget(plan, least, jobs=1, frames_available_bytes=PLENTY).frames) == 9
    assert (
        divide_budget(plan, least, jobs=1, frames_available_bytes=PLENTY).max_shards
        == divide_budget(plan, least, jobs=1).max_shards
    )


def test_the_frames_stay_within_their_own_budget(root: Path, tmp_path: Path):
    longs = 3 * frame_allocation(64 * 96 * 3 * 2, 4096)
    spool = planned(tmp_path / "spool", root, tmp_path / "f", budget=FIXED + longs)

    produce(spool)

    assert [name[:4] for name in FrameStore(tmp_path / "f").names()] == ["long"] * 3
    assert allocated_bytes(tmp_path / "f") <= FIXED + longs


def test_frames_of_other_plans_are_kept_and_count(root: Path, tmp_path: Path):
    other = write_sid(tmp_path / "other", scenes=5)
    for scene in (1, 2, 3):  # so that nothing is shared
        for path in other.glob(f"Sony/*/0000{scene}_*"):
            path.unlink()
    produce(planned(tmp_path / "first", other, tmp_path / "f"))
    foreign = FrameStore(tmp_path / "f").names()
    taken = sum(allocated_bytes(tmp_path / "f" / name) for name in foreign)
    one = frame_allocation(64 * 96 * 3 * 2, 4096)

    produce(planned(tmp_path / "second", root, tmp_path / "f", budget=FIXED + taken + one))

    assert len(FrameStore(tmp_path / "f").names()) == len(foreign) + 1
    assert set(foreign) < set(FrameStore(tmp_path / "f").names())


def test_a_smaller_budget_drops_the_plans_own_frames(root: Path, tmp_path: Path):
    produce(planned(tmp_path / "first", root, tmp_path / "f"))

    produce(planned(tmp_path / "second", root, tmp_path / "f", budget=FIXED))

    assert FrameStore(tmp_path / "f").names() == []


def test_two_spools_cannot_store_there_at_once(root: Path, tmp_path: Path):
    first = planned(tmp_path / "first", root, tmp_path / "f")
    second = planned(tmp_path / "second", root, tmp_path / "f")

    with (
        FramesDirectory.from_spool(first).producer_lock(),
        pytest.raises(SpoolBusy, match=r"/f: a producer that stores frames is already running"),
    ):
        produce(second)

    assert produce(second).shards_made == 9


def test_a_directory_in_the_spool_is_not_recorded(tmp_path: Path):
    inside = FramesDirectory.from_options(tmp_path / "spool", None, None)

    assert inside.recorded_in(ProducerSettings()).to_json() == {}


@pytest.mark.parametrize(
    ("folder", "budget", "message"),
    [
        (None, PLENTY, "frames-budget can be used only together with --frames-dir"),
        ("a-file", None, "is not a directory"),
        ("spool/frames", None, "is inside the spool"),
        ("spool", None, "is inside the spool"),
    ],
)
def test_an_invalid_directory_is_rejected(
    folder: str | None, budget: int | None, message: str, tmp_path: Path
):
    (tmp_path / "a-file").touch()

    with pytest.raises(OptionError, match=message):
        FramesDirectory.from_options(
            tmp_path / "spool", tmp_path / folder if folder else None, budget
        )


def test_the_frames_budget_has_a_default(tmp_path: Path):
    directory = FramesDirectory.from_options(tmp_path / "spool", tmp_path / "f", None)

    assert directory.budget_bytes is not None
    assert 0 < directory.budget_bytes <= 20 * 10**9


def test_a_damaged_record_of_the_directory_is_named(root: Path, tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    make_plan(root, PlanOptions(**SMALL)).save(spool)
    record = spool.plan.to_json()
    record["place"] |= {"frames_dir": "f", "frames_budget_bytes": "much"}
    spool.plan_file.write_text(json.dumps(record))

    with pytest.raises(PlanError, match="frames_budget_bytes 'much' is invalid"):
        FramesDirectory.from_spool(Spool(spool.path))

"""A plan is made of the usable pairs; what cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.shards import DatasetError, OptionError
from tests.support.sid_tree import write_sid

SMALL = {"camera": "sony", "crop": 32, "margin": 4, "samples_per_shard": 8, "crops_per_visit": 4}


def options(**changes: object) -> PlanOptions:
    return PlanOptions(**{**SMALL, **changes})


def test_a_plan_is_the_same_whatever_order_the_files_are_listed_in(tmp_path: Path):
    first = make_plan(write_sid(tmp_path / "a"), options())
    second = make_plan(write_sid(tmp_path / "b", scenes=3), options())

    assert first.recipe() == second.recipe()


def test_a_fraction_draws_whole_scenes(tmp_path: Path):
    plan = make_plan(write_sid(tmp_path / "data"), options(fraction=0.2))

    assert len({pair.pair.scene for pair in plan.pairs}) == 1
    assert len(plan.pairs) == 2


def test_a_file_that_is_no_raw_is_left_out_and_named(tmp_path: Path):
    root = write_sid(tmp_path / "data")
    (root / "Sony/short/00001_00_0.1s.dng").write_text("hello")

    plan = make_plan(root, options())

    assert len(plan.pairs) == 5
    assert [Path(skipped.path).name for skipped in plan.skipped] == ["00001_00_0.1s.dng"]


def test_a_root_without_one_usable_pair_is_an_error_that_names_a_file(tmp_path: Path):
    root = write_sid(tmp_path / "data", scenes=1, shorts=1)
    (root / "Sony/short/00001_00_0.1s.dng").write_text("hello")

    with pytest.raises(DatasetError, match=r"none of the 1 pairs.*00001_00_0\.1s\.dng"):
        make_plan(root, options())


def test_a_split_without_pairs_names_the_ones_there_are(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"only train.*--split"):
        make_plan(write_sid(tmp_path / "data"), options(split="test"))


def test_a_plan_can_take_the_validation_and_the_test_scenes(tmp_path: Path):
    root = write_sid(tmp_path / "data", scenes=2, shorts=1)
    for split in (1, 2):
        write_sid(root, scenes=1, shorts=1, split=split)

    plan = make_plan(root, options(split="val+test"))

    assert [planned.pair.split for planned in plan.pairs] == ["test", "val"]


def test_a_crop_larger_than_the_frames_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="smaller --crop"):
        make_plan(write_sid(tmp_path / "data"), options(crop=64))


def test_noise_needs_long_exposures_only(tmp_path: Path):
    root = write_sid(tmp_path / "data")
    for short in (root / "Sony" / "short").iterdir():
        short.unlink()
    (root / "Sony" / "short").rmdir()

    plan = make_plan(root, options(noise="canon70d"))

    assert {pair.pair.short for pair in plan.pairs} == {pair.pair.long for pair in plan.pairs}
    assert len({pair.pair.scene for pair in plan.pairs}) == len(plan.pairs)
    assert all(pair.short_fingerprint == pair.long_fingerprint for pair in plan.pairs)
    with pytest.raises(DatasetError, match="holds no Sony/short and Sony/long"):
        make_plan(root, options())

"""A plan is made of the usable pairs; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.table import Pair, Pairs
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

    with pytest.raises(
        DatasetError, match=r"none of the pairs of sony .1. can be used: .*00001_00_0\.1s\.dng"
    ):
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


def test_one_small_frame_is_skipped_with_a_line_and_the_others_are_planned(tmp_path: Path):
    root = write_sid(tmp_path / "data", scenes=9, shorts=1)
    write_sid(tmp_path / "small", scenes=9, shorts=1, size=(32, 36))
    for name in ("short/00009_00_0.1s.dng", "long/00009_00_10s.dng"):
        (tmp_path / "small/Sony" / name).replace(root / "Sony" / name)

    plan = make_plan(root, options(crop=32))

    assert len(plan.pairs) == 8
    assert [Path(one.path).name for one in plan.skipped] == ["00009_00_0.1s.dng"]
    assert plan.skipped[0].reason.startswith("is 32x36, but crop 32 with its margin needs ")


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


def test_a_camera_without_a_layout_is_refused_with_all_that_have_one(tmp_path: Path):
    with pytest.raises(OptionError, match="sony, fuji"):
        make_plan(tmp_path, options(camera="leica"))


def test_noise_needs_the_sensors_own_mosaic(write_raw: Callable[..., Path], tmp_path: Path):
    write_raw("Fuji/long/00001_00_10s.dng", phase="XTRANS")
    xtrans = {"camera": "fuji", "crop": 36, "margin": 6, "noise": "fuji"}

    assert make_plan(tmp_path, options(**xtrans)).cfa == "xtrans"
    with pytest.raises(OptionError, match="noise can be used only with --xtrans native"):
        make_plan(tmp_path, options(**xtrans, xtrans="rggb"))


def test_lmdb_files_hold_bayer_patches(tmp_path: Path):
    with pytest.raises(OptionError, match="LMDB files contain Bayer"):
        make_plan(tmp_path, options(camera="fuji", lmdb="SID_Fuji"))


def _write_pair(write_raw: Callable[..., Path], name: str, phase: str) -> Pair:
    for part in ("short", "long"):
        write_raw(f"{name}/{part}.dng", phase=phase)
    return Pair(
        id=name, scene=name, camera=f"camera of {name}", split="train", ratio=100.0, iso=0.0,
        short=f"{name}/short.dng", long=f"{name}/long.dng",
    )  # fmt: skip


def test_samples_of_several_cameras_have_one_cfa(write_raw: Callable[..., Path], tmp_path: Path):
    phases = {"a": "GBRG", "b": "XTRANS", "c": "RGGB"}
    found = Pairs(
        root=tmp_path,
        label="mixed",
        pairs=tuple(_write_pair(write_raw, name, phase) for name, phase in phases.items()),
        skipped=(),
        rows={"b": "pairs.csv:3"},
    )

    native = make_plan(tmp_path, options(camera="mixed"), pairs=found)
    resampled = make_plan(tmp_path, options(camera="mixed", xtrans="rggb"), pairs=found)

    assert (native.cfa, [one.pair.id for one in native.pairs]) == ("bayer", ["a", "c"])
    assert native.skipped[0].path.startswith("pairs.csv:3: ")
    assert "xtrans, not bayer" in native.skipped[0].reason
    assert (resampled.cfa, len(resampled.pairs)) == ("bayer", 3)


def test_a_pair_of_two_kinds_of_mosaic_is_left_out(write_raw: Callable[..., Path], tmp_path: Path):
    pair = _write_pair(write_raw, "a", "RGGB")
    write_raw("a/long.dng", phase="XTRANS")
    found = Pairs(root=tmp_path, label="mixed", pairs=(pair,), skipped=())

    with pytest.raises(
        DatasetError, match="has a bayer mosaic, but its long exposure has a xtrans mosaic"
    ):
        make_plan(tmp_path, options(camera="mixed"), pairs=found)


def test_noise_on_given_pairs_takes_each_long_exposure_once(tmp_path: Path):
    root = write_sid(tmp_path / "data")
    found = find_pairs(root, camera_named("sony"))

    plan = make_plan(root, options(noise="sony"), pairs=found)

    assert len(plan.pairs) == 3
    assert all(one.pair.short == one.pair.long for one in plan.pairs)
    assert {one.pair.ratio for one in plan.pairs} == {1.0}

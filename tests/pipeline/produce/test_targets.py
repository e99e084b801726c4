"""Shards of the targets linear and raw: their content, equal bytes whatever the number of workers, and older plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import divide_budget, frame_names_of
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.raw.mosaic import pack
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import CELL, OptionError, SampleMeta, Spool, SpoolReader, Target
from darkprep.shards.cfa import PLANE_COLOURS
from darkprep.shards.format import U16
from darkprep.synth.dataset import synthesise
from tests.support.builds import SMALL, make_shards, planned, shard_bytes
from tests.support.sid_tree import write_sid


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes with two shorts each, 64 x 96 pixels."""
    return write_sid(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def fuji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One X-Trans scene."""
    root = tmp_path_factory.mktemp("fuji")
    synthesise(root, "fuji", scenes=1, shorts=1, size=(516, 516), seed=1)
    return root


def make_all(spool: Spool, *, stored: bool = True) -> None:
    """Make all shards of a spool's plan in this process."""
    make_shards(spool, range(spool.stream.shards or 0), stored=stored)


def samples_of(spool: Spool) -> Iterator[tuple[U16, U16, SampleMeta]]:
    with SpoolReader(spool, batch_size=1, keep=True) as reader:
        for _ in range((spool.stream.shards or 0) * spool.stream.samples):
            batch = next(reader)
            yield batch.low[0].copy(), batch.gt[0].copy(), batch.metas[0]


@pytest.mark.parametrize("target", ["linear", "raw"])
def test_samples_hold_the_long_exposure_of_their_target(tmp_path, photographs, target: Target):
    spool = planned(tmp_path / "spool", photographs, target=target, epochs=1)
    make_all(spool)
    plan = Plan.load(spool)
    by_id = {planned.pair.id: planned.pair for planned in plan.pairs}

    for _, gt, meta in samples_of(spool):
        source = open_source(photographs / by_id[meta.pair].long)
        y, x = meta.origin
        side = spool.stream.height
        assert meta.target == target
        if target == "raw":
            whole = source.decode()
            expected = whole.planes[:, y // 2 : (y + side) // 2, x // 2 : (x + side) // 2]
            assert (meta.gt_black, meta.gt_white) == (whole.black, whole.white)
        else:
            expected = source.develop(linear=True)[:, y : y + side, x : x + side]
            assert meta.gt_black == ()
        np.testing.assert_array_equal(gt, expected)


def test_a_raw_target_decodes_the_same_planes_for_input_and_truth_of_x_trans(tmp_path, fuji):
    changes = {"camera": "fuji", "crop": 48, "margin": 12, "epochs": 1, "target": "raw"}
    spool = planned(tmp_path / "spool", fuji, **changes)
    make_all(spool)

    low, gt, meta = next(samples_of(spool))

    assert low.shape == gt.shape == (9, 20, 20)
    assert len(meta.gt_black) == 9
    signal = (low - np.array(meta.black)[:, None, None]) / (meta.white - meta.black[0])
    truth = (gt - np.array(meta.gt_black)[:, None, None]) / (meta.gt_white - meta.gt_black[0])
    assert (signal * meta.ratio).mean() == pytest.approx(truth.mean(), rel=0.3)


@pytest.mark.parametrize("target", ["linear", "raw"])
def test_shards_are_the_same_with_and_without_stored_frames(tmp_path, photographs, target: Target):
    spools = [planned(tmp_path / name, photographs, target=target) for name in ("one", "two")]
    make_all(spools[0], stored=True)
    make_all(spools[1], stored=False)

    assert shard_bytes(spools[0]) == shard_bytes(spools[1])
    assert len(shard_bytes(spools[0])) == 9


def test_with_synthetic_noise_and_a_raw_target_each_photograph_is_one_frame(tmp_path, photographs):
    spool = planned(
        tmp_path / "spool", photographs, target="raw", noise="sonya7s2", amplify="ratio", epochs=1
    )
    make_all(spool)
    plan = Plan.load(spool)

    assert len(frame_names_of(plan)) == len(plan.pairs)
    assert sorted(FrameStore(spool.frames).names()) == sorted(frame_names_of(plan))
    for low, gt, meta in samples_of(spool):
        assert low.shape == gt.shape
        assert low.mean() < gt.mean()
        assert meta.gt_black == (512.0,) * 4


def test_the_budget_counts_the_frames_of_a_raw_target(photographs):
    plans = {
        target: make_plan(photographs, PlanOptions(**{**SMALL, "target": target}))
        for target in ("srgb", "linear", "raw")
    }
    sizes = {
        target: divide_budget(plan, 10**9, jobs=1).frame_bytes for target, plan in plans.items()
    }
    assert sizes["raw"] < sizes["srgb"] == sizes["linear"]


def test_the_recipe_of_a_plan_of_the_target_srgb_does_not_name_it(photographs):
    srgb = make_plan(photographs, PlanOptions(**SMALL))
    raw = make_plan(photographs, PlanOptions(**{**SMALL, "target": "raw"}))

    assert "target" not in srgb.recipe()["options"]
    assert raw.recipe()["options"]["target"] == "raw"
    with pytest.raises(OptionError, match="target must be one of srgb, linear, raw"):
        PlanOptions(**{**SMALL, "target": "rgb"})


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_linear_camera_rgb_has_the_codes_of_the_mosaic(photographs, fuji, cfa):
    """At a pixel's own colour, demosaicing keeps the code: 0 is black and 65535 is white."""
    folder = photographs / "Sony" if cfa == "bayer" else fuji / "Fuji"
    path = sorted((folder / "long").iterdir())[0]
    frame = RawFile(path).decode()

    rgb = RawFile(path).develop(linear=True)

    shares = (frame.planes - np.array(frame.black)[:, None, None]) / (
        frame.white - np.array(frame.black)[:, None, None]
    )
    edge = 8 // CELL[cfa]
    for plane, letter in enumerate(PLANE_COLOURS[cfa]):
        ours = pack(rgb["RGB".index(letter)], cfa)[plane] / 65535
        inside = (slice(edge, -edge),) * 2
        difference = np.abs(ours - np.clip(shares[plane], 0, 1))[inside]
        assert np.median(difference) < 2e-4

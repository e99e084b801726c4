"""Shards have the same bytes whether long exposures were stored, developed whole, or only where crops were cut."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan, PlannedPair
from darkprep.pipeline.produce import worker
from darkprep.pipeline.produce.budget import divide_budget
from darkprep.pipeline.raw import develop
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.pipeline.raw.reader import OpenRaw
from darkprep.shards import Spool
from tests.support.builds import make_shards, planned, shard_bytes

HEIGHT, WIDTH = 200, 260
CAMERAS = {
    "plain": {},
    "phase, black per site, rotated": {
        "cfa": BAYER["GBRG"], "black": (500.0, 520.0, 540.0, 560.0), "orientation": 6,
    },
    "12 bits, crop, balance": {
        "black": (128.0,), "white": 4095, "default_crop": (3, 5, 190, 250),
        "as_shot_neutral": (0.37, 1.0, 0.71),
    },
}  # fmt: skip


def write_photographs(root: Path, **tags) -> None:
    """Two scenes of one short and one long exposure, of random codes."""
    for scene in (1, 2):
        rng = np.random.default_rng(scene)
        for kind, seconds in (("short", 0.1), ("long", 10.0)):
            given = DngTags(exposure_s=seconds, iso=800, **tags)
            # Half of them not brighter than 0.9 of full scale, which sets the brightness.
            peak = given.white * (0.9 if scene == 1 else 1.2)
            codes = rng.uniform(0, peak if kind == "long" else peak / 50, (HEIGHT, WIDTH))
            path = root / f"Sony/{kind}/0{scene:04d}_00_{seconds:g}s.dng"
            path.parent.mkdir(parents=True, exist_ok=True)
            mosaic = np.clip(np.rint(codes + min(given.black)), 0, given.white).astype(np.uint16)
            write_dng(path, mosaic, given)


def make(spool: Spool, *, stored: bool, threads: int = 1) -> None:
    """Make all shards as one new worker does."""
    worker._worker_state.cache_clear()
    make_shards(spool, range(spool.stream.shards or 0), stored=stored, threads=threads)


@pytest.mark.parametrize("target", ["srgb", "linear"])
@pytest.mark.parametrize("camera", CAMERAS)
def test_shards_are_the_same_with_stored_frames_and_with_windows(
    tmp_path, monkeypatch, camera, target
):
    monkeypatch.setattr(develop, "_IS_EXACT", {})
    write_photographs(tmp_path / "data", **CAMERAS[camera])
    whole = []
    real = OpenRaw.postprocess

    def postprocess(self, **settings):
        whole.append(self.frame.path)
        return real(self, **settings)

    monkeypatch.setattr(OpenRaw, "postprocess", postprocess)
    found = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for name in ("stored", "windows", "windows after a restart", "windows in threads"):
        spool = planned(tmp_path / name, tmp_path / "data", target=target, epochs=2)
        make(spool, stored=name == "stored", threads=2 if "threads" in name else 1)
        found.append(shard_bytes(spool))

    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) > 0
    # Two stored frames, and one frame with which the windows of the first visit were compared.
    assert len(whole) == 3


def test_the_files_of_the_next_visit_are_read_ahead_unless_they_are_stored(tmp_path, monkeypatch):
    write_photographs(tmp_path / "data")
    advised = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        advised.append((Path(f"/proc/self/fd/{descriptor}").resolve(), offset, length, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    spool = planned(tmp_path / "spool", tmp_path / "data", epochs=1)
    plan = Plan.load(spool)
    (_, second) = plan.visits(0)
    pair = next(plan.candidates(second.number)).pair

    make(spool, stored=False)
    assert advised == [
        (tmp_path / "data" / name, 0, 0, os.POSIX_FADV_WILLNEED) for name in (pair.long, pair.short)
    ]

    advised.clear()
    make(spool, stored=True)  # stores the frames
    advised.clear()
    make(spool, stored=True)
    assert advised == []


@pytest.mark.parametrize(
    "size, cfa, first",
    [
        ((2848, 4256), "bayer", "long"),
        ((5520, 8288), "bayer", "short"),
        ((5520, 8292), "xtrans", "long"),
    ],
)
def test_frames_that_save_most_time_per_byte_get_space_first(size, cfa, first):
    pair = Pair(
        id="1", scene="1", camera="sony", split="train", short="", long="", ratio=100.0, iso=0.0
    )
    (height, width), room = size, 7 * size[0] * size[1]
    planned = PlannedPair(
        pair=pair, height=height, width=width, short_fingerprint="a", long_fingerprint="b"
    )
    options = PlanOptions(camera="sony", epochs=None)
    plan = Plan(options=options, pairs=(planned,), cfa=cfa, root=Path())

    budget = divide_budget(plan, 1 << 40, jobs=1, frames_available_bytes=room)

    assert [name.split("-")[0] for name in budget.frames] == [first]

"""A file that crashes LibRaw costs one file in every command, not the command."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from darkprep.jobs.calibrate import sampled_darks
from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.pictures import colours_for_show
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.folders import find_layout
from darkprep.pipeline.pairs.pair_table import pairs_from_csv
from darkprep.pipeline.pairs.reference_colours import reference_colours
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.raw import reader
from darkprep.pipeline.raw.guard import CRASHES_DECODER
from darkprep.report.evaluation_page import _picture_set
from darkprep.shards import RawError
from tests.support.builds import SMALL
from tests.support.sid_tree import write_sid

Crash = Callable[[str], None]


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Crash:
    """Makes LibRaw crash in files whose path contains a text."""

    def make(text: str) -> None:
        for module, name in ((reader, "open_header"), (reader, "open_in_memory")):
            real = getattr(module, name)

            def opened(path: str, real: Callable[[str], object] = real) -> object:
                return ctypes.string_at(0) if text in path else real(path)

            monkeypatch.setattr(module, name, opened)

    return make


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sid(tmp_path_factory.mktemp("data"), scenes=3, shorts=1)


def test_planning_leaves_the_file_out(root: Path, crash: Crash):
    bad = find_pairs(root, camera_named("sony")).pairs[1]
    crash(bad.short)

    plan = make_plan(root, PlanOptions(**SMALL))

    assert len(plan.pairs) == 2
    assert [(one.path, one.reason) for one in plan.skipped] == [
        (str(root / bad.short), CRASHES_DECODER)
    ]


def test_finding_pairs_in_folders_and_tables_leaves_the_file_out(
    root: Path, crash: Crash, tmp_path: Path
):
    pairs = find_pairs(root, camera_named("sony")).pairs
    for folder in ("short", "long"):
        (tmp_path / folder).mkdir()
    rows = ["short,long"]
    for number, pair in enumerate(pairs):
        (tmp_path / "short" / f"{number}.dng").symlink_to(root / pair.short)
        (tmp_path / "long" / f"{number}.dng").symlink_to(root / pair.long)
        rows.append(f"short/{number}.dng,long/{number}.dng")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    crash("short/1.")

    for found in (find_layout(tmp_path, "short-long"), pairs_from_csv(tmp_path / "pairs.csv")):
        assert len(found.pairs) == 2
        assert CRASHES_DECODER in found.skipped[0].reason


def test_whole_frames_and_their_pictures_raise_an_error_of_the_file(root: Path, crash: Crash):
    pair = find_pairs(root, camera_named("sony")).pairs[0]
    decoder = DecodingOptions(amplify="8").decoder(root)
    assert decoder.pair(root, pair).low.any()
    assert decoder.file(root / pair.short).sample.low.any()
    crash(pair.short)

    for read in (
        lambda: decoder.pair(root, pair),
        lambda: decoder.file(root / pair.short),
        lambda: colours_for_show(root / pair.short),
        lambda: reference_colours(str(root / pair.short), root),
    ):
        with pytest.raises(RawError, match=CRASHES_DECODER):
            read()


def test_pictures_of_an_evaluation_leave_the_file_out_and_dark_frames_name_it(
    root: Path, crash: Crash
):
    pair = find_pairs(root, camera_named("sony")).pairs[0]
    crash(pair.short)

    assert _picture_set(root, pair, {"amplification": 8.0}, root / "none.png") is None
    with pytest.raises(RawError, match=CRASHES_DECODER):
        sampled_darks((root / pair.short).parent, None)

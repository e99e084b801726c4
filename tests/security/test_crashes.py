"""A file that crashes LibRaw costs one file in every command, not the command."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rawpy
import torch

from darkprep.jobs import measure
from darkprep.jobs.calibrate import sampled_darks
from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.pictures import colours_for_show
from darkprep.model import build_model, save_weights
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
from darkprep.studies.target_tasks import CostTask
from darkprep.studies.task_kinds import ExecutionOptions, TrainingScale, TrainingTask
from darkprep.studies.tasks import StudyContext
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import sensor_of
from darkprep.view.live import Progress
from tests.support.builds import SMALL
from tests.support.command_line import SMALL as SMALL_BUILD, Call
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


@pytest.fixture(scope="module")
def calibration_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    settings = FrameSettings(size=(192, 256), darks=2, levels=(0.05, 0.2))
    write_calibration_frames(root, sensor_of("sony"), (1600,), settings=settings)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights `srgb.safetensors` and `linear.safetensors`."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for target in ("srgb", "linear"):
        save_weights(build_model("redirt-2rdb", "bayer", target), folder / f"{target}.safetensors")
    return folder


SHORT = "{data}/Sony/short/10001_00_0.1s.dng"
OWN = ("--camera", "sony", "--root", "{data}")
EVALUATE = ("evaluate", *OWN, "--device", "cpu", "--baseline")
RESTORE = ("restore", "--device", "cpu", "--out", "out", SHORT)
COMMANDS: dict[str, tuple[str, ...]] = {
    "pairs": ("pairs", "--layout", "scenes", "--root", "{data}"),
    "build": ("build", *OWN, *SMALL_BUILD, "--spool", "new"),
    "build with dark frames": ("build", *OWN, *SMALL_BUILD, "--spool", "new", "--noise", "{frames}/darks"),
    "calibrate": ("calibrate", "--darks", "{frames}/darks", "--flats", "{frames}/flats", "--out", "c.json"),
    "train": (
        "stream-train", "--spool", "{spool}", "--iterations", "1", "--batch-size", "2", "--device", "cpu",
        "--model", "redirt-2rdb", "--evaluate-every", "1", "--producers", "0",
    ),
    "evaluate": (*EVALUATE, "--weights", "{weights}/srgb.safetensors", "--out", "out"),
    "evaluate in RAW": (*EVALUATE, "--weights", "{weights}/linear.safetensors", "--protocol", "eld"),
    "restore": (*RESTORE, "--weights", "{weights}/srgb.safetensors", "--match-colour", "sony", "--root", "{data}"),
    "restore and develop": (*RESTORE, "--weights", "{weights}/linear.safetensors", "--white-balance", "auto"),
}  # fmt: skip


def forbid_libraw_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail if LibRaw reads a file in this process."""
    here, real = os.getpid(), rawpy.imread

    def imread(source: Any) -> Any:
        if os.getpid() == here:
            pytest.fail("LibRaw reads in the process of the command")
        return real(source)

    monkeypatch.setattr(rawpy, "imread", imread)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_command_lets_libraw_read_in_its_own_process(
    words: tuple[str, ...], call: Call, empty_directory: None, monkeypatch: pytest.MonkeyPatch,
    large_data: Path, large_spool: Path, calibration_frames: Path, weights: Path,
):  # fmt: skip
    forbid_libraw_here(monkeypatch)
    places = {"data": large_data, "frames": calibration_frames, "spool": large_spool, "weights": weights}  # fmt: skip

    result = call(*(word.format(**places) for word in words))

    assert result.exit_code == 0, result.output


def _crash(path: Path) -> float:
    ctypes.string_at(0)
    raise AssertionError(path)


@pytest.mark.slow
def test_advise_names_the_files_that_it_measured_when_one_crashes_the_decoder(
    call: Call, empty_directory: None, monkeypatch: pytest.MonkeyPatch, large_data: Path
):
    monkeypatch.setattr(measure, "_seconds_to_decode", _crash)

    words = (
        "--crop",
        "192",
        "--samples-per-shard",
        "4",
        "--crops-per-visit",
        "2",
        "--device",
        "cpu",
    )
    result = call("advise", "--camera", "sony", "--root", large_data, *words)

    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert "a worker process died while it decoded Sony/short/00001_00_0.1s.dng, " in line


def test_what_samples_cost_is_measured_in_a_process_that_may_crash(
    tmp_path: Path, large_data: Path, monkeypatch: pytest.MonkeyPatch
):
    task = CostTask(
        training=TrainingTask(
            label="raw", camera="sony", target="raw", execution=ExecutionOptions(),
            scale=TrainingScale(crop=192, samples_per_shard=4, crops_per_visit=2),
        )
    )  # fmt: skip
    (tmp_path / "disk").mkdir()
    (tmp_path / "study").symlink_to("disk")  # of the user's own
    context = StudyContext(
        out=tmp_path / "study",
        root=large_data,
        progress=Progress(quiet=True),
        stop=threading.Event(),
    )
    forbid_libraw_here(monkeypatch)

    assert task.run(context)["cpu ms"] > 0
    assert not list((tmp_path / "disk").iterdir())

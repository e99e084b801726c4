"""Invalid input of commands: one line on stderr, status 1 or 2, no incomplete files."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.produce.producer import ProducerConfig
from darkprep.shards import Spool
from tests.support.builds import InlinePool
from tests.support.command_line import SMALL, snapshot
from tests.support.sid_tree import write_sid

DNG = [(50706, 1, 4, b"\x01\x04\x00\x00", True), (50708, 2, 0, "darkprep Linear", True)]
LINEAR_RAW = 34892
SHORT = "Sony/short/00001_00_0.1s.dng"


def build(root: object, *more: object) -> tuple[object, ...]:
    return ("build", "--camera", "sony", "--root", root, "--quiet", *SMALL, *more)


def write_linear(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (64, 96, 3), dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric=LINEAR_RAW, metadata=None, extratags=DNG)


def write_monochrome(path: Path) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["PhotometricInterpretation"].overwrite(LINEAR_RAW)  # of one sample


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def write_text(path: Path) -> None:
    path.write_text("no photograph\n" * 100)


FOREIGN: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "is truncated"),
    (empty, "is empty"),
    (write_text, "is not a RAW file"),
    (write_monochrome, "is monochrome"),
    (write_linear, "holds demosaiced colours"),
]


@pytest.fixture
def own_data(small_data: Path, tmp_path: Path) -> Path:
    """A copy of the photographs, which a test may damage."""
    shutil.copytree(small_data, tmp_path / "own")
    return Path("own")


# -- the photographs ------------------------------------------------------------------------------


def test_a_missing_root_is_named(complaint):
    assert complaint(*build("nowhere")).startswith("nowhere: does not exist; ")
    assert not Path("spool").exists()


def test_a_root_that_is_a_file_is_named(complaint):
    Path("data").write_text("")

    assert complaint(*build("data")).startswith("data: is not a directory; ")


def test_a_root_of_another_layout_is_refused_with_the_expected_folders(complaint, small_data):
    Path("data").mkdir()

    assert "holds no Sony/short and Sony/long folders" in complaint(*build("data"))
    line = complaint("build", "--camera", "nikond850", "--root", small_data)
    assert "holds no NikonD850/scene-1 folder" in line
    assert not Path("spool").exists()


def test_a_root_with_no_pairs_is_named(complaint):
    for folder in ("short", "long"):
        Path("data/Sony", folder).mkdir(parents=True)

    assert complaint(*build("data")) == (
        "data: holds no pairs of sony (found no files; expected .arw or .dng)"
    )
    assert not Path("spool").exists()


def test_a_root_of_another_cameras_files_is_named_with_what_was_found_and_is_expected(complaint):
    for folder in ("short", "long"):
        Path("data/Sony", folder).mkdir(parents=True)
        Path("data/Sony", folder, "00001_00_10s.NEF").write_text("")

    assert complaint(*build("data")).endswith("(found 2 .nef; expected .arw or .dng)")


def test_a_split_without_pairs_is_refused_with_the_splits_that_have_some(complaint, small_data):
    assert complaint(*build(small_data, "--split", "val")).endswith(
        "no val pairs of sony, only test, train; choose one with --split"
    )
    line = complaint(*build(small_data, "--split", "dev"), status=2)
    assert "'--split': 'dev' is not one of 'train', 'val', 'test', 'val+test'" in line


def test_a_short_without_its_long_is_named_counted_and_left_out(call, own_data):
    (own_data / "Sony/long/00002_00_10s.dng").unlink()

    result = call(*(word for word in build(own_data) if word != "--quiet"))

    assert result.exit_code == 0
    assert "4 pairs of 2 scenes" in result.output
    for exposure in ("0.1", "0.04"):
        assert (
            f"skipped Sony/short/00002_00_{exposure}s.dng: its scene 00002 has no long exposure; add one or remove this file"
            in result.stderr
        )
    assert "2 files skipped" in result.stderr


@pytest.mark.parametrize(("spoil", "why"), FOREIGN)
def test_a_file_that_cannot_be_used_is_named_and_left_out(call, own_data, spoil, why):
    spoil(own_data / SHORT)

    result = call(*(word for word in build(own_data) if word != "--quiet"))

    assert result.exit_code == 0
    assert f"skipped own/{SHORT}: {why}" in result.stderr
    assert "1 file skipped" in result.stderr
    assert "5 pairs of 3 scenes" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("spoil", "why"), FOREIGN)
def test_with_no_usable_file_left_the_build_fails_and_writes_nothing(complaint, spoil, why):
    root = write_sid(Path("own"), scenes=2, shorts=1)
    for path in (root / "Sony/short").iterdir():
        spoil(path)

    line = complaint(*build(root))

    assert line.startswith("own: none of the pairs of sony (2) can be used")
    assert why in line
    assert not Path("spool").exists()


def test_a_file_name_of_several_lines_is_printed_on_one(call, complaint, own_data):
    bad = own_data / "Sony/short/00001_00_0.1s\n.dng"
    (own_data / SHORT).rename(bad)

    result = call(*(word for word in build(own_data) if word != "--quiet"))

    assert r"Sony/short/00001_00_0.1s\n.dng: " in result.stderr
    assert complaint(*build("two\nlines")).startswith(r"two\nlines: does not exist; ")


def test_many_bad_files_are_counted_not_all_listed(call, tmp_path):
    root = write_sid(Path("own"), scenes=26, shorts=1)
    for path in sorted((root / "Sony/short").iterdir())[1:]:
        empty(path)

    result = call(*(word for word in build(root) if word != "--quiet"))

    assert result.exit_code == 0
    assert sum(line.startswith("skipped ") for line in result.stderr.splitlines()) == 20
    assert "and 5 more" in result.stderr
    assert "25 files skipped" in result.stderr


# -- what is asked for ----------------------------------------------------------------------------


def test_an_unknown_camera_is_refused_with_all_known_ones(complaint):
    line = complaint("build", "--camera", "nokia", status=2)

    assert line.startswith("Invalid value for '--camera': 'nokia' is not one of ")
    assert all(name in line for name in CAMERAS)
    assert "'nokia' is not one of" in complaint("synth", "out", "--camera", "nokia", status=2)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("fraction", ["0", "-0.1", "1.01", "nan", "inf"])
def test_a_fraction_outside_its_range_is_refused(complaint, small_data, fraction):
    line = complaint(*build(small_data, "--fraction", fraction), status=2)

    assert line.startswith("Invalid value for '--fraction': ")
    assert "is not in the range 0<x<=1" in line or "is not a finite number" in line
    assert not Path("spool").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--crop", "33"], "crop must be a positive multiple of 2"),
        (["--crop", "512"], "crop 512 with its margin needs 516 pixels"),
        (["--margin", "3"], "margin must be a multiple of 2"),
        (["--samples-per-shard", "7"], "must be a multiple of crops-per-visit 4"),
        (["--seed", "99999999999999999999999"], "seed must be from 0 to 2^63 - 1"),
        (["--amplify", "twice"], "amplify must be estimate, a positive number"),
        (["--amplify", "0"], "amplify must be estimate, a positive number"),
        (["--amplify", "1e300"], "amplify must be estimate, a positive number up to 1e+06"),
        (["--epochs", "1000000000000000"], "shards must be 1 to 1000000000000"),
        (["--multiplier", "2"], "--multiplier can be used only with --amplify estimate"),
        (["--disk-budget", "1MB"], "disk-budget 1.0 MB is too small"),
        (["--disk-budget", "0"], "disk-budget 0.0 MB is too small"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_refused_before_anything_is_written(complaint, small_data, words, said):
    assert said in complaint(*build(small_data, *words))
    assert not Path("spool").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples-per-shard", "20000"], "20000 is not in the range 1<=x<=9999"),
        (["--window", "0"], "0 is not in the range 1<=x<=4096"),
        (["--window", "5000"], "5000 is not in the range 1<=x<=4096"),
        (["--epochs", "0"], "'0' is neither a whole number of at least 1 nor inf"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--jobs", "0"], "0 is not in the range 1<=x<=1024"),
        (["--jobs", "5000"], "5000 is not in the range 1<=x<=1024"),
        (["--frames", "second"], "'second' is not one of 'first', 'all'"),
        (["--multiplier", "inf"], "'inf' is not a finite number"),
        (["--multiplier", "nan"], "'nan' is not a finite number"),
        (["--multiplier", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_a_value_outside_the_range_of_its_option_is_bad_usage(complaint, small_data, words, said):
    line = complaint(*build(small_data, "--amplify", "estimate", *words), status=2)

    assert line.startswith(f"Invalid value for '{words[0]}': {said}")
    assert line.endswith("(see darkprep build --help)")
    assert not Path("spool").exists()


def test_the_smallest_budget_in_the_message_is_enough(call, complaint, small_data):
    line = complaint(*build(small_data, "--disk-budget", "1MB"))

    least = line.split(" need ")[1].split(";")[0]
    assert call(*build(small_data, "--disk-budget", least)).exit_code == 0
    assert Spool("spool").disk_bytes() <= int(least.removesuffix("MB")) * 10**6


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("file", "file: is a file"),
        ("file/below", "file: is a file"),
        ("loop", "loop: is a broken link"),
        ("lost/below", "lost: is a broken link"),
    ],
)
def test_an_output_directory_that_cannot_be_created_is_named(complaint, large_spool, place, what):
    Path("file").write_text("")
    Path("loop").symlink_to("loop")
    Path("lost").symlink_to("nowhere")
    before = sorted(Path().iterdir())

    for words, option in (
        (("demo", "--out"), "out"),
        (("study", "levels", "--small", "--out"), "out"),
        (("stream-train", "--producers", "0", "--device", "cpu", "--run"), "run"),
    ):
        assert complaint(*words, place) == f"{what}; give --{option} a directory"
    assert sorted(Path().iterdir()) == before


# -- the spool ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--seed", "4"], "seed 0 in the spool, 4 requested"),
        (["--crop", "28"], "crop 32 in the spool, 28 requested"),
        (["--epochs", "2"], "epochs 1 in the spool, 2 requested"),
        (["--epochs", "inf"], "epochs 1 in the spool, inf requested"),
        (["--fraction", "0.5"], "fraction 1.0 in the spool, 0.5 requested"),
    ],
)
def test_a_spool_of_another_plan_is_refused_and_left_as_it_is(
    complaint, small_data, small_spool, words, difference
):
    before = snapshot(small_spool)

    line = complaint(*build(small_data, *words))

    assert line.startswith("spool: holds another plan (")
    assert difference in line
    assert snapshot(small_spool) == before


def test_another_data_set_under_the_same_names_is_another_plan(complaint, small_spool):
    other = write_sid(Path("own"), scenes=3, shorts=1)

    assert complaint(*build(other)).startswith(
        "spool: holds another plan (pairs 6 entries in the spool"
    )


@pytest.mark.parametrize("command", ["status", "verify", "stop", "stream-train"])
def test_a_directory_that_is_not_a_spool_is_named(complaint, command):
    Path("folder").mkdir()
    Path("file").write_text("")

    assert complaint(command, "--spool", "nowhere").startswith("nowhere: no spool there; make one")
    assert complaint(command, "--spool", "file").startswith("file: no spool there; make one")
    line = complaint(command, "--spool", "folder")
    assert line.startswith("folder/plan.json: is missing, so folder is not a spool; choose another")
    assert "remove" not in line  # photographs may be in there


def test_a_spool_without_its_plan_must_be_built_again(complaint, small_spool):
    (small_spool / "plan.json").unlink()

    assert "remove spool and build it again" in complaint("status")


def test_a_spool_that_contains_the_photographs_is_refused(complaint, own_data):
    before = snapshot(Path())

    for spool in ("own", "."):
        assert f"spool {spool}: contains the photographs" in complaint(
            *build("own", "--spool", spool)
        )
    assert snapshot(Path()) == before


def test_circular_links_are_named(complaint, small_data):
    Path("loop").symlink_to("loop")

    assert complaint(*build("loop")).startswith("loop: ")
    assert complaint(*build(small_data, "--spool", "loop/x")).startswith("loop")
    line = complaint(*build(small_data, "--frames-dir", "loop/f", "--frames-budget", "1GB"))
    assert "loop" in line
    assert complaint(*build("loop/x")).startswith("loop/x: ")
    assert complaint("status", "--spool", "loop").startswith("loop: ")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99}', "\x00" * 100])
def test_a_damaged_plan_is_named(complaint, small_spool, text):
    (small_spool / "plan.json").write_text(text)

    for command in ("status", "verify", "stop"):
        assert complaint(command).startswith("spool/plan.json: ")


@pytest.mark.parametrize("spool", ["file", "file/below"])
def test_a_spool_that_cannot_be_created_is_named(complaint, small_data, spool):
    Path("file").write_text("")

    assert complaint(*build(small_data, "--spool", spool)).startswith("file")


def test_a_full_disk_ends_the_build_with_nothing_half_written(complaint, small_data, monkeypatch):
    impatient = functools.partial(ProducerConfig, disk_full_timeout_s=0.0)
    monkeypatch.setattr(
        "darkprep.pipeline.produce.executors.config.LokyPool", lambda jobs: InlinePool()
    )
    monkeypatch.setattr("darkprep.jobs.build.ProducerConfig", impatient)
    monkeypatch.setattr(os, "posix_fallocate", refuse)

    line = complaint(*build(small_data))

    assert "the disk is full" in line
    assert "are needed; free some space and start again" in line
    spool = Spool("spool").open()
    assert not spool.ready_shards()
    assert not list(spool.partial.iterdir())
    assert not [path for path in spool.frames.iterdir() if path.is_dir()]


def test_an_error_of_the_disk_that_nobody_expected_has_a_remedy(complaint, small_data, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/photos/a.dng")

    monkeypatch.setattr("darkprep.jobs.build.make_plan", fail)

    line = complaint(*build(small_data))

    assert line.startswith("/photos/a.dng: Stale file handle; check the disk or the network")


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_without_room_for_the_photographs_is_reported_before_the_first(
    complaint, monkeypatch
):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    line = complaint("synth", "out", "--camera", "sony", "--scenes", "1", "--size", "96x96")

    assert "3 files need 0.1 MB and 0.0 MB are free" in line
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_two_producers_on_one_spool_are_refused_by_name(complaint, small_data, small_spool):
    with Spool(small_spool).open().producer_lock():
        line = complaint(*build(small_data))

    assert line.startswith(f"spool: a producer is already running (pid {os.getpid()} on ")
    assert line.endswith(", this process); close it first or use another spool")

"""`synth`, `demo`, and the two commands of the README on a synthetic data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.shards import Spool


@pytest.mark.slow
def test_synth_writes_a_data_set_that_build_can_read(call):
    words = ("--scenes", "2", "--shorts", "2", "--size", "96x128", "--jobs", "1")

    result = call("synth", "data", "--camera", "sony", *words)

    assert result.exit_code == 0
    assert "below data in " in result.stdout
    pairs = find_pairs("data", camera_named("sony"))
    assert {pair.split for pair in pairs.pairs} == {"train", "test"}
    assert not pairs.skipped
    shape = ("--crop", "64", "--samples-per-shard", "8", "--window", "1", "--jobs", "1")
    assert call("build", "--camera", "sony", "--quiet", *shape).exit_code == 0
    spool = Spool("spool").open()
    assert spool.ready_shards() == [0, 1]
    assert spool.stream.camera == "sony"


def test_synth_writes_the_same_bytes_for_the_same_seed(call):
    words = ("--camera", "canon70d", "--scenes", "1", "--size", "96x96")
    for out in ("first", "second"):
        assert call("synth", out, *words).exit_code == 0
    assert call("synth", "third", *words, "--seed", "1").exit_code == 0

    files = [path.relative_to("first") for path in Path("first").rglob("*.dng")]
    assert len(files) == 16
    for file in files:
        assert Path("first", file).read_bytes() == Path("second", file).read_bytes()
        assert Path("first", file).read_bytes() != Path("third", file).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "10x10"], "is too small"),
        (["--size", "97x97"], "must be multiples of 2"),
        (["--size", "9600x9600"], "is larger than sony's sensor"),
    ],
)
def test_an_invalid_data_set_is_one_line_and_no_file(complaint, words, said):
    assert said in complaint("synth", "out", "--camera", "sony", *words)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scenes", "0"], "0 is not in the range 1<=x<=9999"),
        (["--shorts", "0"], "0 is not in the range 1<=x<=100"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--jobs", "0"], "0 is not in the range 1<=x<=1024"),
    ],
)
def test_bad_usage_of_synth_is_one_line_and_no_file(complaint, words, said):
    assert said in complaint("synth", "out", "--camera", "sony", *words, status=2)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("data/Sony/short/00001_00_0.1s.ARW", "", "is not a synthetic photograph"),
        (
            "data/Sony_train_list.txt",
            "./Sony/short/00001_00_0.1s.ARW ...",
            "lists photographs that are not synthetic",
        ),
    ],
)
def test_synth_does_not_overwrite_real_photographs(complaint, path, content, said):
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(content)

    line = complaint("synth", "data", "--camera", "sony", "--size", "96x96", "--scenes", "1")

    assert line.startswith(f"{path}: {said}")
    assert [file for file in Path("data").rglob("*.*") if file.is_file()] == [Path(path)]
    assert Path(path).read_text() == content


def test_synth_names_a_directory_that_cannot_be_created(complaint):
    Path("file").write_text("")

    for out in ("file", "file/below"):
        line = complaint("synth", out, "--camera", "sony", "--size", "96x96", "--scenes", "1")
        assert line.startswith("file")


def test_a_demo_does_not_overwrite_anything(complaint):
    Path("demo").mkdir()
    Path("demo/mine.txt").write_text("")

    assert complaint("demo").startswith("demo: is not empty; ")
    assert [path.name for path in Path("demo").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e12", "10001"])
def test_a_demo_needs_a_positive_number_of_minutes(complaint, minutes):
    line = complaint("demo", "--minutes", minutes, status=2)

    assert line.startswith("Invalid value for '--minutes': ")
    assert "is not in the range 0<x<=10000" in line or "is not a finite number" in line
    assert not Path("demo").exists()


@pytest.mark.slow
def test_the_demo_streams_trains_scores_and_writes_pictures(start):
    """Runs for a third of the default time: long enough for every part, too short to check what is learned."""
    process = start("demo", "--minutes", "1")

    output, said = process.communicate(timeout=400)

    assert process.returncode == 0, said
    assert "disk budget 120 MB" in output
    assert "shards deleted after use" in output
    for row in ("input, amplified by LibRaw", "restored by the network", "truth"):
        assert row in output
    summary = json.loads(Path("demo/run/summary.json").read_text())
    assert summary["shards_deleted"] > 0
    assert summary["peak_disk_bytes"] <= 120_000_000
    assert json.loads(Path("demo/results/metrics.json").read_text())["pairs"] >= 2
    with Image.open("demo/demo.png") as picture:
        assert picture.width > 3 * picture.height
        assert np.asarray(picture).std() > 10
    assert not Spool("demo/spool").open().has_producer()


@pytest.mark.soak
def test_a_whole_demo_restores_better_than_amplification_alone(start):
    """Takes four minutes. At a learning rate that is too high the network stops learning, and restores one colour."""
    process = start("demo")

    output, said = process.communicate(timeout=1200)

    assert process.returncode == 0, said
    psnr = {
        name: float(line.removeprefix(name).split()[0])
        for line in output.splitlines()
        for name in ("input, amplified by LibRaw", "restored by the network")
        if line.startswith(name)
    }
    assert psnr["restored by the network"] > psnr["input, amplified by LibRaw"] + 2


@pytest.mark.slow
def test_a_demo_with_too_little_time_reports_it(start):
    process = start("demo", "--minutes", "0.001")

    _, said = process.communicate(timeout=400)

    assert process.returncode == 1
    assert "darkprep: 0 s passed before the first shard was made; give more --minutes" in said


@pytest.mark.slow
def test_the_two_commands_of_the_readme_work_with_no_other_option(start):
    """Frames are as small as the default crop allows, and `stream-train` has fewer iterations."""

    def run(*words: str) -> str:
        process = start(*words)
        output, said = process.communicate(timeout=400)
        assert process.returncode == 0, said
        return str(output)

    run(
        *("synth", "data", "--camera", "sony", "--scenes", "6", "--shorts", "2"),
        *("--size", "544x576"),
    )
    run("build", "--camera", "sony", "--fraction", "0.2")
    assert len(Spool("spool").open().ready_shards()) == 1
    output = run("stream-train", "--iterations", "4")

    assert "finished after 4 iterations" in output
    summary = next(Path("runs").glob("*/summary.json"))
    assert json.loads(summary.read_text())["samples"] == 32

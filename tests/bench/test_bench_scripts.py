"""Every benchmark runs; what it measures on tiny sizes means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from darkprep.shards import Spool, StreamSpec
from darkprep.shards.plan_record import PlanRecord, ProducerSettings

BENCH = Path(__file__).parents[2] / "bench"
PEERS = {"streaming": "MDS", "litdata": "litdata", "tensordict": "tensordict"}


def run(script: str, tmp_path: Path, *more: str) -> tuple[str, dict[str, Any]]:
    """What a script prints and writes with --quick."""
    found = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH / script), "--quick", "--json", str(found)]
    done = subprocess.run(
        [*command, "--dir", str(tmp_path / "place"), *more],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "place").iterdir()), "nothing is left behind"
    return done.stdout, json.loads(found.read_text())


@pytest.mark.slow
def test_the_writers_are_measured_and_missing_peers_are_named(tmp_path: Path):
    said, figures = run("bench_writer.py", tmp_path)

    assert {"darkprep", "webdataset", "torch.save list"} <= figures["writers"].keys()
    for package, name in PEERS.items():
        assert (name in figures["writers"]) != (f"skipped: {package} is not installed" in said)
    assert "load average" in said
    assert figures["machine"]["versions"]["numpy"]


@pytest.mark.slow
def test_the_budget_holds_and_nothing_is_left(tmp_path: Path):
    _, figures = run("bench_budget.py", tmp_path)
    real = figures["real"]

    assert real["deleted"] == real["shards"] == 12
    assert real["batches"] == real["batches_wanted"]
    assert 0 < real["peak_bytes"] <= real["budget_bytes"]
    assert real["room"] == 6
    assert real["left_over"] == []


@pytest.mark.slow
def test_decoding_and_the_amplifier_are_measured(tmp_path: Path):
    said, figures = run("bench_raw.py", tmp_path)

    assert "load average" in said
    assert "plain / estimate" in said
    for steps in figures["frames"].values():
        assert {"read_header", "read_raw", "pack", "estimate", "develop"} <= steps.keys()
        assert all(step["cpu_ms"] >= 0 for step in steps.values())


@pytest.mark.slow
def test_the_live_view_is_measured_on_a_spool_of_its_own_and_on_one_that_is_named(tmp_path: Path):
    said, figures = run("bench_view.py", tmp_path)

    assert "load average" in said
    assert 0 < figures["view"]["share_of_a_core"] < 1
    assert figures["machine"]["versions"]["rich"]

    stream = StreamSpec(
        camera="sony",
        cfa="bayer",
        height=64,
        width=64,
        crop=64,
        samples=2,
        window=1,
        shards=1,
        seed=0,
    )
    Spool(tmp_path / "elsewhere").create(
        PlanRecord(stream=stream, recipe={}, settings=ProducerSettings(root=str(tmp_path)))
    )
    _, named = run("bench_view.py", tmp_path, str(tmp_path / "elsewhere"))
    assert figures["view"].keys() == named["view"].keys()


@pytest.mark.slow
def test_the_readers_are_measured_flat_out_and_at_a_pace(tmp_path: Path):
    said, figures = run("bench_reader.py", tmp_path)

    assert {"darkprep", "cat", "webdataset"} <= figures["flat_out"].keys()
    assert {"darkprep", "webdataset"} <= figures["paced"].keys()
    assert "Targets:" in said


@pytest.mark.slow
def test_the_data_set_is_measured_beside_the_reader(tmp_path: Path):
    said, figures = run("bench_dataset.py", tmp_path)

    assert {"SpoolReader", "SpoolDataset", "SpoolDataset, codes"} <= figures["batches"].keys()
    assert "of SpoolReader" in said


@pytest.mark.slow
def test_production_is_measured_from_raw_and_from_frames(tmp_path: Path):
    said, figures = run("bench_produce.py", tmp_path, "--camera", "sony")
    phases = figures["sony"]["phases"]

    assert next(iter(phases)).startswith("lazy")
    assert phases["warm: 100% of the frames' bytes fit"]["decoded"] == 0
    assert phases["warm: 10% of the frames' bytes fit"]["decoded"] > 0
    assert "First batch" in said
    assert 1 <= figures["mixing"][0]["scenes"] <= 8


@pytest.mark.slow
def test_a_disk_that_is_too_small_for_the_frames_is_measured_in_both_ways(tmp_path: Path):
    _, figures = run("bench_small_disk.py", tmp_path, "--frames", "12 MP, Sony α7S II")

    assert [row["share"] for row in figures["rows"]] == [0.1, 0.5]
    assert all(row["whole"] > 0 and row["alone"] > 0 for row in figures["rows"])


@pytest.mark.slow
def test_the_pace_is_measured_for_all_ways(tmp_path: Path):
    said, figures = run("bench_pace.py", tmp_path, "--cold")

    assert {"lazy DataLoader", "one file (torch.save list)", "darkprep"} < figures["cases"].keys()
    for package in ("webdataset", "litdata", "torchdata"):
        measured = any(name.startswith(package) for name in figures["cases"])
        assert measured != (f"skipped: {package} is not installed" in said)
    for case in figures["cases"].values():
        for pace in ("V100, 86.4 ms", "H200, 20 ms"):
            assert 0 <= case[pace]["busy_percent"] <= 100
            assert 0 <= case[pace]["fresh_percent"] <= 100
        assert case["disk"]["peak_mb"] < 1.01 * figures["budget_bytes"] / 1e6
    assert "emulated accelerator" in said
    assert "page cache: files are evicted" in said


@pytest.mark.slow
def test_the_way_through_a_bucket_is_measured(tmp_path: Path):
    pytest.importorskip("moto", reason="pip install 'darkprep[test]'")
    said, figures = run("bench_bucket.py", tmp_path)

    assert "bucket, uploaded" in said
    assert all(one[0]["samples_per_s"] > 0 for one in figures["ways"].values())


@pytest.mark.slow
def test_cold_samples_of_every_target_are_measured(tmp_path: Path):
    said, figures = run("bench_targets.py", tmp_path)

    for camera in ("sony", "fuji"):
        assert figures[camera]["raw"]["cpu_ms"] < figures[camera]["srgb"]["cpu_ms"]
        assert figures[camera]["raw"]["mb"] < figures[camera]["linear"]["mb"]
    assert "CPU ms per cold sample" in said


@pytest.mark.slow
def test_the_time_to_the_first_shard_is_measured(tmp_path: Path):
    said, figures = run("bench_first_shard.py", tmp_path)

    assert 0 < figures["cpu_s"]
    assert "First shard of 576x576" in said


@pytest.mark.slow
def test_restoring_is_measured_with_and_without_overlap(tmp_path: Path):
    said, figures = run("bench_restore.py", tmp_path)

    assert "files / min" in said
    assert set(figures["files_per_minute"]) == {"one after the other", "overlapped"}


@pytest.mark.slow
def test_the_profile_of_the_network_has_each_convolution(tmp_path: Path):
    (tmp_path / "place").mkdir()
    said, figures = run("model_profile.py", tmp_path, "--rounds", "1")

    steps = figures["steps"]
    assert sum(step["gmac"] for step in steps.values()) == pytest.approx(2.49, rel=0.05)
    assert all(step["ms"] > 0 for step in steps.values())
    assert "all convolutions" in said

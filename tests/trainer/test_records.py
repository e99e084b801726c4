"""A run's files are read back as they were written; invalid lines are left out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from darkprep.trainer.config import TrainConfig
from darkprep.trainer.records import (
    MetricsLine,
    RunSummary,
    metrics_lines,
    read_metrics,
    read_summary,
)

LINE = MetricsLine(
    iteration=50,
    loss=0.25,
    learning_rate=1e-4,
    iterations_per_s=2.0,
    samples_per_s=16.0,
    data_wait_fraction=0.0,
    gpu_busy_percent=None,
    shards_deleted=3,
    damaged=0,
    seconds=25.0,
    extra={"disk_bytes": 7},
)
SUMMARY = RunSummary(
    iterations=100,
    samples=800,
    first_loss=0.5,
    last_loss=None,
    data_wait_fraction=0.0,
    samples_per_second=16.0,
    seconds=50.0,
    first_batch_seconds=1.5,
    shards_deleted=6,
    damaged_shards=0,
    peak_disk_bytes=10**9,
    parameters=581_792,
    ended="stopped",
    limiting_side="the cpu limits",
)


def write(run: Path, *lines: dict[str, object]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path, LINE.record(), replace(LINE, iteration=100, gpu_busy_percent=93.0).record())
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY.record()))

    assert read_metrics(tmp_path)[0] == LINE
    assert read_metrics(tmp_path)[1].gpu_busy_percent == 93.0
    assert read_summary(tmp_path) == SUMMARY


def test_the_keys_of_a_line_are_the_documented_ones():
    assert list(LINE.record()) == [
        *("iteration", "loss", "learning_rate", "iterations_per_s", "samples_per_s"),
        *("data_wait_fraction", "gpu_busy_percent", "shards_deleted", "damaged", "seconds"),
        "disk_bytes",
    ]


def test_a_run_without_files_has_no_lines_and_no_summary(tmp_path):
    assert read_metrics(tmp_path) == []
    assert read_summary(tmp_path) is None


def test_the_tail_of_a_long_file_is_read_from_its_first_whole_line(tmp_path):
    lines = [replace(LINE, iteration=n).record() for n in range(1, 101)]
    write(tmp_path, *lines)

    found = read_metrics(tmp_path, tail_bytes=1000)

    assert found[-1].iteration == 100
    assert 1 < len(found) < 10


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": None},
        {"iteration": [50]},
        {"iteration": 1.5},
        {"loss": "x"},
        {"loss": float("nan")},
        {"loss": 10**400},
        {"loss": True},
        {"loss": 1e-300},
        {"gpu_busy_percent": {}},
        {"seconds": None},
    ],
)
def test_a_line_with_a_wrong_field_is_left_out(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} is not valid"):
        MetricsLine.from_record(LINE.record() | change)
    rows = [json.dumps(LINE.record()), json.dumps(LINE.record() | change)]
    assert metrics_lines(rows) == [LINE]


@pytest.mark.parametrize("row", ["", "{", "[1]", "3", "{}", "[" * 10_000, '{"iteration": 1}'])
def test_a_row_that_is_no_metrics_line_is_left_out(row):
    assert metrics_lines([row, json.dumps(LINE.record()).encode()]) == [LINE]


def test_a_further_field_that_is_no_number_is_left_out_alone():
    record = LINE.record() | {"note": "x", "shards_ready": 4}

    assert MetricsLine.from_record(record).extra == {"disk_bytes": 7, "shards_ready": 4}


@pytest.mark.parametrize(
    "change", [{"ended": "done"}, {"iterations": "8"}, {"limiting_side": 3}, {"first_loss": "x"}]
)
def test_a_summary_with_a_wrong_field_is_none(tmp_path, change):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY.record() | change))

    assert read_summary(tmp_path) is None


def test_a_summary_that_lacks_a_field_names_it():
    record = SUMMARY.record()
    del record["seconds"]

    with pytest.raises(ValueError, match="seconds is missing"):
        RunSummary.from_record(record)


@pytest.mark.parametrize("module", ["config", "records"])
def test_defaults_and_records_are_read_without_torch(module):
    code = f"import sys, darkprep.trainer.{module}; print('torch' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_the_largest_seed_of_a_run_is_read_back():
    config = TrainConfig(seed=2**63 - 1)

    assert TrainConfig.from_record(config.record()) == config

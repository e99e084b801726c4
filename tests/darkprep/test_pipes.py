"""Named pipes in place of small files: reading one would block for ever, so none is opened."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkprep.jobs.background import last_log_line, start
from darkprep.shards import Cursor, Spool, WeightsError
from darkprep.shards.files import read_json
from darkprep.shards.locks import last_holder
from darkprep.trainer.checkpoint import read_checkpoint
from darkprep.view.history import SpoolHistory
from tests.support.command_line import SMALL
from tests.support.statuses import status_of

_PATIENCE_S = 60


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Fails a test that blocks on a pipe."""

    def give_up(number: int, frame: object) -> None:
        pytest.fail("waits for a pipe")  # no Exception, which some code translates

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put_pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "place", ["damaged/refused.jsonl", "cursors/lock", "producers/lock", "cursors/rank-0.json"]
)
def test_a_status_is_shown_without_files_that_are_pipes(place, call, small_spool):
    put_pipe(small_spool / place)
    result = call("status", "--spool", small_spool)

    assert result.exit_code == 0
    assert "trainer    not running" in result.stdout


def test_a_status_is_shown_without_metrics_that_are_a_pipe(call, small_spool):
    put_pipe(Path("run/metrics.jsonl"))
    spool = Spool(small_spool)
    with spool.trainer_lock():
        spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=0, run="run"))

        assert "trainer    running" in call("status", "--spool", small_spool).stdout


def test_stop_ignores_a_lock_that_is_a_pipe(call, small_spool):
    put_pipe(small_spool / "producers/lock")

    assert "no producer is running" in call("stop", "--spool", small_spool).stdout
    assert last_holder(small_spool / "producers/lock") is None


def test_a_lock_that_is_a_pipe_is_named(complaint, small_data, small_spool):
    lock = put_pipe(small_spool / "producers/lock")
    line = complaint(
        *("build", "--camera", "sony", "--root", small_data, "--spool", small_spool, "-q", *SMALL)
    )

    assert line == f"{lock}: is not a regular file; move it away"


def test_a_refusal_is_not_written_into_a_pipe(small_spool, caplog):
    put_pipe(small_spool / "damaged/refused.jsonl")
    spool = Spool(small_spool).open()
    spool.quarantine.add(spool.shard_path(0), 0, "for a test")

    assert spool.ready_shards() == [1, 2]
    assert "shard 0 was quarantined, but the reason could not be saved" in caplog.text


def test_a_background_producer_is_not_started_with_a_pipe_for_its_log(small_spool):
    put_pipe(small_spool / "producers/log.txt")
    spool = Spool(small_spool).open()

    with pytest.raises(OSError, match="is not a regular file"):
        start(spool, ["--version"])
    assert last_log_line(spool) == f"see {small_spool}/producers/log.txt"


@pytest.mark.parametrize("name", ["metrics.jsonl", "spool.jsonl", "evaluations.jsonl"])
def test_a_report_leaves_out_what_is_a_pipe(name, call):
    put_pipe(Path("run") / name)
    Path("run/config.json").write_text("{}")
    put_pipe(Path("run/heldout/a/00000001.jpg"))

    assert call("report", "run").stdout == "run/report.html\n"


def test_the_history_of_a_spool_is_not_written_into_a_pipe(tmp_path, caplog):
    put_pipe(tmp_path / "spool.jsonl")
    history = SpoolHistory(tmp_path)
    history.start()
    history.add(status_of())

    assert "is not a regular file" in caplog.text


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_run_is_not_resumed_into_a_pipe(name, complaint, large_spool):
    Path("run").mkdir()
    put_pipe(Path("run") / name)
    line = complaint(
        *("stream-train", "--spool", large_spool, "--run", "run", "--resume", "--iterations", "1"),
        *("--batch-size", "2", "--device", "cpu", "--producers", "0", "--quiet"),
    )

    assert line == f"run/{name}: is not a regular file; move it away"
    assert "validation-frames" not in {thread.name for thread in threading.enumerate()}


def test_a_checkpoint_that_is_a_pipe_is_damaged(tmp_path):
    with pytest.raises(WeightsError, match="is damaged"):
        read_checkpoint(put_pipe(tmp_path / "00000001.pt"))


@pytest.mark.parametrize("name", ["w", "w.safetensors"])
def test_weights_that_are_a_pipe_are_named(name, complaint, small_data):
    weights = put_pipe(Path(name))
    raw = small_data / "Sony/short/00001_00_0.1s.dng"
    wanted = f"{name}: is not a regular file; choose a weights file"

    assert complaint("restore", raw, "--weights", weights, "--device", "cpu") == wanted
    assert complaint("import-weights", weights, "out.safetensors") == wanted
    assert not Path("out.safetensors").exists()


def test_json_in_a_pipe_is_read_as_none(tmp_path):
    assert read_json(put_pipe(tmp_path / "a.json")) is None

"""The live view: what it shows on a terminal, in a pipe, as JSON, and that it costs the work nothing."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from darkprep.trainer.records import StepReport
from darkprep.view.live import Progress, Watch
from darkprep.view.screen import line, screen, sparkline


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def record_of(**changes: Any) -> dict[str, Any]:
    producer: dict[str, Any] = {
        "alive": True, "state": "making", "mb_per_s": 12.4, "blocked_fraction": 0.03, "pid": 7,
        "host": "here", "shards_made": 83, "frames_decoded": 1204, "frames_kept": 10,
        "frames_wanted": 12, "until": 100, "next_needed": 14, "shards_ready": 6,
        "running_s": 83.0, "blocked_s": 2.0, "seconds_since": 0.1,
    }  # fmt: skip
    trainer: dict[str, Any] = {
        "alive": True, "ranks": 1, "batch": 27, "run": "runs/x", "wait_fraction": 0.004,
        "waiting_s": 0.0,
        "iteration": 20, "iterations": 2000, "loss": 0.1537, "iterations_per_s": 1.75,
        "samples_per_s": 7.0, "gpu_busy_percent": 97.0, "eta_s": 1130.0,
        "recent_losses": [0.4, 0.3, 0.2, 0.15],
    }  # fmt: skip
    record: dict[str, Any] = {
        "spool": "spool", "shards_ready": 6, "shard_bytes": 5_600_000, "disk_bytes": 40_000_000,
        "budget_bytes": 80_000_000, "damaged": 0, "producers": [producer], "trainer": trainer,
        "limiting_side": "producers and trainer keep pace: nothing to change",
    }  # fmt: skip
    return record | changes


def step_of(iteration: int = 21, **changes: Any) -> StepReport:
    fields: dict[str, Any] = {
        "iteration": iteration, "iterations": 2000, "loss": 0.125, "learning_rate": 1e-4,
        "iterations_per_s": 2.5, "samples_per_s": 10.0, "data_wait_fraction": 0.0,
        "eta_s": 800.0, "gpu_busy_percent": None, "shards_deleted": 3, "damaged": 0,
    } | changes  # fmt: skip
    return StepReport(**fields)


def drawn(record: dict[str, Any], width: int = 100) -> str:
    paper = io.StringIO()
    console = Console(width=width, file=paper, color_system=None)
    console.print(screen(record, title="darkprep", elapsed_s=754, width=width))
    return paper.getvalue()


def test_the_screen_tells_of_producers_spool_and_trainer_and_who_limits():
    shown = drawn(record_of())

    for words in (
        "making", "12.4 MB/s", "blocked 3%", "1,204 frames decoded", "83 shards made",
        "40 MB of 80 MB (50%)", "6 shards ready", "iteration 20 of 2,000", "1.75 it/s",
        "7.0 samples/s", "loss 0.1537", "data wait 0.4%", "GPU 97 %", "ETA 18:50 min",
        "keep pace", "12:34 min",
    ):  # fmt: skip
        assert words in shown


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_screen_fits_any_terminal(width):
    shown = drawn(record_of(), width)

    assert max(map(len, shown.splitlines())) <= width


def test_the_bar_shows_the_share_of_the_budget_without_colour():
    bars = [row for row in drawn(record_of()).splitlines() if "of 80 MB" in row]

    (bar,) = bars
    assert bar.count("█") + bar.count("▓") == bar.count("░") == 20


def test_a_training_that_ends_by_the_clock_says_when_and_not_how_many_iterations_are_left():
    trainer = record_of()["trainer"] | {"ends_in_s": 90.0, "clock_s": 90.0}
    shown = drawn(record_of(trainer=trainer))

    assert "ends in 1:30 min" in shown
    assert "50%" in shown
    assert "2,000" not in shown
    assert "ETA 18" not in shown


def test_a_spool_where_nobody_works_says_so():
    idle = record_of(
        producers=[], trainer={"alive": False, "batch": 40, "run": "", "wait_fraction": 0.0}
    )

    assert "the last one stopped at batch 40" in drawn(idle)
    assert line(idle) == "40 MB of 80 MB (50%) | 6 shards ready"


def test_one_line_for_a_pipe_holds_the_same_figures():
    told = line(record_of(damaged=2))

    for words in ("iteration 20 of 2,000", "loss 0.1537", "ETA 18:50 min", "2 damaged"):
        assert words in told
    assert "\n" not in told


def test_a_long_wait_is_shown_before_it_is_over():
    trainer = record_of()["trainer"] | {"waiting_s": 75.0}

    assert "data wait 0.4%, now for 1:15 min" in drawn(record_of(trainer=trainer))
    assert "now for" not in drawn(record_of())


def test_a_sparkline_runs_from_the_lowest_to_the_highest():
    assert sparkline([0, 1, 2, 3], 10) == "▁▃▆█"
    assert sparkline([1, 1, 1], 10) == "▁▁▁"
    assert sparkline(range(100), 8) == "▁▂▃▄▅▆▇█"


def watched(paper: io.StringIO, *, steps: Sequence[StepReport] = (), **options: Any) -> str:
    console = Console(file=paper, width=100, quiet=options.get("quiet", False))
    with Progress(console=console, **options) as progress:
        with progress.watching(record_of, title="darkprep") as watch:
            for step in steps:
                watch.step(step)
            time.sleep(0.3)
    return paper.getvalue()


def test_a_pipe_gets_plain_lines():
    said = watched(io.StringIO(), steps=[step_of()])

    assert "iteration 2" in said.splitlines()[0]
    assert "\x1b" not in said


def test_a_forced_colour_does_not_turn_a_pipe_into_a_screen(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = watched(io.StringIO())

    assert "│" not in said


def test_a_terminal_gets_a_screen_with_the_newest_step():
    said = watched(Terminal(), steps=[step_of(21), step_of(22)])

    assert "iteration 22 of 2,000" in said
    assert "│" in said


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    said = watched(Terminal())

    assert "│" in said
    assert "\x1b[3" not in said.replace("\x1b[3m", "")  # italics are no colour


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")

    assert "│" not in watched(Terminal())


def test_quiet_shows_nothing():
    assert watched(io.StringIO(), quiet=True) == ""


def test_json_lines_parse_one_by_one(capsys):
    watched(io.StringIO(), log_format="json", steps=[step_of()])
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    assert events
    assert {event["event"] for event in events} == {"progress"}
    assert events[0]["disk_bytes"] == 40_000_000


def test_warnings_go_through_the_view():
    paper = io.StringIO()
    with Progress(console=Console(file=paper, width=80)):
        logging.getLogger("shards").warning("shard %d was refused", 7)

    assert paper.getvalue() == "darkprep: shard 7 was refused\n"


def test_the_step_at_hand_is_newer_than_what_the_spool_says():
    seen: list[dict[str, Any]] = []
    watch = Watch(record_of, lambda record, title, elapsed: seen.append(record), None, title="")
    watch.step(step_of(data_wait_fraction=0.5))
    watch.start()
    watch.stop()

    assert seen[-1]["trainer"]["iteration"] == 21
    assert "producers are slower" in seen[-1]["limiting_side"]


def test_a_spool_that_vanishes_does_not_end_the_work():
    def look() -> dict[str, Any]:
        raise FileNotFoundError("gone")

    watch = Watch(look, lambda *_: None, None, title="")
    watch.start()
    watch.step(step_of())
    watch.stop()

    assert watch.latest == {}


def test_a_step_costs_the_training_less_than_ten_microseconds():
    with Progress(console=Console(file=Terminal(), width=100)) as progress:
        with progress.watching(record_of, title="darkprep") as watch:
            report = step_of()
            costs = []
            for _ in range(5):
                began = time.perf_counter()
                for _ in range(1000):
                    watch.step(report)
                costs.append((time.perf_counter() - began) / 1000)

    assert min(costs) < 10e-6


def test_a_reader_that_goes_away_does_not_end_the_work(monkeypatch):
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Broken())
    with Progress(log_format="json") as progress:
        with progress.watching(record_of, title="darkprep") as watch:
            watch.step(step_of())
            progress.say("still at work")

    assert progress.unread.is_set()

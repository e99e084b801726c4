"""The live view: on a terminal, in a pipe and as JSON, what it leaves on the terminal, and its cost."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from darkprep.trainer.records import StepReport
from darkprep.view.live import Progress, StatusMonitor
from darkprep.view.screen import screen, sparkline
from darkprep.view.status import SpoolStatus, progress_of_step
from darkprep.view.text import status_lines, summary_line
from tests.support.statuses import NO_TRAINER, PROGRESS, TRAINER, producer_of, status_of
from tests.support.terminal import Terminal


def step_of(iteration: int = 21, **changes: Any) -> StepReport:
    fields: dict[str, Any] = {
        "iteration": iteration, "iterations": 2000, "loss": 0.125, "learning_rate": 1e-4,
        "iterations_per_s": 2.5, "samples_per_s": 10.0, "data_wait_fraction": 0.0,
        "eta_s": 800.0, "gpu_busy_percent": None, "shards_deleted": 3, "damaged": 0,
    } | changes  # fmt: skip
    return StepReport(**fields)


def drawn(status: SpoolStatus, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(width=width, file=file, color_system=None)
    console.print(screen(status, title="darkprep", elapsed_s=754, width=width))
    return file.getvalue()


def test_the_last_validation_is_shown_and_printed():
    training = replace(PROGRESS, validation=(1500, 32.104, 0.9))
    status = status_of(trainer=replace(TRAINER, training=training))

    assert "validation 32.10 dB, SSIM 0.900" in drawn(status)
    assert "validation 32.10 dB, SSIM 0.900" in summary_line(status)
    assert "validation 32.10 dB, SSIM 0.900 at 1,500" in "\n".join(status_lines(status))
    assert training.to_json()["validation_psnr"] == 32.104
    assert "validation" not in PROGRESS.to_json()


def test_a_step_of_this_process_keeps_the_validation_of_its_files():
    from_files = replace(PROGRESS, validation=(10, 30.0, 0.8))

    assert progress_of_step(step_of(), from_files).validation == (10, 30.0, 0.8)
    assert progress_of_step(step_of(), None).validation is None


def test_the_screen_shows_producers_spool_trainer_and_the_limiting_side():
    shown = drawn(status_of())

    for words in (
        "making", "12.4 MB/s", "blocked 3%", "1,204 frames decoded", "83 shards made",
        "40 MB of 80 MB (50%)", "6 shards ready", "iteration 20 of 2,000", "1.75 it/s",
        "7.0 samples/s", "loss 0.1537", "data wait 0.4%", "GPU 97%", "ETA 18:50 min",
        "equally fast", "12:34 min",
    ):  # fmt: skip
        assert words in shown


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_screen_fits_any_terminal(width):
    shown = drawn(status_of(), width)

    assert max(map(len, shown.splitlines())) <= width


def test_the_bar_shows_the_share_of_the_budget_without_colour():
    bars = [row for row in drawn(status_of()).splitlines() if "of 80 MB" in row]

    (bar,) = bars
    assert bar.count("█") + bar.count("▓") == bar.count("░") == 20


def test_a_training_with_a_deadline_shows_the_time_left_and_not_the_iterations():
    progress = replace(PROGRESS, ends_in_s=90.0, clock_s=90.0)
    shown = drawn(status_of(trainer=replace(TRAINER, training=progress)))

    assert "ends in 1:30 min" in shown
    assert "50%" in shown
    assert "2,000" not in shown
    assert "ETA 18" not in shown


def test_a_spool_without_producer_and_trainer_shows_both_as_not_running():
    idle = status_of(producers=(), trainer=NO_TRAINER)

    assert "the last one stopped at batch 40" in drawn(idle)
    assert summary_line(idle) == "40 MB of 80 MB (50%) | 6 shards ready"


def test_one_line_for_a_pipe_holds_the_same_figures():
    line = summary_line(status_of(damaged=2))

    for words in ("iteration 20 of 2,000", "loss 0.1537", "ETA 18:50 min", "2 damaged"):
        assert words in line
    assert "\n" not in line


def test_a_long_wait_is_shown_before_it_is_over():
    trainer = replace(TRAINER, waiting_s=75.0)

    assert "data wait 0.4%, now for 1:15 min" in drawn(status_of(trainer=trainer))
    assert "now for" not in drawn(status_of())


def test_a_sparkline_is_scaled_from_the_lowest_to_the_highest_value():
    assert sparkline([0, 1, 2, 3], 10) == "▁▃▆█"
    assert sparkline([1, 1, 1], 10) == "▁▁▁"
    assert sparkline(range(100), 8) == "▁▂▃▄▅▆▇█"


def output_of(file: io.StringIO, *, steps: Sequence[StepReport] = (), **options: Any) -> str:
    console = Console(file=file, width=100, quiet=options.get("quiet", False))
    with Progress(console=console, **options) as progress:
        with progress.monitor(status_of, title="darkprep") as monitor:
            for step in steps:
                monitor.set_step(step)
            time.sleep(0.3)
    return file.getvalue()


def test_a_pipe_gets_plain_lines():
    output = output_of(io.StringIO(), steps=[step_of()])

    assert "iteration 2" in output.splitlines()[0]
    assert "\x1b" not in output


def test_forced_colour_does_not_turn_a_pipe_into_a_screen(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = output_of(io.StringIO())

    assert "│" not in output


def test_a_terminal_gets_a_screen_with_the_newest_step():
    output = output_of(Terminal(), steps=[step_of(21), step_of(22)])

    assert "iteration 22 of 2,000" in output
    assert "│" in output


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    output = output_of(Terminal())

    assert "│" in output
    assert "\x1b[3" not in output.replace("\x1b[3m", "")  # italics are no colour


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")

    assert "│" not in output_of(Terminal())


def test_quiet_shows_nothing():
    assert output_of(io.StringIO(), quiet=True) == ""


def test_json_lines_parse_one_by_one(capsys):
    output_of(io.StringIO(), log_format="json", steps=[step_of()])
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    assert events
    assert {event["event"] for event in events} == {"progress"}
    assert events[0]["disk_bytes"] == 40_000_000


def test_warnings_are_printed_above_the_screen():
    file = io.StringIO()
    with Progress(console=Console(file=file, width=80)):
        logging.getLogger("shards").warning("shard %d was refused", 7)

    assert file.getvalue() == "darkprep: shard 7 was refused\n"


def test_the_newest_step_replaces_the_metrics_of_the_run():
    seen: list[SpoolStatus] = []
    monitor = StatusMonitor(status_of, lambda status, *_: seen.append(status), None, title="")
    monitor.set_step(step_of(data_wait_fraction=0.5))
    monitor.start()
    monitor.stop()

    assert seen[-1].trainer.training
    assert seen[-1].trainer.training.iteration == 21
    assert "producers are slower" in seen[-1].limiting_side


def test_a_deleted_spool_does_not_end_the_work():
    def read_status() -> SpoolStatus:
        raise FileNotFoundError("gone")

    monitor = StatusMonitor(read_status, lambda *_: None, None, title="")
    monitor.start()
    monitor.set_step(step_of())
    monitor.stop()

    assert monitor.latest is None


def test_a_step_costs_the_training_less_than_ten_microseconds():
    with Progress(console=Console(file=Terminal(), width=100)) as progress:
        with progress.monitor(status_of, title="darkprep") as monitor:
            report = step_of()
            costs = []
            for _ in range(5):
                began = time.perf_counter()
                for _ in range(1000):
                    monitor.set_step(report)
                costs.append((time.perf_counter() - began) / 1000)

    assert min(costs) < 10e-6


def test_a_closed_output_does_not_end_the_work(monkeypatch):
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Broken())
    with Progress(log_format="json") as progress:
        with progress.monitor(status_of, title="darkprep") as monitor:
            monitor.set_step(step_of())
            progress.print("still at work")

    assert progress.output_closed.is_set()


# -- what is left on a terminal -----------------------------------------------------------------------


def left_on(terminal: Terminal, work: Callable[[Progress], None]) -> list[str]:
    """The lines that stand on a terminal after some work, without the empty one of the cursor."""
    width, height = terminal.size
    console = Console(file=terminal, width=width, height=height, color_system=None)
    with Progress(console=console) as progress:
        work(progress)
    assert terminal.rows[-1] == ""
    return terminal.rows[:-1]


def test_only_printed_lines_stay_on_a_terminal():
    def work(progress: Progress) -> None:
        progress.show("x" * 150, always=True)
        progress.print("kept")
        progress.show("y", always=True)

    assert left_on(Terminal(), work) == ["kept"]
    assert left_on(Terminal(), lambda progress: None) == []


@pytest.mark.parametrize(
    ("width", "height"),
    [(100, 40), (60, 40), (100, 6), pytest.param(140, 6, marks=pytest.mark.slow)],
)
def test_no_line_of_the_screen_stays_on_a_terminal(width, height):
    """On a terminal lower than the screen its top stayed; so did a line after each Ctrl-C."""

    def work(progress: Progress) -> None:
        with progress.monitor(status_of, title="darkprep") as monitor:
            time.sleep(0.4)
            monitor.set_step(step_of())
            progress.print("kept")
            terminal.write("^C")  # what a terminal prints at Ctrl-C
            time.sleep(0.4)

    terminal = Terminal(width, height)

    assert left_on(terminal, work) == ["kept"]


def test_counts_of_one_are_singular():
    status = status_of(
        producers=(producer_of(skipped=1, deaths=1, shards_made=1, frames_decoded=1),),
        shards_ready=1,
    )
    shown = " ".join(drawn(status, 140).replace("│", "").split())

    for words in ("1 file skipped", "1 worker replaced", "1 shard made", "1 frame decoded"):
        assert words in shown
    assert "1 shard ready" in summary_line(status)


def test_the_json_of_a_status_has_the_documented_keys():
    record = json.loads(json.dumps(status_of(objects_bytes=3, staged_bytes=1).to_json()))

    assert record["trainer"]["iteration"] == 20
    assert record["trainer"]["alive"] is True
    assert record["producers"][0]["shards_made"] == 83
    assert record["producers"][0]["blocked_fraction"] == pytest.approx(0.03)
    assert record["objects_bytes"] == 3
    assert "ends_in_s" not in record["trainer"]
    assert "objects_bytes" not in status_of().to_json()

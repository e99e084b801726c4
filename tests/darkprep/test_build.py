"""`build`, `status`, `verify` and `stop`, in the foreground and with background producers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from darkprep.model import build_model, save_weights
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.produce.producer import Producer
from darkprep.shards import ShardFile, Spool
from darkprep.shards.errors import MachineError
from tests.support.command_line import SMALL, snapshot
from tests.support.processes import is_running, wait_until

build_module = importlib.import_module("darkprep.commands.build")
STATUS_KEYS = {
    *("spool", "camera", "plan", "shards_ready", "shards_planned", "shard_bytes"),
    *("samples_per_shard", "budget_bytes", "disk_bytes", "next_needed", "damaged"),
    *("trainer", "producers", "limiting_side"),
}
TIGHT = ("--epochs", "inf", "--disk-budget", "5MB", "--samples-per-shard", "16")
"""Options of an endless plan with a budget of a few shards: the producer soon has to wait."""


def check_shards(path: Path) -> list[int]:
    spool = Spool(path).open()
    for shard in spool.ready_shards():
        opened = ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)
        opened.verify_all()
        opened.close()
    return spool.ready_shards()


def flip_byte(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def test_build_makes_the_shards_of_one_epoch_and_sums_up(call, small_data):
    result = call("build", "--camera", "sony", "--root", small_data, *SMALL)

    assert result.exit_code == 0
    assert check_shards(Path("spool")) == [0, 1, 2]
    assert "6 pairs of 3 scenes, 3 shards" in result.output
    assert "done: 3 shards made" in result.output
    assert "9 frames decoded" in result.output


def test_a_spool_with_noise_of_the_first_edition_goes_on_with_it(call, small_data, monkeypatch):
    command = ("build", "--camera", "sony", "--root", small_data, "--noise", "sony", *SMALL)
    with monkeypatch.context() as older:
        older.setattr(build_module, "PlanOptions", partial(PlanOptions, noise_edition=1))
        assert call(*command).exit_code == 0
    before = Spool("spool").open().digest

    assert call(*command).exit_code == 0
    assert Spool("spool").open().digest == before
    assert call(*command, "--spool", "new").exit_code == 0
    assert Spool("new").open().plan.recipe["options"]["noise_edition"] == 2


def test_the_root_is_data_or_taken_from_the_environment(call, small_data, monkeypatch):
    Path("data").symlink_to(small_data)
    assert call("build", "--camera", "sony", "--fraction", "0.2", *SMALL).exit_code == 0
    Path("data").unlink()
    monkeypatch.setenv("DARKPREP_DATA", str(small_data))

    result = call("build", "--camera", "sony", "--fraction", "0.2", *SMALL)

    assert result.exit_code == 0
    assert "2 pairs of 1 scene, " in result.output
    assert check_shards(Path("spool")) == [0]


def test_build_evaluate_and_restore_estimate_the_same_amplification(call, large_data):
    weights = Path("w.safetensors")
    save_weights(build_model("redirt"), weights)
    short = next((large_data / "Sony/short").glob("10001*"))
    Path("data/Sony").mkdir(parents=True)
    for kind in ("short", "long"):
        (Path("data/Sony") / kind).mkdir()
        for path in (large_data / "Sony" / kind).glob("10001*"):
            shutil.copy(path, Path("data/Sony") / kind)
    estimate = ("--amplify", "estimate")

    made = call("build", "--camera", "sony", "--split", "test", *estimate, *SMALL)
    scored = call("evaluate", "--camera", "sony", "--weights", weights, *estimate, "--json")
    call("restore", short, "--weights", weights)

    assert made.exit_code == 0
    spool = Spool("spool").open()
    opened = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest)
    trained = opened.metas[0].amplification
    found = json.loads(scored.stdout)
    assert found["images"][0]["amplification"] == trained
    assert found["settings"]["amplify"] == "estimate, m = 5"
    (picture,) = Path("restored").iterdir()
    assert Image.open(picture).text["Amplification"] == f"{trained:g} (estimate)"  # type: ignore[attr-defined]


def test_building_again_makes_nothing(call, small_data, small_spool):
    before = snapshot(small_spool / "ready") | snapshot(small_spool / "frames")

    result = call("build", "--camera", "sony", "--root", small_data, *SMALL)

    assert result.exit_code == 0
    assert "done: 0 shards made" in result.output
    assert snapshot(small_spool / "ready") | snapshot(small_spool / "frames") == before


def test_a_lost_and_a_truncated_shard_are_rebuilt_to_the_byte(call, small_data, small_spool):
    whole = [path.read_bytes() for path in sorted((small_spool / "ready").iterdir())]
    (small_spool / "ready/00000001.tar").unlink()

    call("build", "--camera", "sony", "--root", small_data, "--quiet", *SMALL)

    assert [path.read_bytes() for path in sorted((small_spool / "ready").iterdir())] == whole


def test_quiet_prints_nothing(call, small_data):
    result = call("build", "--camera", "sony", "--root", small_data, "--quiet", *SMALL)

    assert (result.exit_code, result.output) == (0, "")


def test_status_prints_text(call, small_spool):
    result = call("status")

    assert result.exit_code == 0
    assert "3 ready, 3 planned" in result.stdout
    assert "(sony, plan " in result.stdout
    assert "no producer and no trainer" in result.stdout or "no trainer" in result.stdout


def test_status_prints_json(call, small_spool):
    result = call("status", "--json")

    found = json.loads(result.stdout)
    assert found.keys() >= STATUS_KEYS
    assert (found["shards_ready"], found["shards_planned"], found["next_needed"]) == (3, 3, 0)
    assert 0 < found["disk_bytes"] < found["budget_bytes"]
    assert found["trainer"]["alive"] is False
    assert found["producers"][0]["state"] == "done"
    assert found["damaged"] == 0


def test_verify_accepts_an_intact_spool(call, small_spool):
    result = call("verify")

    assert result.exit_code == 0
    assert result.stdout == "3 shards and 9 frames checked, 0 damaged\n"


@pytest.mark.parametrize("place", [10, 2000, 60_000, 111_615])
def test_verify_names_the_shard_with_one_flipped_bit(call, small_spool, place):
    flip_byte(small_spool / "ready/00000001.tar", place)

    result = call("verify")

    assert result.exit_code == 1
    assert "damaged spool/ready/00000001.tar: " in result.stdout
    assert result.stdout.endswith("3 shards and 9 frames checked, 1 damaged\n")


def test_verify_names_a_damaged_frame_and_a_truncated_shard(call, small_spool):
    frame = next((small_spool / "frames").glob("long-*"))
    flip_byte(frame / "0.0.0", 100)
    os.truncate(small_spool / "ready/00000002.tar", 1000)

    result = call("verify")

    assert result.exit_code == 1
    assert f"damaged frame spool/frames/{frame.name}" in result.stdout
    assert "damaged spool/ready/00000002.tar: has 1000 bytes" in result.stdout
    assert result.stdout.endswith("2 damaged\n")


def test_stop_without_a_running_producer_reports_that(call, small_spool):
    result = call("stop")

    assert (result.exit_code, result.stdout) == (0, "no producer is running\n")


def test_a_background_producer_fills_the_budget_waits_and_is_stopped(
    call, start, complaint, small_data
):
    build = ("build", "--camera", "sony", "--root", small_data, *SMALL, *TIGHT)

    started = start(*build, "--background")

    assert "stop it with `darkprep stop`" in "".join(started.communicate(timeout=60))
    assert started.returncode == 0
    spool = Spool("spool").open()
    wait_until(lambda: json.loads(call("status", "--json").stdout)["producers"])
    pid = json.loads(call("status", "--json").stdout)["producers"][0]["pid"]
    assert is_running(pid)

    wait_until(lambda: "waiting for the trainer" in call("status").stdout)
    assert spool.disk_bytes() <= 5_000_000
    ready = spool.ready_shards()
    assert "a producer is already running" in complaint(*build, "--quiet")
    assert spool.has_producer()

    assert call("stop").stdout == f"stopped pid {pid}\n"
    wait_until(lambda: not is_running(pid))
    assert not spool.has_producer()
    assert check_shards(Path("spool")) == ready
    assert not list(spool.partial.iterdir())
    assert call("stop").stdout == "no producer is running\n"


def test_a_background_producer_that_cannot_work_is_reported_with_the_reason(
    start, small_data, small_spool
):
    (small_spool / "ready/00000001.tar").unlink()
    (small_spool / "frames").rename("elsewhere")
    (small_spool / "frames").write_text("in the way")

    started = start(
        "build", "--camera", "sony", "--root", small_data, "--background", "--quiet", *SMALL
    )

    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert said.startswith("darkprep: the background producer ended immediately: ")
    assert "/spool/frames: is not a directory, so nothing can be written there" in said
    assert len(said.splitlines()) == 1


def test_ctrl_c_ends_a_waiting_build_without_error(start, small_data):
    process = start("build", "--camera", "sony", "--root", small_data, *SMALL, *TIGHT)
    assert process.stderr is not None
    said = ""
    while "the disk budget is used up" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)

    output, rest = process.communicate(timeout=30)

    assert process.returncode == 0, rest
    assert "waiting for `darkprep stream-train --spool spool` to use shards" in said
    assert "stopped: " in output + rest
    assert "Traceback" not in said + rest
    assert check_shards(Path("spool"))
    assert not list(Path("spool/partial").iterdir())


def test_stop_does_not_signal_a_process_that_no_longer_produces(call, small_data):
    call("build", "--camera", "sony", "--root", small_data, "--quiet", *SMALL)

    assert call("stop").stdout == "no producer is running\n"


def test_a_watched_status_continues_until_ctrl_c(start, small_spool):
    process = start("status", "--watch", "--json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 0, said
    assert first["shards_ready"] == 3


def test_a_watched_status_in_a_pipe_ends_with_its_reader(start, small_spool):
    process = start("status", "--watch")
    assert process.stdout is not None
    first = process.stdout.readline()

    process.stdout.close()

    assert "3 shards ready" in first
    assert process.wait(timeout=30) == 141


def blank_pixels(path: Path) -> None:
    """Keep a file's header and size, and zero its pixels: only decoding shows that it is unusable."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size // 2))


@pytest.mark.parametrize("background", [False, True])
def test_a_build_whose_every_file_fails_names_them(call, start, small_data, background: bool):
    shutil.copytree(small_data, "data")
    for path in Path("data/Sony/long").iterdir():
        blank_pixels(path)

    build = ("build", "--camera", "sony", *SMALL)
    if background:
        start(*build, "--background").communicate()
        log = Path("spool/producers/log.txt")
        wait_until(lambda: log.exists() and "none of the plan's" in log.read_text())
        wait_until(lambda: not Spool(Path("spool")).has_producer())
        said = log.read_text()
    else:
        said = call(*build).stderr

    assert "none of the plan's 6 pairs can be used any more: " in said
    for scene in (1, 2, 3):
        assert f"Sony/long/0000{scene}_00_10s.dng: " in said


def test_files_that_were_skipped_are_reported_when_the_build_fails_later(
    call, small_data, monkeypatch
):
    shutil.copytree(small_data, "data")
    blank_pixels(Path("data/Sony/long/00001_00_10s.dng"))
    run = Producer.run

    def fail_in_the_end(producer: Producer) -> None:
        run(producer)
        raise MachineError("data", "Input/output error; check the disk")

    monkeypatch.setattr(Producer, "run", fail_in_the_end)

    result = call("build", "--camera", "sony", *SMALL)

    assert result.exit_code == 1
    assert "data/Sony/long/00001_00_10s.dng: " in result.stderr
    assert "\n1 file skipped\n" in result.stderr


def test_a_folder_of_another_cameras_files_says_what_was_found(complaint):
    for kind in ("short", "long"):
        for number in range(3):
            path = Path(f"data/Sony/{kind}/DSC_{number}.NEF")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"NEF")

    line = complaint("build", "--camera", "sony")

    assert "found 6 .nef; expected .arw or .dng" in line

"""A real small disk fills from outside: nothing half-written is seen, one line says where, work goes on or stops well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore
from darkprep.shards import DiskFull, ShardFile, Spool, SpoolReader, write_shard
from darkprep.shards.files import write_json
from darkprep.shards.plan_record import PlanRecord, ProducerSettings
from darkprep.trainer.checkpoint import read_checkpoint
from tests.support.builds import planned
from tests.support.processes import wait_until
from tests.support.sid_tree import write_sid
from tests.support.small_spools import fill, sample, stream
from tests.support.storm import leftovers

DISK_BYTES = 24 << 20
PRODUCE = (
    *(sys.executable, "-m", "darkprep", "produce", "--jobs", "1", "--disk-budget", "20MB"),
    *("--epochs-ahead", "inf"),
)


class Disk:
    """A file system of its own, that can be filled up and emptied again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill_up(self, leave: int = 0) -> None:
        """Take all free space but `leave` bytes, whatever others free meanwhile."""
        with self._ballast.open("ab") as file:
            while (free := self.free()) > leave:
                with contextlib.suppress(OSError):  # somebody else took some of it first
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free - leave)

    def free_up(self) -> None:
        self._ballast.unlink()

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    size = f"size={DISK_BYTES},uid={os.geteuid()}"
    done = subprocess.run(
        [*root, "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no small disk may be mounted here: {done.stderr.strip()}")
    yield Disk(folder)
    subprocess.run([*root, "umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def spool(disk: Disk, tmp_path: Path) -> Spool:
    return planned(disk.path / "spool", write_sid(tmp_path / "data"), epochs=None)


@pytest.fixture
def start(spool: Spool, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a producer; what it says goes to `said.txt`, on another disk."""
    started = []

    def run(*more: str) -> subprocess.Popen[str]:
        with (tmp_path / "said.txt").open("a") as said:
            command = [*PRODUCE, "--spool", str(spool.path), *more]
            started.append(subprocess.Popen(command, stdout=said, stderr=said, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def verify(spool: Spool) -> None:
    for shard in spool.ready_shards():
        opened = ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)
        opened.verify_all()
        opened.close()


def test_producers_wait_for_space_and_continue(
    disk: Disk, spool: Spool, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
):
    producer = start("--until", "40")
    wait_until(lambda: len(spool.ready_shards()) >= 2)
    disk.fill_up(leave=100_000)
    wait_until(lambda: "the disk is full" in (tmp_path / "said.txt").read_text())
    disk.fill_up()
    time.sleep(1.5)
    full = spool.ready_shards()

    assert producer.poll() is None
    assert not list(spool.partial.iterdir())
    assert len(full) < 40
    verify(spool)
    said = (tmp_path / "said.txt").read_text().splitlines()
    assert len(said) == 1
    assert str(spool.path) in said[0]
    assert "MB are needed" in said[0] or "more room is needed" in said[0]

    disk.free_up()
    assert producer.wait(90) == 0
    assert spool.ready_shards() == list(range(40))
    verify(spool)
    store = FrameStore(spool.frames)
    assert all(store.is_intact(name) for name in store.names())
    assert not list(leftovers(spool))


@pytest.mark.slow
def test_a_producer_that_starts_on_a_full_disk_waits_too(
    disk: Disk, spool: Spool, start: Callable[..., subprocess.Popen[str]]
):
    with spool.producer_lock():
        pass  # the lock's file is there from before
    disk.fill_up()
    producer = start("--until", "3")
    wait_until(lambda: spool.producer_process() is not None)
    time.sleep(1.0)
    assert producer.poll() is None
    assert not spool.ready_shards()

    disk.free_up()

    assert producer.wait(60) == 0
    assert spool.ready_shards() == [0, 1, 2]


@pytest.mark.slow
def test_a_producer_that_waits_for_space_can_be_stopped(
    disk: Disk, spool: Spool, start: Callable[..., subprocess.Popen[str]]
):
    producer = start("--until", "inf")
    wait_until(lambda: len(spool.ready_shards()) >= 2)
    disk.fill_up()
    time.sleep(0.5)

    producer.send_signal(signal.SIGTERM)

    assert producer.wait(30) == 0
    assert not list(spool.partial.iterdir())


def test_a_shard_that_does_not_fit_leaves_no_file_and_the_message_names_path_and_size(disk: Disk):
    spool = Spool(disk.path / "other")
    spool.create(
        PlanRecord(stream=stream(), recipe={"pairs": []}, settings=ProducerSettings(root="data"))
    )
    disk.fill_up(leave=4096)
    samples = [sample(0, index, spool.stream) for index in range(4)]

    with pytest.raises(DiskFull, match=rf"{spool.partial}: the disk is full, 0.1 MB are needed"):
        write_shard(
            spool.shard_path(0), spool.stream.layout(), 0, samples, plan="p", partial=spool.partial
        )

    assert not list(spool.partial.iterdir())
    assert not spool.ready_shards()


def test_a_frame_that_does_not_fit_leaves_no_file(disk: Disk):
    import numpy as np

    store = FrameStore(disk.path / "frames")
    store.create()
    disk.fill_up(leave=300_000)

    with pytest.raises(DiskFull, match=r"1\.1 MB are needed"):
        store.put(
            "long-1", np.zeros((3, 400, 430), np.uint16), FrameAttributes(kind="long", raw="a.dng")
        )

    assert store.names() == []
    assert not list(store.path.glob(".*.tmp"))
    assert disk.free() > 250_000


def test_a_state_file_that_does_not_fit_leaves_the_old_one(disk: Disk):
    path = disk.path / "state.json"
    write_json(path, {"state": "old"})
    disk.fill_up()

    with pytest.raises(DiskFull, match=r"the disk is full"):
        write_json(path, {"state": "new", "more": "x" * 10_000})

    assert json.loads(path.read_text()) == {"state": "old"}
    assert [entry.name for entry in disk.path.iterdir() if entry.name != "ballast"] == [
        "state.json"
    ]


def test_a_reader_continues_when_its_cursor_and_the_quarantine_log_cannot_be_written(disk: Disk):
    """Deleting is what frees the disk, so a trainer must never stop for want of it."""
    spool = Spool(disk.path / "other")
    spool.create(
        PlanRecord(stream=stream(), recipe={"pairs": []}, settings=ProducerSettings(root="data"))
    )
    fill(spool, range(6))
    with spool.trainer_lock():
        pass
    os.truncate(spool.shard_path(2), 5000)
    disk.fill_up()

    def make_again(shard: int, seconds: float) -> None:
        disk.free_up()
        fill(spool, [shard])
        disk.fill_up()

    with SpoolReader(spool, batch_size=2, shards=6, on_starving=make_again) as reader:
        keys = [meta.key for batch in reader for meta in batch.metas]

    assert len(set(keys)) == 24
    assert spool.ready_shards() == []


@pytest.mark.slow
def test_training_stops_at_a_checkpoint_that_does_not_fit_and_the_older_one_is_intact(
    disk: Disk, tmp_path: Path
):
    root = write_sid(tmp_path / "data", scenes=2, shorts=1, size=(208, 224))
    spool = planned(
        tmp_path / "spool",
        root,
        crop=192,
        margin=4,
        samples_per_shard=2,
        crops_per_visit=1,
        epochs=8,
    )
    subprocess.run(
        [*PRODUCE, "--spool", str(spool.path), "--until", str(Plan.load(spool).shards)], check=True
    )
    run = disk.path / "run"
    command = [sys.executable, "-m", "darkprep", "stream-train", "--spool", str(spool.path)]
    command += ["--run", str(run), "--model", "redirt-2rdb", "--batch-size", "1", "--quiet"]
    command += [
        "--iterations",
        "12",
        "--checkpoint-every",
        "2",
        "--producers",
        "0",
        "--device",
        "cpu",
    ]

    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as trainer:
        wait_until(lambda: list(run.glob("checkpoints/*.pt")), 120)
        disk.fill_up(leave=1 << 20)
        _, said = trainer.communicate(timeout=120)

    assert trainer.returncode == 1
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert f"{run}" in lines[0]
    assert "the disk is full" in lines[0]
    kept = sorted(run.glob("checkpoints/*"))
    assert kept
    for path in kept:
        assert path.suffix == ".pt"
        read_checkpoint(path)
    disk.free_up()
    newest = read_checkpoint(kept[-1]).progress.iteration
    ended = subprocess.run(
        [*command, "--resume"], stderr=subprocess.PIPE, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    # Shards that went after that checkpoint are missing, and nobody may make them: said in one line.
    assert newest in range(2, 12)
    assert ended.returncode in (0, 1), ended.stderr
    assert len(ended.stderr.splitlines()) <= 1

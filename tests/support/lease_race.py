"""Producers in processes of their own that race for the lease of one bucket, and a log of when each was at work."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import Cursor, DarkprepError, Spool
from darkprep.shards.plan_record import ProducerSettings
from darkprep.shards.remote import lease as lease_module, uploader as uploader_module
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.lease import Lease
from darkprep.shards.remote.object_store import ObjectStore
from darkprep.shards.remote.uploader import UPLOADS, Uploader
from darkprep.shards.remote.url import StoreUrl
from darkprep.shards.shard_file import verify_shard
from tests.support.builds import SMALL, InlinePool
from tests.support.processes import wait_until
from tests.support.s3_server import QUICK, Server
from tests.support.sid_tree import write_sid
from tests.support.weighing import scan

RENEWAL_S, EXPIRY_S = 0.2, 1.2
"""A fiftieth of the real times, and a holder stops 0.4 s before its lease expires."""
PATIENT_S = 120
_BLOCK = 4096


class LoggedLease(Lease):
    """Logs each moment at which the lease was found to be valid: the clock is read before the check."""

    log: int
    worker: int

    def check(self) -> None:
        now = time.monotonic()
        super().check()
        os.write(self.log, f"{now} {self.worker} {self._token}\n".encode())


def produce(
    path: Path, url: StoreUrl, worker: int, log: Path, environment: dict[str, str], machine: str
) -> None:
    """Produce whenever the lease can be had; `machine` stands for another host, where it is not empty."""
    os.environ.update(environment)
    uploader_module._MISSES = 4  # one job never leaves a longer gap
    if machine:
        lease_module.this_machine = lambda: machine
    spool = Spool(path).open()
    config = ProducerConfig(budget_bytes=spool.settings.budget_bytes or 0, jobs=1, until=None)
    while True:
        with contextlib.suppress(DarkprepError):
            bucket = Bucket(ObjectStore.open(url, retry=QUICK), str(url)).open()
            lease = LoggedLease(
                bucket.store, "producers/lease.json", "a producer", renewal_s=RENEWAL_S, expiry_s=EXPIRY_S
            )  # fmt: skip
            lease.worker, lease.log = worker, os.open(log, os.O_WRONLY | os.O_APPEND)
            destination = Uploader(spool, bucket, lease=lease, list_every_s=0.1)
            Producer(spool, config, InlinePool(), destination=destination).run()
        time.sleep(RENEWAL_S)


class Race:
    """Two producers, a trainer that uses and deletes what they make, and a scale."""

    def __init__(self, server: Server, url: StoreUrl, folder: Path, seed: int) -> None:
        self._server, self._url, self._folder = server, url, folder
        self._random = random.Random(seed)
        self._log = folder / "log"
        self._log.touch()
        plan = make_plan(write_sid(folder / "data"), PlanOptions(**SMALL | {"epochs": None}))
        self.budget_bytes = smallest_budget(plan, in_transit=UPLOADS)
        blocks = -(-plan.stream.layout().shard_bytes // _BLOCK)
        self.shards_bytes = (plan.options.window + 1 + UPLOADS) * blocks * _BLOCK
        """What the budget leaves for shards; it has no room for frames."""
        self.spools = [Spool(folder / f"producer{worker}") for worker in range(2)]
        for spool in self.spools:
            plan.save(spool, ProducerSettings(budget_bytes=self.budget_bytes))
        self.bucket = Bucket(ObjectStore.open(url, retry=QUICK), str(url))
        self.bucket.publish(self.spools[0].plan)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._processes: list[BaseProcess] = []
        self._done = threading.Event()
        self._failures: list[BaseException] = []
        self.used = 0
        """Shards that the trainer has used."""
        self.heaviest = 0
        """The most bytes of shards, in the bucket and in the directory of the producer at work together."""
        self.kills = self.stalls = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._processes = [self._start(worker) for worker in range(2)]
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._train, self._weigh)]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()
            for process in self._processes:
                process.kill()
                process.join()
        assert not self._failures, self._failures

    def disturb(self) -> None:
        """Kill or stall the producer at work, and wait until one makes shards again."""
        worker = self.at_work()
        process = self._processes[worker]
        assert process.pid is not None
        if self._random.random() < 0.5:
            self.kills += 1
            process.kill()
            process.join()
            self._processes[worker] = self._start(worker)
        else:
            self.stalls += 1
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(self._random.uniform(0.1, 2.5) * EXPIRY_S)
            os.kill(process.pid, signal.SIGCONT)
        self.wait_for_progress()

    def wait_for_progress(self) -> None:
        """Wait until a producer is at work and has made another shard."""
        self.at_work()
        used = self.used
        wait_until(lambda: self.used > used, PATIENT_S)

    def figures(self) -> str:
        """What happened, in one line."""
        return (
            f"{self.kills} kills, {self.stalls} stalls, {self.holders} holders, {self.used} shards used, "
            f"at most {self.heaviest:,} of {self.shards_bytes:,} bytes of shards"
        )

    def at_work(self) -> int:
        """Wait until a producer is at work; which one."""
        began = time.monotonic()
        wait_until(lambda: self._last()[0] > began, PATIENT_S)
        return self._last()[1]

    def overlaps(self) -> list[str]:
        """Holders that were at work before the one before them had stopped."""
        spans: dict[str, tuple[float, float]] = {}
        for line in self._log.read_text().splitlines():
            moment, _, token = line.split()
            first, last = spans.get(token, (float(moment), 0.0))
            spans[token] = min(first, float(moment)), max(last, float(moment))
        self.holders = len(spans)
        found, latest = [], 0.0
        for token, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
            if first <= latest:
                found.append(f"{token} from {first}, another until {latest}")
            latest = max(latest, last)
        return found

    def _last(self) -> tuple[float, int]:
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 200))
            lines = file.read().splitlines()
        if not lines:
            return 0.0, 0
        moment, worker, _ = lines[-1].split()
        return float(moment), int(worker)

    def _start(self, worker: int) -> BaseProcess:
        machine = self._random.choice(["", f"host {self._random.random()}"])
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        path = self.spools[worker].path
        process = self._context.Process(
            target=produce, args=(path, self._url, worker, self._log, environment, machine), daemon=True
        )  # fmt: skip
        process.start()
        return process

    def _guarded(self, work: object) -> None:
        assert callable(work)
        try:
            while not self._done.is_set():
                work()
        except BaseException as error:
            self._failures.append(error)

    def _train(self) -> None:
        layout, path = self.bucket.stream.layout(), self._folder / "shard.tar"
        if not self.bucket.download(self.used, path):
            time.sleep(0.02)
            return
        verify_shard(path, layout, self.used, self.bucket.digest)
        self.bucket.write_cursor(Cursor(rank=0, world=1, batch=0, shard=self.used + 1))
        self.bucket.delete(self.used)
        self.used += 1

    def _weigh(self) -> None:
        """Weigh what was there at one moment: what was seen before it and after it."""
        worker = self._last()[1]
        objects = self._shard_objects()
        files = self._shard_files(worker)
        files = {key: size for key, size in self._shard_files(worker).items() if key in files}
        objects = {key: size for key, size in self._shard_objects().items() if key in objects}
        if worker == self._last()[1]:
            weight = sum(files.values()) + sum(objects.values())
            self.heaviest = max(self.heaviest, weight)
        time.sleep(0.02)

    def _shard_objects(self) -> dict[str, int]:
        sizes = self._server.sizes(self._url)
        return {name: size for name, size in sizes.items() if name.startswith("ready/")}

    def _shard_files(self, worker: int) -> dict[tuple[int, int], int]:
        found = scan(self.spools[worker].path)
        return {key: size for key, (size, path) in found.items() if path.endswith(".tar")}

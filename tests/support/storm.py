"""A storm: producers, their workers and a consumer run on one spool and are killed and disturbed at random moments.

What came through the spool is compared with an undisturbed run. Everything runs as a user's would:
`python -m darkprep produce` with real workers, a consumer process that keeps its place, SIGKILL.
The trade-off: frames are small, so that the machine's time goes into deaths and not into pixels.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import divide_budget, smallest_budget
from darkprep.shards import ShardDamaged, ShardFile, Spool
from darkprep.shards.files import read_json
from darkprep.shards.process import start_ticks
from tests.support.consumer import consume
from tests.support.processes import is_running, workers_of
from tests.support.sid_tree import write_sid
from tests.support.weighing import Scale

FRAME = (232, 320)
BATCH_SIZE = 4
OPTIONS = {
    "camera": "sony", "crop": 96, "margin": 4, "samples_per_shard": 8, "crops_per_visit": 4, "window": 2,
    "epochs": None,
}  # fmt: skip
TARGETS = ("producer", "worker", "consumer")
ERRORS = ("EIO", "ESTALE", "ENOSPC", "EROFS", "EMFILE")
DISTURBANCES = (
    *TARGETS, *ERRORS, "SIGHUP", "SIGSTOP", "forked bystander", "deleted directory", "slow clock",
)  # fmt: skip
"""Kinds of faults: who is killed, and what else happens to the processes and their spool."""
_ONLY_WRITES = ("ENOSPC", "EROFS")
_ERROR_SHARE = (0.05, 0.6)
"""Share of the calls that fail while there is an error."""
_ERROR_S = (0.2, 1.5)
_STOPPED_S = (0.2, 1.5)
_BYSTANDER_S = 3.0
_CLOCK_OFF_S = "-900"
_MOST_REPEATED = 10
"""How often one line may stand in one process's log."""
_EARLY = 0.25
"""Share of the kills that come whether or not anything was done since the one before."""
_MOST_BATCHES = 20
_PATIENCE_S = 8.0
_LAST_BATCHES = 12
"""What must still come after the last kill."""
_STARVED_S = 60.0


@dataclass(kw_only=True)
class Outcome:
    """What a storm did and what came of it."""

    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    """Faults by kind, kills included."""
    starts: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    """Processes that ended with one line for a fault."""
    batches: int = 0
    shards_made: int = 0
    shards_needed: int = 0
    digest: str = ""
    undisturbed: str = ""
    budget_bytes: int = 0
    peak_bytes: int = 0
    payload_bytes: int = 0
    """What the budget leaves for shards and frames."""
    peak_payload_bytes: int = 0
    heaviest: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.digest == self.undisturbed
            and self.peak_bytes <= self.budget_bytes
            and self.peak_payload_bytes <= self.payload_bytes
            and not self.leftovers
            and not self.faults
        )


class Storm:
    """One storm of `kills` deaths in `folder`, or of `faults` deaths and disturbances; `targets` says which kinds."""

    def __init__(
        self,
        folder: Path,
        *,
        kills: int = 0,
        faults: int = 0,
        seed: int = 0,
        jobs: int = 2,
        pause_s: tuple[float, float] = (0.0, 0.8),
        pace_s: float = 0.02,
        targets: tuple[str, ...] | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder, self._kills, self._jobs = folder, faults or kills, jobs
        self._pause_s, self._pace_s = pause_s, pace_s
        self._targets = targets or (DISTURBANCES if faults else TARGETS)
        self._fault_file = folder / "fault.json"
        self._disturbed: set[int] = set()
        """Pids of processes that lived during an error or got SIGHUP, and may end with one line for it."""
        self._slow_clock: set[str] = set()
        self._random = random.Random(seed)
        self._report = report
        self._place = folder / "place.json"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._workers: set[tuple[int, int | None]] = set()
        """Pid and start time: pids of processes that ended are given to others."""
        self.outcome = Outcome()
        self._root = write_sid(folder / "data", scenes=3, shorts=2, size=FRAME)
        self.spool = self._planned("spool")
        self._choose_budget()

    def run(self) -> Outcome:
        """Let it rage, then compare with an undisturbed run."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.callback(self._end_all)
            scale = stack.enter_context(Scale(self.spool))
            self._rage()
            self._calm_down()
        outcome = self.outcome
        outcome.peak_bytes, outcome.peak_payload_bytes = scale.peak_bytes, scale.peak_payload_bytes
        outcome.heaviest = scale.heaviest
        outcome.shards_made = len(scale.shards_seen)
        self._look_for_leftovers()
        self._verify_shards()
        self._read_logs()
        self._run_undisturbed()
        outcome.seconds = time.monotonic() - began
        return outcome

    # -- before -----------------------------------------------------------------------------------

    def _planned(self, name: str) -> Spool:
        spool = Spool(self._folder / name)
        make_plan(self._root, PlanOptions(**OPTIONS)).save(spool)
        return spool

    def _choose_budget(self) -> None:
        """Room for the window, the workers, and about half of the frames."""
        plan = Plan.load(self.spool)
        whole = divide_budget(plan, 1 << 30, jobs=self._jobs)
        budget = (
            smallest_budget(plan) + (self._jobs + 1) * whole.shard_bytes + whole.frame_bytes // 2
        )
        shares = divide_budget(plan, budget, jobs=self._jobs)
        assert 0 < len(shares.frames) < shares.frames_in_plan
        self.outcome.budget_bytes = budget
        self.outcome.payload_bytes = shares.max_shards * shares.shard_bytes + shares.frame_bytes

    # -- the storm --------------------------------------------------------------------------------

    def _rage(self) -> None:
        while self._killed() < self._kills:
            target, due = self._random.choice(self._targets), self._next_moment()
            while not (self._is_due(due) and self._disturb(target)):
                self._keep_running()
                time.sleep(0.005)

    def _next_moment(self) -> tuple[float, int]:
        """When to kill next: at some second, mostly not before some more work was done."""
        batches = 0 if self._random.random() < _EARLY else self._random.randint(1, _MOST_BATCHES)
        return time.monotonic() + self._random.uniform(*self._pause_s), self._used() + batches

    def _is_due(self, moment: tuple[float, int]) -> bool:
        now = time.monotonic()
        return now > moment[0] + _PATIENCE_S or (now > moment[0] and self._used() >= moment[1])

    def _calm_down(self) -> None:
        """Let the consumer use some more batches in peace, then stop both as a user would."""
        wanted = self._used() + _LAST_BATCHES
        seen, since = self._used(), time.monotonic()
        while self._used() < wanted:
            self._keep_running()
            if self._used() > seen:
                seen, since = self._used(), time.monotonic()
            if time.monotonic() - since > _STARVED_S:
                self.outcome.faults.append(f"no batch came for {_STARVED_S:.0f} s")
                break
            time.sleep(0.02)
        for name in ("consumer", "producer"):
            process = self._running[name]
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                self.outcome.faults.append(f"{name} ended with {process.returncode}")

    def _keep_running(self) -> None:
        commands = {
            "producer": ["darkprep", "produce", "--spool", str(self.spool.path), "--until", "inf",
                         "--jobs", str(self._jobs), "--disk-budget", str(self.outcome.budget_bytes)],
            "consumer": ["tests.support.consumer", str(self.spool.path), str(self._place),
                         "--batch-size", str(BATCH_SIZE), "--pace", str(self._pace_s)],
        }  # fmt: skip
        for name, command in commands.items():
            process = self._running.get(name)
            if process and process.poll() is not None and process.returncode != -signal.SIGKILL:
                self._judge_end(name, process)
            if process is None or process.poll() is not None:
                self._running[name] = self._start(name, command)

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        self.outcome.starts[name] += 1
        injected = Path(__file__).parent / "injection"
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "DARKPREP_TEST_FAULT": str(self._fault_file),
            "PYTHONPATH": os.pathsep.join([str(injected), os.environ.get("PYTHONPATH", "")]),
        }
        if name in self._slow_clock:
            environment["DARKPREP_TEST_CLOCK"] = _CLOCK_OFF_S
        with (self._folder / f"{name}-{self.outcome.starts[name]}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def _judge_end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Note a process that ended by itself, unless a fault that it lived through explains it."""
        if process.pid not in self._disturbed:
            self.outcome.faults.append(f"{name} ended with {process.returncode} by itself")
        elif process.returncode not in (0, 1, -signal.SIGHUP):
            self.outcome.faults.append(f"{name} ended with {process.returncode} after a fault")
        elif process.returncode == 1 and not self._last_words(name):
            self.outcome.faults.append(f"{name} ended after a fault without a word")
        else:
            self.outcome.ended[name] += 1

    def _last_words(self, name: str) -> list[str]:
        """The lines in which a process reported its failure."""
        log = self._folder / f"{name}-{self.outcome.starts[name]}.log"
        lines = log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(("darkprep: ", "consumer: "))]

    # -- faults -----------------------------------------------------------------------------------

    def _disturb(self, kind: str) -> bool:
        """Do one fault; whether it could be done."""
        if kind in TARGETS:
            return self._kill(kind)
        disturb = {
            "SIGHUP": self._hang_up, "SIGSTOP": self._suspend, "forked bystander": self._fork_bystander,
            "deleted directory": self._delete_directory, "slow clock": self._set_clock_back,
        }.get(kind)  # fmt: skip
        if not (disturb() if disturb else self._inject(kind)):
            return False
        self.outcome.kills[kind] += 1
        self._report(f"{self._killed():4} faults, {self._used():6} batches used, {kind}")
        return True

    def _inject(self, kind: str) -> bool:
        """Let a share of all calls on spool, photographs and place fail for a while."""
        self._write_fault(
            number=getattr(errno, kind), seconds=self._random.uniform(*_ERROR_S),
            share=self._random.uniform(*_ERROR_SHARE), only_writes=kind in _ONLY_WRITES,
        )  # fmt: skip
        return True

    def _fork_bystander(self) -> bool:
        self._write_fault(number=None, seconds=_BYSTANDER_S, share=1.0, only_writes=False)
        return True

    def _write_fault(self, *, seconds: float, **fault: object) -> None:
        """Write the fault for the processes to read, and keep them running until it is over."""
        until = time.monotonic() + min(seconds, _ERROR_S[1])
        record = fault | {
            "until": until, "seconds": seconds, "scope": str(self._folder), "id": str(self._killed()),
        }  # fmt: skip
        temporary = self._fault_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(self._fault_file)
        while time.monotonic() < until:
            if fault["number"] is not None:
                self._disturbed |= {process.pid for process in self._running.values()}
            self._keep_running()
            time.sleep(0.01)
        if fault["number"] is not None:
            self._disturbed |= {process.pid for process in self._running.values()}
        self._fault_file.unlink()

    def _hang_up(self) -> bool:
        process = self._running.get(self._random.choice(("producer", "consumer")))
        if process is None or process.poll() is not None:
            return False
        self._disturbed.add(process.pid)
        process.send_signal(signal.SIGHUP)
        return True

    def _suspend(self) -> bool:
        pids = [process.pid for process in self._running.values()] + self._living_workers()
        if not pids:
            return False
        pid = self._random.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._random.uniform(*_STOPPED_S))
            os.kill(pid, signal.SIGCONT)
        return True

    def _delete_directory(self) -> bool:
        """Delete an empty directory of the spool, as tools that copy it do."""
        for name in self._random.sample(["damaged", "partial", "ready", "cursors", "producers"], 5):
            with contextlib.suppress(OSError):
                (self.spool.path / name).rmdir()
                return True
        return False

    def _set_clock_back(self) -> bool:
        """Kill a process; from its next start on its clock is 15 minutes slow, or right again."""
        name = self._random.choice(("producer", "consumer"))
        if name not in self._running:
            return False
        self._slow_clock ^= {name}
        self._running[name].kill()
        self._running[name].wait()
        return True

    def _kill(self, target: str) -> bool:
        """Kill one process of a kind; whether there was one."""
        pids = [self._running[target].pid] if target in self._running else self._living_workers()
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)
            self.outcome.kills[target] += 1
            self._report(
                f"{self._killed():4} kills, {self._used():6} batches used, killed a {target}"
            )
        if target in self._running:
            self._running[target].wait()
        return True

    def _living_workers(self) -> list[int]:
        pids = (
            list(workers_of(self._running["producer"].pid)) if "producer" in self._running else []
        )
        self._workers |= {(pid, start_ticks(pid)) for pid in pids}
        return pids

    def _killed(self) -> int:
        return sum(self.outcome.kills.values())

    def _used(self) -> int:
        return int((read_json(self._place) or {"batch": 0})["batch"])

    # -- afterwards -------------------------------------------------------------------------------

    def _look_for_leftovers(self) -> None:
        deadline = time.monotonic() + 5
        while alive := [
            pid for pid, began in self._workers if is_running(pid) and start_ticks(pid) == began
        ]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        outcome = self.outcome
        outcome.leftovers += [f"worker {pid} still runs" for pid in alive]
        outcome.leftovers += [str(path) for path in leftovers(self.spool)]

    def _verify_shards(self) -> None:
        layout, plan = self.spool.stream.layout(), self.spool.digest
        for shard in self.spool.ready_shards():
            try:
                opened = ShardFile(self.spool.shard_path(shard), layout, shard, plan)
                opened.verify_all()
                opened.close()
            except ShardDamaged as error:
                self.outcome.faults.append(str(error))
        self.outcome.faults += [f"refused: {record}" for record in self.spool.quarantine.records()]

    def _read_logs(self) -> None:
        """No traceback, and no line again and again."""
        for log in [*self._folder.glob("*.log"), *self.spool.producers.glob("*.txt")]:
            lines = Counter(log.read_text(errors="replace").splitlines())
            for line, count in lines.items():
                if count > _MOST_REPEATED:
                    self.outcome.faults.append(f"{log.name}: {count} times: {line}")
                if line.startswith("Traceback"):
                    self.outcome.faults.append(f"{log.name}: has a traceback")
        crashing = self.spool.producers / "crashing.json"
        if crashing.exists():
            self.outcome.faults.append(f"a file was blamed: {crashing.read_text()}")

    def _run_undisturbed(self) -> None:
        kept = read_json(self._place) or {"batch": 0, "digest": ""}
        outcome = self.outcome
        outcome.batches, outcome.digest = int(kept["batch"]), str(kept["digest"])
        samples = int(OPTIONS["samples_per_shard"])  # type: ignore[call-overload]
        outcome.shards_needed = -(-outcome.batches * BATCH_SIZE // samples)
        calm = self._planned("undisturbed")
        command = [
            "produce",
            "--spool",
            str(calm.path),
            "--until",
            "inf",
            "--jobs",
            str(self._jobs),
        ]
        command += ["--disk-budget", "1GB"]
        with subprocess.Popen([sys.executable, "-m", "darkprep", *command]) as producer:
            try:
                _, outcome.undisturbed = consume(
                    calm,
                    self._folder / "calm.json",
                    batch_size=BATCH_SIZE,
                    stop_after=outcome.batches,
                )
            finally:
                producer.terminate()
        shutil.rmtree(calm.path)

    def _end_all(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def leftovers(spool: Spool) -> Iterator[Path]:
    """What no living or dead process may leave behind in a spool at rest."""
    yield from spool.partial.iterdir()
    for path in spool.path.rglob("*"):
        if path.name.endswith((".tmp", ".partial")) or path.name.startswith("decoding-"):
            yield path

"""What the benchmarks share: the machine in a line, a process per case, rounds in turn, medians, tables.

The trade-off: every case lives in a process of its own, so that imports, memory and caches of one do
not show in another's figures. Starting them takes seconds, which are in no figure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MB = 1e6
_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.05
_MARK = "DARKPREP_BENCH_STATION"
"""Environment variable that all processes of a case inherit, those that it leaves in the background too."""
_PACKAGES = ("numpy", "torch", "rawpy", "zarr")

Figures = dict[str, float]
Measure = Callable[..., Figures]
"""Measures once and returns its figures; a case's setup returns one."""


# -- the command line ---------------------------------------------------------------------------------


def parser(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    made.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    made.add_argument("--json", type=Path, metavar="PATH", help="write the figures here")
    made.add_argument("--rounds", type=int, default=rounds, help="how often every case is measured")
    made.add_argument(
        "--dir", type=Path, help="where files go meanwhile; the temporary folder else"
    )
    return made


@contextlib.contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, also when the benchmark is ended by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="darkprep-bench-", dir=folder) as name:
        yield Path(name)


def has(package: str) -> bool:
    """Whether a package is there; where it is not, the cases that need it are left out with a line."""
    if importlib.util.find_spec(package):
        return True
    print(
        f"skipped: {package} is not installed (pip install -c constraints-bench.txt '.[bench]')\n"
    )
    return False


# -- the machine --------------------------------------------------------------------------------------


def machine(*packages: str) -> dict[str, Any]:
    """The machine, the versions, and how busy it is now."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in (*_PACKAGES, *packages)
            if _is_installed(name)
        },
        "load": [round(one, 1) for one in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
    }


def machine_lines(record: dict[str, Any]) -> str:
    """The machine for people."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{record['cpu']}, {record['cores']} cores, {record['memory_gib']} GiB, "
        f"Linux {record['kernel']}, Python {record['python']}, {versions}; {record['date']}; "
        f"load average at the start {' '.join(str(one) for one in record['load'])}"
    )


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _is_installed(name: str) -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version(name))
    return False


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# -- what a process takes -----------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and its descendants that live."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += family(int(child))
    return found


def cpu_seconds(pid: int | None = None) -> float:
    """User and system time of a process, of its descendants that live, and of those it has reaped."""
    total = 0
    for one in family(pid or os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def memory_bytes(pid: int | None = None) -> int:
    """Memory of a process and its descendants that is theirs: anonymous and shared, not page cache."""
    total = 0
    for one in family(pid or os.getpid()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total


@dataclass
class Peak:
    """The largest value that a function returned while it was watched."""

    value: float = 0.0
    samples: int = 0


@contextlib.contextmanager
def watched(look: Callable[[], float], every_s: float = _SAMPLE_S) -> Iterator[Peak]:
    """Calls `look` again and again in a thread until the block ends."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while True:
            with contextlib.suppress(OSError):
                peak.value = max(peak.value, look())
                peak.samples += 1
            if over.wait(every_s):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


# -- a process per case -------------------------------------------------------------------------------


class Station:
    """One case in processes of its own: `setup(*arguments)` is called there and returns what measures.

    Setup and measure must be importable from the script, for the process is spawned. Between two measurements
    all processes of the case are suspended, so that filling its buffers takes nothing from the other cases.
    """

    def __init__(self, name: str, setup: Callable[..., Measure], *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup, arguments))
        os.environ[_MARK] = self._mark = f"{os.getpid()}-{id(self)}"
        try:
            self._process.start()
        finally:
            del os.environ[_MARK]
        theirs.close()
        self._answer()
        self._base_bytes = memory_bytes(self._process.pid)

    def measure(self, **how: Any) -> Figures:
        """Measure once; `peak_mb` is the memory of the process and its workers beyond setup's."""
        self._signal(signal.SIGCONT)
        with watched(lambda: memory_bytes(self._process.pid)) as peak:
            self._pipe.send(how)
            figures: Figures = self._answer()
        self._signal(signal.SIGSTOP)
        figures.setdefault("peak_mb", max(0.0, peak.value - self._base_bytes) / MB)
        return figures

    def close(self) -> None:
        """End the processes of the case."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(20)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes with the mark of this case."""
        mark = f"{_MARK}={self._mark}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), number)

    def _answer(self) -> Any:
        try:
            error, answer = self._pipe.recv()
        except EOFError:
            error, answer = f"its process ended with {self._process.exitcode}", None
        if error:
            self.close()
            raise RuntimeError(f"{self.name}: {error}")
        return answer


def _serve(pipe: Connection, setup: Callable[..., Measure], arguments: tuple[Any, ...]) -> None:
    try:
        measure = setup(*arguments)
        pipe.send((None, None))
        while (how := pipe.recv()) is not None:
            pipe.send((None, measure(**how)))
    except EOFError:
        pass
    except BaseException:  # noqa: BLE001 # the parent shows it
        with contextlib.suppress(OSError):
            pipe.send((traceback.format_exc(), None))
    finally:
        # Loaders leave threads and workers behind that would keep the process.
        os._exit(0)


def in_turn(stations: Sequence[Station], rounds: int, **how: Any) -> dict[str, list[Figures]]:
    """Measure all stations in each round, in an order that rotates."""
    found: dict[str, list[Figures]] = {station.name: [] for station in stations}
    for turn in range(rounds):
        first = turn % max(1, len(stations))
        for station in (*stations[first:], *stations[:first]):
            found[station.name].append(station.measure(**how))
    return found


# -- figures ------------------------------------------------------------------------------------------


def median(rounds: Sequence[Figures], name: str) -> float:
    """The median of one figure."""
    return statistics.median(one[name] for one in rounds)


def spread(rounds: Sequence[Figures], name: str, digits: int = 0) -> str:
    """`median (least-most)` of one figure."""
    values = [one[name] for one in rounds]
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def report(record: dict[str, Any], path: Path | None) -> None:
    """Write the figures as JSON where asked to."""
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nfigures in {path}")

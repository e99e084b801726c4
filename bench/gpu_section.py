"""What all sections of the GPU benchmarks share: options, the device and its clock, time limits, tables, JSON.

A section is a script of its own, which `gpu_run.py` starts. It writes its figures after each table, and a
row that fails is printed with the end of its traceback while the other rows still run. The trade-off: with
`--cpu` the same code runs on tiny inputs, so that errors show without a GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import harness
import torch

Row = dict[str, Any]
Clock = Callable[[Callable[[], Any]], float]
"""Runs a function and returns the milliseconds that the device took."""

PRECISIONS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Precision of the arithmetic and dtype of the tensors; tf32 is fp32 with TF32 convolutions and products."""

_TRACEBACK_LINES = 8


class Section:
    """One section: its options, its device, and what it has measured so far."""

    def __init__(self, doc: str | None) -> None:
        options = _arguments(doc)
        self.cpu: bool = options.cpu
        self.directory: Path = options.dir
        """Files that the sections share go here; see photographs_in."""
        self.cores: int = options.cores
        self.device = torch.device("cpu" if options.cpu else "cuda")
        self.precisions = ("fp32",) if options.cpu else tuple(PRECISIONS)
        self.profiled = ("fp32",) if options.cpu else ("tf32", "bf16")
        """Precisions whose kernels are listed."""
        self._json: Path = options.json
        self._ends_at = time.monotonic() + options.seconds
        self._tables: dict[str, list[Row]] = {}
        self._failures: list[str] = []
        self._shown: set[str] = set()
        # The runner ends a section that takes too long; an exception lets `finally` blocks stop producers.
        signal.signal(signal.SIGTERM, self._end_at_once)

    def remaining_s(self) -> float:
        """Return the seconds that are left."""
        return self._ends_at - time.monotonic()

    def has_time(self, what: str, seconds: float) -> bool:
        """Return whether `seconds` are left; print that `what` is left out where they are not."""
        if self.cpu or self.remaining_s() >= seconds:
            return True
        print(f"left out for lack of time: {what}", flush=True)
        return False

    def earlier(self, section: str, title: str, **wanted: object) -> Row | None:
        """Return the row of an earlier section's table that has these values; None if there is none."""
        try:
            tables = json.loads((self._json.parent / f"{section}.json").read_text())["tables"]
        except OSError:
            return None
        rows: list[Row] = tables.get(title, [])
        return next((row for row in rows if wanted.items() <= row.items()), None)

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Print the end of the traceback of an exception in the block, count it, and continue."""
        try:
            yield
        except Exception:  # noqa: BLE001 # whatever failed, the other rows are worth measuring
            lines = traceback.format_exc().rstrip().splitlines()
            print(f"FAILED: {what}", *lines[-_TRACEBACK_LINES:], sep="\n    ", flush=True)
            self._failures.append(what)

    def save(self, title: str, rows: list[Row]) -> None:
        """Write a table, with all others, to the section's JSON file; it is printed at the end."""
        self._tables[title] = rows
        self._write()

    def show(self, title: str, rows: list[Row]) -> None:
        """Write a table and print it now."""
        self.save(title, rows)
        self._shown.add(title)
        if rows:
            columns = list(dict.fromkeys(column for row in rows for column in row))
            cells = [[_text(row.get(column)) for column in columns] for row in rows]
            print(f"\n{title}\n\n{harness.table(columns, cells)}", flush=True)

    def finish(self) -> NoReturn:
        """Print what was saved only, and end the process with status 1 if anything failed."""
        self._show_saved()
        self._write()
        raise SystemExit(1 if self._failures else 0)

    def _show_saved(self) -> None:
        for title, rows in list(self._tables.items()):
            if title not in self._shown:
                self.show(title, rows)

    def _write(self) -> None:
        record = {"tables": self._tables, "failures": self._failures}
        self._json.write_text(json.dumps(record, indent=1) + "\n")

    def _end_at_once(self, *_: object) -> NoReturn:
        self._show_saved()
        sys.exit("ended by its time limit")


def _arguments(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--dir", type=Path, required=True, help="where files go meanwhile")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for this section")
    parser.add_argument("--cores", type=int, default=harness.cpu_count(), help="producer processes")
    return parser.parse_args()


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


# -- the device ---------------------------------------------------------------------------------------


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the time of one call: by CUDA events, from an idle device; on a CPU by the clock."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def interleaved(
    runs: Mapping[str, Callable[[], Any]], device: torch.device, *, seconds: float = 1.0
) -> dict[str, float]:
    """Return the median milliseconds of each run over rounds in which all take turns.

    There are 3 to 50 rounds after one that does not count, as many as fit into `seconds`.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        milliseconds(run, device)
    began, rounds = time.monotonic(), 0
    while rounds < 3 or (rounds < 50 and time.monotonic() - began < seconds):
        for name, run in runs.items():
            found[name].append(milliseconds(run, device))
        rounds += 1
        if device.type != "cuda":
            break
    return {name: statistics.median(values) for name, values in found.items()}


def set_precision(name: str) -> None:
    """Allow TF32 in convolutions and products, except for `fp32`."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "fp32"


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Fill the dictionary's "peak MiB" with the most memory that the block allocated beyond what was in use.

    On a CPU it stays empty.
    """
    found: dict[str, float] = {}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    yield found
    if device.type == "cuda":
        torch.cuda.synchronize()
        found["peak MiB"] = (torch.cuda.max_memory_allocated() - before) / 2**20


def longest_kernels(
    run: Callable[[], Any], device: torch.device, *, most: int = 8
) -> list[tuple[str, int, float]]:
    """Return name, calls and milliseconds of the kernels (on a CPU: operators) that take longest in a call."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    calls: dict[str, list[float]] = {}
    for event in profiler.events() or []:
        if event.device_type == kind:
            calls.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1e3)
    ordered = sorted(calls.items(), key=lambda item: -sum(item[1]))
    return [(name, len(each), sum(each)) for name, each in ordered[:most]]


def kernel_rows(label: str, run: Callable[[], Any], device: torch.device) -> list[Row]:
    """Return table rows of the longest kernels of one call, with shortened names."""
    return [
        {"call": label, "ms": ms, "count": count, "kernel": name[:110].replace("|", "/")}
        for name, count, ms in longest_kernels(run, device)
    ]

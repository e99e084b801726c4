"""Runs the sections of the GPU benchmarks, each in a process with a time limit, and collects their figures.

    bash bench/gpu.sh DIR                 all sections in at most eight minutes; tables go to stdout
    bash bench/gpu.sh DIR --only steps    named sections
    bash bench/gpu.sh DIR --cpu           tiny sizes without a GPU; a section that is left out counts as failed

DIR receives gpu.json, written again after each section, and gpu.txt, what was printed. The trade-off: a
process per section takes seconds to import torch, but a section that fails or hangs cannot take the others
with it. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import harness

HERE = Path(__file__).resolve().parent
SECTIONS = {
    "tests": 60,
    "inference": 45,
    "steps": 35,
    "training": 85,
    "restore": 50,
    "sweep": 55,
    "rivals": 80,
    "transfers": 20,
    "nccl": 50,
    "compile": 150,
}
"""Name and longest time in seconds, most valuable first. All but `tests` are scripts gpu_NAME.py."""
GPU_TESTS = ("tests/model", "tests/trainer")
_GRACE_S = 10.0
_LEAST_S = 15.0
"""Left for a section, or it is not started."""
_ERROR_LINES = 15


@dataclass
class Output:
    """Prints, and keeps what was printed in a file."""

    file: IO[str]

    def write(self, text: str) -> None:
        """Print a line or several."""
        print(text, flush=True)
        self.file.write(text + "\n")
        self.file.flush()


def main() -> None:
    """Run the sections; exit with 1 if any failed, or if the dry run had no time for any."""
    options = arguments()
    options.directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    record: dict[str, Any] = {"machine": harness.machine("triton"), "gpu": gpu_name()}
    record["sections"] = {}
    with (
        tempfile.TemporaryDirectory(prefix="darkprep-gpu-") as place,
        (options.directory / "gpu.txt").open("w", encoding="utf-8") as file,
    ):
        output = Output(file)
        output.write(f"{record['gpu']}\n{harness.machine_lines(record['machine'])}")
        for name in options.only:
            left = options.seconds - (time.monotonic() - began)
            record["sections"][name] = run(name, Path(place), options, left, output)
            path = options.directory / "gpu.json"
            path.write_text(json.dumps(record, indent=1) + "\n")
        summary(record["sections"], time.monotonic() - began, output)
    fine = {"ok"} if options.cpu else {"ok", "left out"}
    raise SystemExit(any(one["ended"] not in fine for one in record["sections"].values()))


def arguments() -> argparse.Namespace:
    """Return the options; `directory` falls back to the variable OUT."""
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh",
        description=(__doc__ or "").split("\n")[0],
        epilog=f"Sections: {', '.join(SECTIONS)}.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        nargs="?",
        default=Path(os.environ.get("OUT") or "gpu-results"),
        help="where gpu.json and gpu.txt go; the variable OUT, or gpu-results, else",
    )
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--seconds", type=float, default=450.0, help="time for all sections")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run, with commas")
    parser.add_argument("--cores", type=int, default=harness.cpu_count(), help="producer processes")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"unknown sections: {', '.join(sorted(unknown))}")
    return options


def run(
    name: str, place: Path, options: argparse.Namespace, left_s: float, output: Output
) -> dict[str, Any]:
    """Run one section and return its figures, how long it took, and how it ended."""
    if left_s < _LEAST_S:
        output.write(f"\n== {name}: left out, {max(0, left_s):.0f} s of {options.seconds:.0f} left")
        return {"ended": "left out", "seconds": 0.0}
    limit = min(float(SECTIONS[name]), left_s - _GRACE_S / 2) if not options.cpu else left_s
    output.write(f"\n== {name}, at most {limit:.0f} s")
    json_path, errors_path = place / f"{name}.json", place / f"{name}.errors"
    began = time.monotonic()
    with errors_path.open("w+", encoding="utf-8", errors="replace") as errors:
        ended = supervise(command(name, place, json_path, limit, options), limit, errors, output)
        if ended != "ok":
            errors.seek(0)
            lines = errors.read().splitlines()[-_ERROR_LINES:]
            output.write("\n".join([f"FAILED: {name} {ended}", *lines]))
    seconds = time.monotonic() - began
    output.write(f"== {name}: {ended}, {seconds:.0f} s")
    figures: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        figures = json.loads(json_path.read_text())
    return {"ended": ended, "seconds": round(seconds, 1), **figures}


def command(
    name: str, place: Path, json_path: Path, limit: float, options: argparse.Namespace
) -> list[str]:
    """Return what runs a section."""
    if name == "tests":
        # Another version of a library may warn where the pinned ones do not.
        tests = ["-m", "pytest", "-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider"]
        tests += ["--disable-warnings", "--continue-on-collection-errors", "--tb=short"]
        return [sys.executable, *tests, *(["--collect-only"] if options.cpu else []), *GPU_TESTS]
    line = [sys.executable, str(HERE / f"gpu_{name}.py"), "--json", str(json_path)]
    line += ["--dir", str(place), "--seconds", f"{limit - 5:.0f}", "--cores", str(options.cores)]
    return line + (["--cpu"] if options.cpu else [])


def supervise(line: list[str], limit: float, errors: IO[str], output: Output) -> str:
    """Run a command, forwarding what it prints, and return "ok" or how it failed."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"} | os.environ
    # Plugins that happen to be installed may not fit the tests' version of pytest.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    process = subprocess.Popen(
        line,
        cwd=HERE.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        errors="replace",
    )
    forward = threading.Thread(target=forward_lines, args=(process.stdout, output), daemon=True)
    forward.start()
    try:
        status = process.wait(limit)
        ended = "ok" if status == 0 else f"ended with {status}"
    except subprocess.TimeoutExpired:
        ended = f"was ended by its limit of {limit:.0f} s"
    finally:
        end(process)
    forward.join(_GRACE_S)
    return ended


def forward_lines(stream: IO[str], output: Output) -> None:
    """Print what a section prints."""
    with stream:
        for line in stream:
            output.write(line.rstrip("\n"))


def end(process: subprocess.Popen[str]) -> None:
    """End a section that still runs, and then whatever it has started."""
    started = harness.family(process.pid) if process.poll() is None else []
    if started:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gpu_name() -> str:
    """Return name, driver and memory of the GPU by nvidia-smi, or that there is none."""
    query = "--query-gpu=name,driver_version,memory.total,power.limit"
    if not shutil.which("nvidia-smi"):
        return "no GPU (nvidia-smi is not installed)"
    done = subprocess.run(
        ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return (done.stdout or done.stderr).strip()


def summary(sections: dict[str, dict[str, Any]], seconds: float, output: Output) -> None:
    """Print how each section ended."""
    output.write(f"\n{seconds:.0f} s in all")
    for name, one in sections.items():
        rows = f"; rows that failed: {', '.join(one['failures'])}" if one.get("failures") else ""
        output.write(f"{name}: {one['ended']}, {one['seconds']:.0f} s{rows}")


if __name__ == "__main__":
    main()

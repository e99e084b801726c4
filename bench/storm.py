"""The long storm: kills and disturbs producers, workers and a consumer at random moments, and compares with calm.

The trade-off: small frames and shards, so that the machine's time goes into deaths. Every number that
is printed was counted in this run; exit status 1 if any promise was broken.

    python -m bench.storm                    120 kills, some minutes
    python -m bench.storm --kills 1000 --seed 3 --json storm.json
    python -m bench.storm --faults 300 --seed 1     kills, errors of the disk, signals, forks, directories, clocks
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.support.storm import Outcome, Storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="SIGKILL only")
    parser.add_argument("--faults", type=int, default=0, help="kills and all other kinds of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where it happens; a temporary one by default")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        storm = Storm(
            given.folder or Path(folder),
            kills=given.kills,
            faults=given.faults,
            seed=given.seed,
            jobs=given.jobs,
            report=_report,
        )
        outcome = storm.run()
    sys.stderr.write("\n")
    for name, value in _figures(outcome).items():
        print(f"{name:22} {value}")
    for line in outcome.leftovers + outcome.faults:
        print(f"broken: {line}")
    if given.json:
        given.json.write_text(json.dumps(_record(outcome, given.seed), indent=1) + "\n")
    sys.exit(0 if outcome.is_good else 1)


def _report(line: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"{line:60}{end}")


def _figures(outcome: Outcome) -> dict[str, str]:
    kills = ", ".join(f"{count} {name}" for name, count in sorted(outcome.kills.items()))
    ended = ", ".join(f"{count} {name}" for name, count in sorted(outcome.ended.items()))
    starts = ", ".join(f"{count} {name}s" for name, count in sorted(outcome.starts.items()))
    return {
        "kills and faults": f"{sum(outcome.kills.values())} ({kills})",
        "ended with one line": f"{sum(outcome.ended.values())} ({ended})",
        "starts": f"{sum(outcome.starts.values())} ({starts})",
        "batches used": f"{outcome.batches}",
        "shards made": f"{outcome.shards_made} for {outcome.shards_needed} needed",
        "stream hash equal": "yes" if outcome.digest == outcome.undisturbed else "NO",
        "peak / budget": f"{outcome.peak_bytes:,} / {outcome.budget_bytes:,} bytes",
        "shards and frames": f"{outcome.peak_payload_bytes:,} / {outcome.payload_bytes:,} bytes",
        "leftovers": f"{len(outcome.leftovers)}",
        "broken promises": f"{len(outcome.faults)}",
        "seconds": f"{outcome.seconds:.0f}",
    }


def _record(outcome: Outcome, seed: int) -> dict[str, object]:
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    return {"seed": seed, "machine": machine, "good": outcome.is_good} | vars(outcome)


if __name__ == "__main__":
    main()

"""Fuzz one target by coverage: `python -m fuzz.run shard -runs=100000` (needs atheris, Python up to 3.13).

The rest of the command line is libFuzzer's: -runs=N, -max_total_time=S, -max_len=N, a corpus folder.
Whatever a target raises is a bug and stops the run with the input that raised it; a part of the target that
accepts none of its inputs stops it too. RAW files, whose decoder is C++, have a driver of their own: fuzz.raw.
"""

from __future__ import annotations

import importlib
import sys

from fuzz.tally import Tally

TARGETS = ("shard", "state", "frame")
_REPORT_EVERY = 10_000
"""Inputs between two tables of counts; libFuzzer ends the process itself, so there is none at the end."""
_PACKAGES = [
    "darkprep.shards",
    "darkprep.pipeline.plan.plan",
    "darkprep.pipeline.produce.frame_store",
    "darkprep.pipeline.produce.quarantine",
    "darkprep.view",
]


def main() -> None:
    """Fuzz the target that the command line names."""
    import atheris  # here, for the tests run the targets without it

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz.run {'|'.join(TARGETS)} [libFuzzer options]")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=_PACKAGES):
        target = importlib.import_module(f"fuzz.{name}")
    tally = Tally(target.PARTS)

    def try_and_count(data: bytes) -> None:
        tally.add(*target.try_input(data))
        if tally.tried.total() % _REPORT_EVERY == 0:
            sys.stdout.write("\n".join(["", *tally.lines(), ""]))
            sys.stdout.flush()

    atheris.Setup(sys.argv, try_and_count)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

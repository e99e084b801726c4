"""Drives a target by coverage: `python -m fuzz.run shard -max_total_time=600` (needs atheris, Python up to 3.13).

The rest of the command line is libFuzzer's: -runs=N, -max_total_time=S, -max_len=N, a corpus folder.
Anything that a target raises is a bug and stops the run with the input that did it. RAW files, whose
decoder is C++, have a driver of their own: fuzz.raw.
"""

from __future__ import annotations

import importlib
import sys

TARGETS = ("shard", "state", "frame")
_PACKAGES = [
    "darkprep.shards",
    "darkprep.pipeline.plan.plan",
    "darkprep.pipeline.produce.frame_store",
    "darkprep.pipeline.produce.quarantine",
    "darkprep.view.status",
]


def main() -> None:
    """Fuzz the target that the command line names."""
    import atheris  # here, for the tests run the targets without it

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m fuzz.run {'|'.join(TARGETS)} [libFuzzer options]")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=_PACKAGES):
        target = importlib.import_module(f"fuzz.{name}")
    atheris.Setup(sys.argv, target.try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

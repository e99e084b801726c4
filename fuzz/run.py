"""Fuzz one target by coverage: `python -m fuzz.run shard -runs=100000` (needs atheris, Python up to 3.13).

The rest of the command line is libFuzzer's: -runs=N, -max_total_time=S, -max_len=N, a corpus folder.
Whatever a target raises is a bug and stops the run with the input that raised it; a part of the target that
accepts none of its inputs stops it too. RAW files, whose decoder is C++, have a driver of their own: fuzz.raw.
"""

from __future__ import annotations

import importlib
import logging
import sys

from fuzz.tally import Tally

TARGETS = (
    *("shard", "state", "frame", "checkpoint", "weights"),
    *("calibration", "pairs", "patches", "headers"),
)
_REPORT_EVERY = 10_000
"""Inputs between two tables of counts; libFuzzer ends the process itself, so there is none at the end."""
_PACKAGES = [
    "darkprep.shards",
    "darkprep.pipeline.plan.plan",
    "darkprep.pipeline.produce.frame_store",
    "darkprep.pipeline.produce.quarantine",
    "darkprep.view",
    "darkprep.pipeline.noise.camera_calibration",
    "darkprep.pipeline.noise.iso_table",
    "darkprep.pipeline.pairs",
    "darkprep.pipeline.raw.exif",
    "darkprep.pipeline.raw.image_data",
    "darkprep.pipeline.raw.photo_metadata",
    "darkprep.pipeline.raw.tiff",
    "darkprep.pipeline.raw.as_shot",
    "darkprep.trainer.checkpoint",
    "darkprep.model.torch_file",
    "darkprep.model.weights",
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
    logging.disable(logging.WARNING)

    def try_and_count(data: bytes) -> None:
        tally.add(*target.try_input(data))
        if tally.tried.total() % _REPORT_EVERY == 0:
            sys.stdout.write("\n".join(["", *tally.lines(), ""]))
            sys.stdout.flush()

    atheris.Setup(sys.argv, try_and_count)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

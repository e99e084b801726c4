"""RAW files of any bytes: `python -m fuzz.raw --seconds 600` (LibRaw is C++, so each is tried in a process that may die).

A file may only give a frame or a RawError. A death of the process or a file that takes too long is no
breach, for production survives both (pipeline/produce/quarantine.py), but is counted and its file kept. The
trade-off: no coverage guides it, as LibRaw is not built for that; most edits go to the headers instead, and
few files are X-Trans, whose development takes thirty times as long as that of a small Bayer file.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.pipeline.raw.guard import GuardedReader
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import MachineError, RawError
from fuzz.memory import memory

_HEADER_BYTES = 1500
"""Where the directories of such a file lie."""
_SECONDS = 30.0
_MEMORY_BYTES = 6 << 30
_SIZES = {"bayer": (48, 64), "xtrans": (520, 516)}
_XTRANS_SHARE = 0.02
_REPORT_EVERY = 10_000
"""Files between two tables of counts."""
_OUTCOMES = ("decoded", "refused", "refused for memory")
"""What may come of a file."""
_ODD = (
    b"\xff",
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\x01",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x01\x00",
)


def main() -> None:
    """Try files until the time or their number is over; exit status 1 if one broke a promise or none decoded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--files", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(), help="where to keep what was found")
    given = parser.parse_args()
    found = fuzz(given.seconds, given.seed, given.keep, most=given.files)
    _report(found)
    broken = any(name.startswith("BROKEN") for name in found)
    sys.exit(1 if broken or not found["decoded"] else 0)


def fuzz(seconds: float, seed: int, keep: Path, *, most: int = sys.maxsize) -> Counter[str]:
    """Try files for `seconds`, at most `most`; return how many had which outcome."""
    found: Counter[str] = Counter()
    number, until = seed << 32, time.monotonic() + seconds
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory()) as folder,
        GuardedReader(_try_in_bounds, seconds=_SECONDS) as reader,
    ):
        path = Path(folder) / "frame.dng"
        while time.monotonic() < until and found["files"] < most:
            path.write_bytes(mutated(number))
            try:
                outcome = reader(path)
            except (RawError, MachineError) as error:
                outcome = f"killer: {error.reason}"
            found[outcome] += 1
            found["files"] += 1
            if outcome not in _OUTCOMES:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{outcome.split(':')[0]}-{number}.dng").write_bytes(path.read_bytes())
            if found["files"] % _REPORT_EVERY == 0:
                _report(found)
            number += 1
    return found


def _report(found: Counter[str]) -> None:
    lines = [f"{name:40} {count}\n" for name, count in sorted(found.items())]
    sys.stdout.write("".join([*lines, "\n"]))
    sys.stdout.flush()


def _try_in_bounds(path: Path) -> str:
    _bound_process()
    return try_file(path)


@functools.cache
def _bound_process() -> None:
    """Bound the memory of this process, and discard what LibRaw prints: it says there what it also refuses."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def try_file(path: Path) -> str:
    """Return what came of one file: `decoded`, `refused`, or BROKEN with the exception that is no RawError."""
    outcome = "decoded"
    for step in (read_header, read_raw, develop):
        try:
            step(path)
        except RawError as error:
            if str(path) not in str(error) or "\n" in str(error):
                return "BROKEN: message"
            outcome = "refused"
            if step is read_raw:
                break  # developing it begins with the same reading
        except MemoryError:
            outcome = "refused for memory"
        except Exception as error:  # noqa: BLE001 # that is what is sought
            return f"BROKEN: {step.__name__} raises {type(error).__name__}"
    return outcome


def mutated(number: int) -> bytes:
    """File number `number`: a good one, edited mostly in its headers, sometimes cut or zeroed."""
    rng = random.Random(number)  # noqa: S311 # no secret
    data = bytearray(_good("xtrans" if rng.random() < _XTRANS_SHARE else "bayer"))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        reach = _HEADER_BYTES if rng.random() < 0.8 else len(data)
        at = rng.randrange(min(reach, len(data)))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind in (1, 2):
            data[at : at + 4] = rng.choice(_ODD)
        elif kind == 3:
            data[at : at + 4] = rng.randbytes(4)
        elif kind == 4 and rng.random() < 0.2:
            data = data[: rng.randrange(1, len(data))]
        elif kind == 5 and rng.random() < 0.2:
            count = rng.randrange(1, len(data) - at + 1)
            data[at : at + count] = bytes(count)
    return bytes(data)


@functools.cache
def _good(kind: str) -> bytes:
    rng = np.random.default_rng(1)
    codes = rng.integers(512, 16383, _SIZES[kind]).astype(np.uint16)
    cfa = CANONICAL["xtrans"] if kind == "xtrans" else BAYER["RGGB"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "good.dng"
        write_dng(path, codes, DngTags(cfa=cfa, exposure_s=0.1, iso=800))
        return path.read_bytes()


if __name__ == "__main__":
    main()

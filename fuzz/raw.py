"""RAW files of any bytes: `python -m fuzz.raw --seconds 600` (LibRaw is C++, so each is tried in a process that may die).

A file may only give a frame or a RawError. A death of the process or a file that takes too long is no
breach, for production survives both (pipeline/produce/quarantine.py), but is counted and its file kept. The
trade-off: no coverage guides it, as LibRaw is not built for that; most edits go to the headers instead.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.errors import RawError

_HEADER_BYTES = 1500
"""Where the directories of such a file lie."""
_TIMEOUT_S = 30.0
_MEMORY_BYTES = 6 << 30
_SIZES = {"bayer": (48, 64), "xtrans": (520, 516)}
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
    for name, count in sorted(found.items()):
        sys.stdout.write(f"{name:40} {count}\n")
    broken = any(name.startswith("BROKEN") for name in found)
    sys.exit(1 if broken or not found["decoded"] else 0)


def fuzz(seconds: float, seed: int, keep: Path, *, most: int = sys.maxsize) -> Counter[str]:
    """Try files for `seconds`, at most `most`; return how many had which outcome."""
    found: Counter[str] = Counter()
    again: set[int] = set()
    number, until = seed << 32, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "frame.dng"
        while time.monotonic() < until and found["files"] < most:
            process, told = _start(path, number)
            while (
                process.is_alive()
                and time.monotonic() < until
                and found["files"] < most
                and told.poll(_TIMEOUT_S)
            ):
                try:
                    said = told.recv()
                except EOFError:
                    break
                found[said] += 1
                found["files"] += 1
                if said.startswith("BROKEN"):
                    (keep / f"broken-{number}.dng").write_bytes(mutated(number))
                number += 1
            ends = time.monotonic() >= until or found["files"] >= most
            # A machine that was suspended looks like a file that takes too long: it gets a second try.
            if not ends and number not in again:
                again.add(number)
            elif not ends:
                found[_ended(process)] += 1
                found["files"] += 1
                (keep / f"killer-{number}.dng").write_bytes(mutated(number))
                number += 1
            process.kill()
            process.join()
    return found


def _start(path: Path, number: int) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try_on, args=(path, number, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _ended(process: multiprocessing.process.BaseProcess) -> str:
    process.join(1.0)
    if process.is_alive():
        return "killed: took too long"
    return f"died: exit code {process.exitcode}"


def _try_on(path: Path, number: int, tell: Connection) -> None:
    """Try file after file until the process is killed, or kills itself on one."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LibRaw says there what it also refuses
    while True:
        path.write_bytes(mutated(number))
        tell.send(try_file(path))
        number += 1


def try_file(path: Path) -> str:
    """What came of one file: `decoded`, `refused`, or BROKEN with the exception that is no RawError."""
    told = "decoded"
    for step in (read_header, read_raw, develop):
        try:
            step(path)
        except RawError as error:
            told = (
                "refused"
                if str(path) in str(error) and "\n" not in str(error)
                else "BROKEN message"
            )
        except MemoryError:
            told = "refused for memory"
        except Exception as error:  # noqa: BLE001 # that is what is sought
            return f"BROKEN {step.__name__}: {type(error).__name__}"
    return told


def mutated(number: int) -> bytes:
    """File number `number`: a good one, edited mostly in its headers, sometimes cut or zeroed."""
    rng = random.Random(number)  # noqa: S311 # no secret
    data = bytearray(_good("xtrans" if rng.random() < 0.05 else "bayer"))
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

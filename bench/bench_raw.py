"""What a RAW file costs: header, decoding, packing, estimate and development of full-size frames.

The trade-off: the files are uncompressed DNG made here, so decoding is a lower bound for cameras
that compress. Times are CPU seconds of this process on one thread (wall time beside them), the
median of some rounds; run it on an idle machine.

    python bench/bench_raw.py            12 MP Bayer, half a minute
    python bench/bench_raw.py --full     24 MP X-Trans and 45 MP Bayer too, two minutes
    python bench/bench_raw.py --quick    tiny frames, seconds
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import numpy.typing as npt
from harness import Figures

from darkprep.pipeline.raw.amplify import estimate_amplification
from darkprep.pipeline.raw.develop import develop
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.pipeline.raw.frame import RawFrame
from darkprep.pipeline.raw.mosaic import (
    canonical_mosaic,
    canonical_origin,
    canonical_rgb,
    canonical_shape,
    pack,
    plane_black,
    unpack,
)
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.shards.cfa import CANONICAL, Rows
from darkprep.shards.format import U16

FRAMES = {
    "12 MP Bayer": ((2848, 4256), BAYER["RGGB"]),
    "24 MP X-Trans": ((4032, 6032), CANONICAL["xtrans"]),
    "45 MP Bayer": ((5520, 8288), BAYER["GBRG"]),
}
QUICK_FRAMES = {
    "tiny Bayer": ((356, 532), BAYER["RGGB"]),
    "tiny X-Trans": ((516, 768), CANONICAL["xtrans"]),
}


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--full", action="store_true", help="X-Trans and 45 MP too")
    options = parser.parse_args()
    frames = QUICK_FRAMES if options.quick else FRAMES
    rounds = 1 if options.quick else options.rounds
    machine = harness.machine()
    print(harness.machine_lines(machine))
    found = {}
    with harness.workplace(options.dir) as place:
        for name in frames if options.full or options.quick else ["12 MP Bayer"]:
            found[name] = measure(place, *frames[name], rounds)
            print_table(name, found[name])
    harness.report({"machine": machine, "frames": found}, options.json)


def measure(place: Path, size: tuple[int, int], cfa: Rows, rounds: int) -> dict[str, Figures]:
    """CPU and wall milliseconds of each step on one frame."""
    path = place / "frame.dng"
    write_dng(path, dark_mosaic(size), DngTags(cfa=cfa))
    frame = read_raw(path)
    slow = {"develop": 1 if len(cfa) == 6 else min(rounds, 3), "estimate, plain": 1}
    return {step: timed(run, slow.get(step, rounds)) for step, run in steps_of(path, frame)}


def steps_of(path: Path, frame: RawFrame) -> list[tuple[str, Callable[[], object]]]:
    """Returns the steps by name."""
    mosaic, kind = canonical_mosaic(frame), frame.cfa
    planes, black = pack(mosaic, kind), plane_black(frame)
    origin, shape = canonical_origin(frame.pattern), canonical_shape(frame)
    rgb = np.zeros((*frame.mosaic.shape, 3), np.uint16)
    own_black = tuple(level + n for n, level in enumerate(black))
    return [
        ("read_header", lambda: read_header(path)),
        ("read_raw", lambda: read_raw(path)),
        ("pack", lambda: pack(mosaic, kind)),
        ("unpack", lambda: unpack(planes, kind)),
        ("estimate", lambda: estimate_amplification(planes, black, frame.white)),
        (
            "estimate, black per plane",
            lambda: estimate_amplification(planes, own_black, frame.white),
        ),
        ("estimate, plain", lambda: plain_estimate(planes, black[0], frame.white)),
        ("canonical_rgb", lambda: canonical_rgb(rgb, origin, shape)),
        ("develop", lambda: develop(path)),
    ]


def dark_mosaic(size: tuple[int, int]) -> U16:
    """A short exposure's codes: a gradient of 0 to 80 codes of light with its shot noise."""
    rng = np.random.default_rng(0)
    light = np.linspace(0.5, 80, size[1])[None, :] * np.linspace(0.2, 1, size[0])[:, None]
    return np.asarray(512 + rng.poisson(light) + rng.integers(-3, 4, size), np.uint16)


def plain_estimate(codes: U16, black: float, white: int) -> float:
    """The estimate pixel by pixel, one mask per bin: what the histogram replaces."""
    x = np.maximum(codes.astype(np.float32) - np.float32(black), 0) / np.float32(white - black)
    edges = ((2.0 ** (8 * np.arange(128) / 127) - 1) / 255).astype(np.float32)
    masks = [(x >= low) & (x < high) for low, high in itertools.pairwise(edges)]
    weight: npt.NDArray[np.float64] = np.select(masks, list(10 ** (-5 * np.arange(127) / 126)), 0.0)
    return float(np.clip(0.01 * weight.sum() / (x * weight).sum(), 1, 300))


def timed(run: Callable[[], object], rounds: int) -> Figures:
    """Median milliseconds, CPU and wall."""
    cpu, wall = [], []
    for _ in range(rounds):
        began = time.process_time(), time.perf_counter()
        run()
        cpu.append((time.process_time() - began[0]) * 1e3)
        wall.append((time.perf_counter() - began[1]) * 1e3)
    return {"cpu_ms": statistics.median(cpu), "wall_ms": statistics.median(wall)}


def print_table(name: str, steps: dict[str, Figures]) -> None:
    """Prints one frame's steps; the plain estimate as a ratio too."""
    rows = [
        [step, f"{times['cpu_ms']:,.1f}", f"{times['wall_ms']:,.1f}"]
        for step, times in steps.items()
    ]
    ratio = steps["estimate, plain"]["cpu_ms"] / steps["estimate"]["cpu_ms"]
    print("\n" + harness.table([name, "CPU ms", "wall ms"], rows))
    print(f"\nplain / estimate: {ratio:.0f}x")


if __name__ == "__main__":
    main()

"""What bringing pictures and mosaics into another form costs in time and in decibels.

Developments taken back to packed RAW (the protocol `eld`), X-Trans mosaics resampled to RGGB, and frames
brought into another camera's colours. Synthetic photographs; CPU seconds of one process.
"""

from __future__ import annotations

import time
from pathlib import Path

import harness
import numpy as np

from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.whole_frame import whole_frame
from darkprep.pipeline.raw.colour import colours_of, match_colours, match_matrix, undevelop
from darkprep.pipeline.raw.resample import xtrans_to_rggb
from darkprep.shards.cfa import CANONICAL
from darkprep.synth.dataset import synthesise

CAMERAS = ("sony", "fuji", "sonya7s2", "canon70d", "canon700d", "nikond850")
SIZE, QUICK_SIZE = (1032, 1536), (516, 768)


def decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean(np.square(ours.astype(np.float64) - theirs))))


def round_trip(root: Path, camera: str) -> dict[str, float]:
    """A long exposure developed, taken back, and scaled by ELD's one factor, against its own codes."""
    found = find_pairs(root, camera_named(camera))
    path = root / found.pairs[0].long
    frame = open_source(path).decode()
    black = np.array(frame.black, np.float32)[:, None, None]
    codes = np.clip((frame.planes - black) / (frame.white - black), 0, 1)
    truth = open_source(path).develop()
    began = time.process_time()
    back = undevelop(truth, colours_of(frame, str(path)), frame.cfa)
    spent = time.process_time() - began
    inside = codes != 1
    factor = np.vdot(back[inside], codes[inside]) / np.vdot(back[inside], back[inside])
    return {
        "ceiling_db": decibels(np.clip(back * factor, 0, 1), codes),
        "seconds_per_mp": spent / codes[0].size / (9 if frame.cfa == "xtrans" else 4) * 1e6,
    }


def resampling(height: int = 4032, width: int = 6030) -> dict[str, float]:
    """X-Trans to RGGB: a picture of waves of eight pixels and more, and the time for a whole frame."""
    y, x = np.mgrid[:600, :900]
    light = 0.5 + 0.2 * np.sin(y / 3.1 + x / 5.3) + 0.2 * np.cos(x / 2.6 - y / 7.7)
    world = np.stack([light, light * 0.9 + 0.05, 0.8 * light], axis=2) * 14000 + 1024

    def seen(pattern: tuple[str, ...]) -> np.ndarray:
        period = len(pattern)
        letters = np.array([["RGB".index(c) for c in row] for row in pattern])
        tiled = np.tile(letters, (600 // period, 900 // period))
        values = np.take_along_axis(world, tiled[..., None], axis=2)[..., 0]
        return np.rint(values).astype(np.uint16)

    error = (xtrans_to_rggb(seen(CANONICAL["xtrans"])) / 14000, seen(CANONICAL["bayer"]) / 14000)
    whole = np.random.default_rng(0).integers(1000, 9000, (height, width), dtype=np.uint16)
    began = time.process_time()
    xtrans_to_rggb(whole)
    return {"waves_db": decibels(*error), "seconds": time.process_time() - began}


def matching(root: Path) -> dict[str, float]:
    """A Canon frame in Sony's colours."""
    canon, sony = (find_pairs(root, camera_named(name)) for name in ("canon70d", "sony"))
    source = open_source(root / canon.pairs[0].short).decode()
    target = open_source(root / sony.pairs[0].short).decode()
    matrix = match_matrix(colours_of(source, "canon"), colours_of(target, "sony"))
    sample = whole_frame(root, canon.pairs[0])
    began = time.process_time()
    match_colours(sample, matrix)
    return {"seconds_per_mp": (time.process_time() - began) / sample.low.size * 1e6}


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    options = harness.parser(__doc__, rounds=1).parse_args()
    size = QUICK_SIZE if options.quick else SIZE
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as root:
        for camera in CAMERAS:
            synthesise(root, camera, scenes=1, shorts=1, size=size, seed=1, jobs=1)
        trips = {camera: round_trip(root, camera) for camera in CAMERAS}
        resampled = resampling(*((516, 768) if options.quick else (4032, 6030)))
        moved = matching(root)
    rows = [
        (camera, f"{one['ceiling_db']:.1f}", f"{one['seconds_per_mp']:.3f}")
        for camera, one in trips.items()
    ]
    print(harness.table(("the truth taken back to packed RAW", "dB", "CPU s / MP"), rows), "\n")
    print(
        f"X-Trans to RGGB: waves {resampled['waves_db']:.1f} dB, whole frame {resampled['seconds']:.2f} s"
    )
    print(f"a frame into another camera's colours: {moved['seconds_per_mp']:.3f} s / MP")
    record = {"machine": machine, "trips": trips, "resampling": resampled, "matching": moved}
    harness.report(record, options.json)


if __name__ == "__main__":
    main()

"""How well `darkprep calibrate` finds known noise: a table of errors per camera and ISO, in Markdown.

Frames of each camera with its published noise are written and calibrated: 20 dark frames and 6 pairs of flat
fields per ISO, 2064 x 768 pixels. Run it with cameras as arguments, or without for all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from darkprep.pipeline.noise.calibrate import calibrate
from darkprep.synth.calibration_frames import FrameSettings, write_calibration_frames
from darkprep.synth.sensors import SENSORS, sensor_of

ISOS = (800, 1600, 3200)
SIZE = (2064, 768)


def rows(camera: str) -> list[str]:
    """The table's rows of one camera."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        settings = FrameSettings(size=SIZE)
        truth = write_calibration_frames(root, sensor_of(camera), ISOS, settings=settings)
        began = time.monotonic()
        flats = sorted((root / "flats").glob("*.dng"))
        found = calibrate(sorted((root / "darks").glob("*.dng")), flats).calibration
        seconds = time.monotonic() - began
    lines = []
    for one in found.isos:
        known = truth[int(one.iso)]
        biases = list(known.colour_bias)
        if camera == "fuji":  # its greens have one bias
            biases[3] = biases[1]
        bias = max(abs(a - b) for a, b in zip(one.colour_bias, biases, strict=True))
        assert one.gain is not None
        lines.append(
            f"| {camera} | {one.iso:g} | {one.gain.value / known.gain - 1:+.2%} | {one.read.scale / known.read_scale - 1:+.2%} "
            f"| {one.read.shape - known.read_shape:+.4f} | {one.row_sigma / known.row_sigma - 1:+.1%} | {bias:.3f} | {seconds / 3:.0f} s |"
        )
    return lines


def main() -> None:
    print("| camera | ISO | K | scale | lambda | row noise | largest bias error, codes | time |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for camera in sys.argv[1:] or sorted(set(SENSORS) - {"sonya7s2"}):
        print("\n".join(rows(camera)), flush=True)


if __name__ == "__main__":
    main()

"""Colours of photographs of other cameras: decibels of restored frames with and without --match-colour.

Each RAW file is darkened: its codes above black are divided by 100, and the noise of a Sony A7S II is added, at
14 bits. PSNR of sRGB against LibRaw's development of the file before it was darkened.
"""

from __future__ import annotations

from pathlib import Path

import harness
import numpy as np
import rawpy
import torch

from darkprep.jobs.colour_balance import tint_factors, with_tint
from darkprep.jobs.decoding import DecodingOptions
from darkprep.jobs.weights import load_restorer
from darkprep.pipeline.noise.model import add_noise, noise_parameters
from darkprep.pipeline.raw.camera_colours import cameras_from_text
from darkprep.pipeline.raw.colour import colours_of
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.trainer.evaluation import restore_frame
from darkprep.trainer.picture import quantised

RATIO, ISO = 100.0, 1600
BLACK, WHITE = 512, 16383


def write_pair(raw: Path, folder: Path) -> tuple[Path, Path]:
    """Write a Bayer file darkened, and as it is at 14 bits; return both paths."""
    frame = read_raw(raw)
    with rawpy.imread(str(raw)) as opened:
        matrix = opened.rgb_xyz_matrix[:3].astype(float)
    height, width = (side // 2 * 2 for side in frame.mosaic.shape)
    black = np.tile(frame.black, (height // 2, width // 2))
    light = np.clip((frame.mosaic[:height, :width] - black) / (frame.white - black), 0, 1)
    light = (light * (WHITE - BLACK)).astype(np.float32)
    gains = np.array([frame.white_balance[0], 1.0, frame.white_balance[2]])
    tags = DngTags(
        cfa=frame.pattern,
        as_shot_neutral=tuple((gains.min() / gains).tolist()),
        color_matrix=tuple(matrix.ravel().tolist()),
        make=frame.make,
        model=frame.model,
        iso=ISO,
    )
    rng = np.random.default_rng(0)
    noisy = add_noise(
        light / np.float32(RATIO), noise_parameters("sony", ISO, rng), rng, frame.pattern
    )
    dark, bright = folder / f"{raw.stem}-dark.dng", folder / f"{raw.stem}-bright.dng"
    write_dng(dark, np.clip(noisy + BLACK, 0, WHITE).astype(np.uint16), tags)
    write_dng(bright, (light + BLACK).round().astype(np.uint16), tags)
    return dark, bright


def decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean(np.square((ours.astype(float) - theirs) / 65535))))


def scores(raw: Path, folder: Path, weights: Path, reference: Path | None) -> dict[str, float]:
    """PSNR of a file by every way."""
    dark, bright = write_pair(raw, folder)
    truth = np.moveaxis(RawFile(bright).develop(brightness="constant"), 0, -1)
    found = {
        "amplified by LibRaw": decibels(np.moveaxis(develop_amplified(dark, RATIO), 0, -1), truth)
    }
    network = load_restorer(weights, torch.device("cpu"))
    cameras = cameras_from_text(network.cameras)
    ways = {"none": "none", "reference": str(reference) if reference else None, "auto": "auto"}
    for name, match in ways.items():
        if match is None:
            continue
        options = DecodingOptions(amplify=f"{RATIO:g}", has_ratio=False, match_colour=match)
        lone = options.decoder(Path("data"), cameras).file(dark)
        pixels = quantised(restore_frame(network, lone.sample), 16).astype(np.uint16)
        found["auto, step 1 alone" if name == "auto" else name] = decibels(pixels, truth)
        if name == "auto":
            factors = tint_factors(pixels, lone.decoded, colours_of(lone.decoded, str(dark)), RATIO)
            assert factors is not None
            found["auto"] = decibels(with_tint(pixels, factors, 16), truth)
    return found


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    made = harness.parser(__doc__, rounds=1)
    made.add_argument("raw", nargs="+", type=Path, help="RAW files of Bayer cameras")
    made.add_argument("--weights", type=Path, required=True, help="weights of the target srgb")
    made.add_argument(
        "--reference", type=Path, help="a photograph of the training camera, to compare with"
    )
    options = made.parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as folder:
        found = {
            raw.name: scores(raw, folder, options.weights, options.reference) for raw in options.raw
        }
    names = list(next(iter(found.values())))
    rows = [(name, *(f"{own[name]:.2f}" for own in found.values())) for name in names]
    print(harness.table(("--match-colour", *found), rows))
    harness.report({"machine": machine, "decibels": found}, options.json)


if __name__ == "__main__":
    main()

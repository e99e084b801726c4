"""The page of an evaluation: its figures, and a few of its pictures to compare, worst to best.

The trade-off: pictures are taken from the PNGs that the evaluation wrote and made smaller, and only a few
inputs are developed again, so that the page costs seconds and opens on a phone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from darkprep.pipeline.pairs.table import Pair, camera_named, find_pairs
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.report.page import Layer, Scene, write_page
from darkprep.report.run_page import NAME, evaluation_page
from darkprep.shards import RawError
from darkprep.trainer.picture import quantised

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_SCENES = 6
_WIDEST = 1280
_QUALITY = 88


def write_evaluation_report(
    out: Path, record: Mapping[str, Any], *, root: Path, camera: str, weights: Path
) -> Path:
    """Make report.html beside metrics.json and the pictures; its path. Raises DiskFull or SpoolError."""
    by_id = {pair.id: pair for pair in find_pairs(root, camera_named(camera), frames="all").pairs}
    scenes = []
    for image in worst_to_best(record["images"]):
        pair = by_id.get(image["pair"])
        picture = out / f"{image['pair'].replace('/', '_')}.png"
        if pair and picture.exists():
            scenes.append(_scene(root, pair, image, picture))
    lead = f"{record['pairs']} pairs below {root}, restored with {weights}."
    shown = [scene for scene in scenes if scene]
    write_page(out / NAME, evaluation_page(dict(record), shown, lead=lead))
    return out / NAME


def worst_to_best(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few of them, evenly spread over the order of their PSNR, the extremes among them."""
    ranked = sorted(
        images, key=lambda image: float("inf") if image["psnr"] is None else image["psnr"]
    )
    most = min(_SCENES, len(ranked))
    return [ranked[round(index * (len(ranked) - 1) / max(1, most - 1))] for index in range(most)]


def _scene(root: Path, pair: Pair, image: dict[str, Any], picture: Path) -> Scene | None:
    """The pictures of one pair; None when its input cannot be read any more."""
    try:
        inputs = [
            quantised(develop_amplified(root / pair.short, factor), 8)
            for factor in (1.0, image["amplification"])
        ]
    except RawError:
        return None
    with Image.open(picture) as whole:
        row = np.asarray(whole.convert("RGB"))
    restored, truth = _last_two(row, width=inputs[0].shape[1])
    layers = [
        Layer(name=name, label=f"{name} input", jpeg=small_jpeg(pixels))
        for name, pixels in zip(("dark", "amplified"), inputs, strict=True)
    ]
    psnr = "infinite" if image["psnr"] is None else f"{image['psnr']:.2f} dB"
    layers.append(Layer(name="restored", label=f"restored, {psnr}", jpeg=small_jpeg(restored)))
    layers.append(Layer(name="truth", label="truth", jpeg=small_jpeg(truth)))
    with Image.open(io.BytesIO(layers[-1].jpeg)) as shown:
        size = shown.size
    caption = f"{image['pair']}: ratio {image['ratio']:g}, PSNR {psnr}, SSIM {image['ssim']:.4f}"
    return Scene(name=f"{image['pair']} ({psnr})", caption=caption, size=size, layers=tuple(layers))


def _last_two(row: Pixels, *, width: int) -> tuple[Pixels, Pixels]:
    """Restored and truth, the last two of the pictures that stand in a row with equal gaps."""
    pictures = row.shape[1] // width
    gap = (row.shape[1] - pictures * width) // max(1, pictures - 1)
    return row[:, -2 * width - gap : -width - gap], row[:, -width:]


def small_jpeg(pixels: Pixels) -> bytes:
    """`(H, W, 3)` uint8 as a JPEG that is not wider than a page."""
    picture = Image.fromarray(pixels)
    if picture.width > _WIDEST:
        height = round(picture.height * _WIDEST / picture.width)
        picture = picture.resize((_WIDEST, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()

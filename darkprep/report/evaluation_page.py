"""The page of an evaluation: scores of all pairs, and pictures of a few pairs, from the worst to the best.

The trade-off: restored pictures are read from the PNGs that the evaluation wrote, and only the inputs of
the few pairs that are shown are developed again, so that the page takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from darkprep.pipeline.pairs.table import Pair, Pairs
from darkprep.pipeline.raw.develop import develop_amplified
from darkprep.pipeline.raw.guard import guarded
from darkprep.report.page import FILE, render_page, write_page
from darkprep.report.pictures import (
    Gallery,
    Picture,
    PictureSet,
    evenly_spaced,
    jpeg_size,
    picture_note,
    small_jpeg,
)
from darkprep.shards import RawError
from darkprep.shards.file_names import published_path
from darkprep.trainer.picture import quantised
from darkprep.trainer.picture_row import picture_file_name, split_row

_MAX_SETS = 6


def write_evaluation_report(
    out: Path, record: Mapping[str, Any], *, pairs: Pairs, weights: Path
) -> Path:
    """Write report.html into the directory of metrics.json and the pictures; return its path.

    `record` is the content of metrics.json, `pairs` are the pairs that were scored. Raises DiskFull or
    SpoolError.
    """
    by_id = {pair.id: pair for pair in pairs.pairs}
    sets = []
    for image in spread_by_psnr(record["images"]):
        pair = by_id.get(image["pair"])
        picture = out / picture_file_name(image["pair"])
        if pair and picture.exists():
            sets.append(_picture_set(pairs.root, pair, image, picture))
    lead = f"{record['pairs']} pairs below {published_path(pairs.root)}, restored with {published_path(weights)}."
    write_page(out / FILE, evaluation_page(record, [one for one in sets if one], lead=lead))
    return out / FILE


def evaluation_page(record: Mapping[str, Any], sets: Sequence[PictureSet], *, lead: str) -> str:
    """Return the HTML page of an evaluation; `record` is the content of metrics.json."""
    with_baseline = record.get("baseline_ssim") is not None
    figures = [
        ("PSNR", _decibels(record["psnr"]), f"mean of {record['pairs']} pairs"),
        ("SSIM", f"{record['ssim']:.4f}", ""),
    ]
    if with_baseline:
        remark = f"SSIM {record['baseline_ssim']:.4f}"
        figures.append(("amplified input", _decibels(record["baseline_psnr"]), remark))
    heads = ["pair", "ratio", "amplification", "PSNR", "SSIM"]
    heads += ["input PSNR", "input SSIM"] if with_baseline else []
    return render_page(
        "evaluation.html",
        title=f"Evaluation on {record['camera']}",
        lead=lead,
        figures=figures,
        gallery=Gallery(sets) if sets else None,
        picture_note=picture_note(record.get("settings", {}).get("target")),
        protocol=record["protocol"],
        protocol_description=record["protocol_says"],
        heads=heads,
        rows=[_row(image, with_baseline=with_baseline) for image in record["images"]],
    )


def spread_by_psnr(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return up to six images, evenly spaced in order of PSNR, including the worst and the best."""
    ranked = sorted(
        images, key=lambda image: float("inf") if image["psnr"] is None else image["psnr"]
    )
    return evenly_spaced(ranked, _MAX_SETS)


def _picture_set(root: Path, pair: Pair, image: dict[str, Any], png: Path) -> PictureSet | None:
    """Return the pictures of one pair; None if its input can no longer be read."""
    try:
        dark, amplified = (
            quantised(
                guarded(partial(develop_amplified, amplification=factor), root / pair.short), 8
            ).astype(np.uint8, copy=False)
            for factor in (1.0, image["amplification"])
        )
    except RawError:
        return None
    with Image.open(png) as row:
        # Beside the amplified input, where the evaluation had it as a baseline.
        count = 3 if image.get("baseline_ssim") is not None else 2
        restored, truth = split_row(np.asarray(row.convert("RGB")), count)[-2:]
    psnr = _decibels(image["psnr"])
    labelled = {
        "dark": ("dark input", dark),
        "amplified": ("amplified input", amplified),
        "restored": (f"restored, {psnr}", restored),
        "truth": ("truth", truth),
    }
    pictures = tuple(
        Picture(kind=kind, label=label, jpeg=small_jpeg(pixels))
        for kind, (label, pixels) in labelled.items()
    )
    return PictureSet(
        name=f"{image['pair']} ({psnr})",
        caption=f"{image['pair']}: ratio {image['ratio']:g}, PSNR {psnr}, SSIM {image['ssim']:.4f}",
        size=jpeg_size(pictures[-1].jpeg) or truth.shape[1::-1],
        pictures=pictures,
    )


def _row(image: dict[str, Any], *, with_baseline: bool) -> list[str]:
    row = [
        image["pair"],
        f"{image['ratio']:g}",
        f"{image['amplification']:.4g}",
        _decibels(image["psnr"]),
        f"{image['ssim']:.4f}",
    ]
    if with_baseline:
        row += [_decibels(image["baseline_psnr"]), f"{image['baseline_ssim']:.4f}"]
    return row


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f} dB"

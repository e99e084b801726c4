"""What a study leaves: results.json, a Markdown table, a picture panel, and a page that shows them all.

The trade-off: everything is made anew from the cells' records whenever the command runs, so that the page
is never older than they are; it costs seconds.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from darkprep.report.charts import Chart, Curve, Points
from darkprep.report.page import render_page, write_page
from darkprep.report.pictures import Gallery, Picture, PictureSet, jpeg_size, small_jpeg
from darkprep.report.validations import read_validations
from darkprep.shards.files import disk_errors, read_json, write_bytes, write_json
from darkprep.studies.cells import Training
from darkprep.studies.work import Cell, Work
from darkprep.trainer.records import read_metrics

Pixels = NDArray[np.uint8]

_GAP = 8
_PANEL_WIDTH = 1276
_MOST_IN_A_ROW = 4
"""Pictures of a panel beside each other; a comparison of more goes on below."""
_MARGIN = 26
_QUALITIES = (85, 70, 50)
_MOST_PANEL_BYTES = 300_000
_CURVES_PER_CHART = 3


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; the first column names its rows."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table with its caption."""
        lines = [f"**{self.caption}**", "", _line(self.heads), _line(["---"] * len(self.heads))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One picture of a comparison."""

    label: str
    pixels: Pixels
    """`(H, W, 3)`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Pictures of one place, the input first, the truth last."""

    name: str
    pictures: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished study."""

    name: str
    title: str
    lead: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    trainings: tuple[Training, ...]


def write_outcome(outcome: Outcome, cells: Sequence[Cell], work: Work) -> Path:
    """Write all files of a study into its folder; the page's path. Raises DiskFull or SpoolError."""
    folder = work.out / outcome.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", _record(outcome, cells, work))
    markdown = "\n\n".join([table.markdown() for table in outcome.tables] + list(outcome.notes))
    write_bytes(folder / "table.md", f"# {outcome.title}\n\n{markdown}\n".encode())
    if outcome.comparisons:
        write_bytes(folder / "panel.jpg", _jpeg(panel(outcome.comparisons)))
    write_page(folder / "index.html", _page(outcome, work))
    return folder / "index.html"


def picture_row(path: Path, count: int) -> list[Pixels]:
    """The pictures that stand in one row of a PNG with equal gaps."""
    with Image.open(path) as image:
        row = np.asarray(image.convert("RGB"))
    width = (row.shape[1] - (count - 1) * _GAP) // count
    return [row[:, k * (width + _GAP) : k * (width + _GAP) + width] for k in range(count)]


def typical(images: Sequence[Mapping[str, Any]]) -> str:
    """The pair of median PSNR."""
    ranked = sorted(
        images, key=lambda image: float("inf") if image["psnr"] is None else image["psnr"]
    )
    return str(ranked[len(ranked) // 2]["pair"])


def typical_of_all(each: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The pair of median mean PSNR of those that all have; the first's typical one where they share none."""
    by_pair = [{image["pair"]: image["psnr"] for image in images} for images in each]
    shared = sorted(set(by_pair[0]).intersection(*by_pair))
    known = [pair for pair in shared if None not in [one[pair] for one in by_pair]]
    if not known:
        return typical(each[0])
    return typical(
        [{"pair": pair, "psnr": np.mean([one[pair] for one in by_pair])} for pair in known]
    )


def panel(comparisons: Sequence[Comparison]) -> Pixels:
    """All comparisons in one picture: a row or two each, cut to their middle, with labels."""
    most = max(len(one.pictures) for one in comparisons)
    across = -(-most // -(-most // _MOST_IN_A_ROW))
    width = (_PANEL_WIDTH + _GAP) // across - _GAP
    height = 2 * width // 3
    places = [
        (k // across + above, k % across, comparison, shown)
        for above, comparison in zip(_rows_above(comparisons, across), comparisons, strict=True)
        for k, shown in enumerate(comparison.pictures)
    ]
    size = (across * (width + _GAP) - _GAP, (places[-1][0] + 1) * (height + _MARGIN))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for row, column, comparison, shown in places:
        left, top = column * (width + _GAP), row * (height + _MARGIN)
        first = shown is comparison.pictures[0]
        label = f"{comparison.name}: {shown.label}" if first else shown.label
        draw.text((left + 2, top + 5), label, fill="black", font=_font(label, width))
        canvas.paste(Image.fromarray(_middle(shown.pixels, height, width)), (left, top + _MARGIN))
    return np.asarray(canvas)


def _font(label: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest of three in which a label is no wider than its picture."""
    sizes = [ImageFont.load_default(size=size) for size in (15, 13, 11)]
    return next((font for font in sizes if font.getlength(label) < width), sizes[-1])


def _rows_above(comparisons: Sequence[Comparison], across: int) -> list[int]:
    """How many rows of pictures stand above each comparison."""
    rows = [-(-len(one.pictures) // across) for one in comparisons]
    return [sum(rows[:k]) for k in range(len(rows))]


def _middle(pixels: Pixels, height: int, width: int) -> Pixels:
    """The middle of a picture in a tile's shape and size, made smaller where it is much larger."""
    scale = max(1, min(pixels.shape[0] // height, pixels.shape[1] // width))
    tall, wide = min(pixels.shape[0], height * scale), min(pixels.shape[1], width * scale)
    top, left = (pixels.shape[0] - tall) // 2, (pixels.shape[1] - wide) // 2
    cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + tall, left : left + wide]))
    return np.asarray(cut.resize((width, height), Image.Resampling.LANCZOS) if scale > 1 else cut)


def _jpeg(pixels: Pixels) -> bytes:
    """The first of three qualities that keeps a panel within its size, or the last."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= _MOST_PANEL_BYTES:
            break
    return file.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _record(outcome: Outcome, cells: Sequence[Cell], work: Work) -> dict[str, Any]:
    return {
        "study": outcome.name,
        "title": outcome.title,
        "lead": outcome.lead,
        "notes": list(outcome.notes),
        "tables": [asdict(table) for table in outcome.tables],
        "cores": os.cpu_count(),
        "seconds": sum(work.seconds(cell.name) for cell in cells),
        "cells": {cell.name: read_json(work.record_path(cell.name)) for cell in cells},
    }


def _page(outcome: Outcome, work: Work) -> str:
    charts = (chart.layout() for chart in loss_charts(outcome.trainings, work))
    sets = [_picture_set(one) for one in outcome.comparisons]
    reports = [
        (one.label, f"../{one.folder(work).relative_to(work.out)}/run/report.html")
        for one in outcome.trainings
    ]
    return render_page(
        "study.html",
        title=outcome.title,
        lead=outcome.lead,
        tables=outcome.tables,
        gallery=Gallery(sets) if sets else None,
        charts=[chart for chart in charts if chart],
        notes=outcome.notes,
        reports=reports,
    )


def loss_charts(trainings: Sequence[Training], work: Work) -> list[Chart]:
    """Training loss and validation PSNR, some trainings to a chart."""
    charts = []
    for first in range(0, len(trainings), _CURVES_PER_CHART):
        some = trainings[first : first + _CURVES_PER_CHART]
        for title, read, text, resolution in (
            ("Training loss", _losses, "{:.3f}", 0.001),
            ("Validation PSNR", _validation_psnr, "{:.1f} dB", 0.1),
        ):
            curves = tuple(
                Curve(name=one.label, points=read(one.folder(work) / "run"), colour=1 + k)
                for k, one in enumerate(some)
            )
            charts.append(
                Chart(
                    title=title,
                    description=", ".join(one.label for one in some),
                    curves=curves,
                    x_label="iterations",
                    format_y=text.format,
                    y_resolution=resolution,
                    log_scale=read is _losses,
                )
            )
    return charts


def _losses(run_dir: Path) -> Points:
    return [(line.iteration, line.loss) for line in read_metrics(run_dir)]


def _validation_psnr(run_dir: Path) -> Points:
    return [(line.iteration, line.psnr) for line in read_validations(run_dir)]


def _picture_set(comparison: Comparison) -> PictureSet:
    pictures = tuple(
        Picture(kind=shown.label, label=shown.label, jpeg=small_jpeg(shown.pixels))
        for shown in comparison.pictures
    )
    rows, columns, _ = comparison.pictures[0].pixels.shape
    return PictureSet(
        name=comparison.name,
        caption=f"{comparison.name}, {columns} x {rows} pixels",
        size=jpeg_size(pictures[0].jpeg) or (columns, rows),
        pictures=pictures,
    )

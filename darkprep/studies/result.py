"""The files of a finished study: results.json, a Markdown table, a panel of pictures, and a page with all of these.

The trade-off: all files are written again from the tasks' records each time the command runs, so that no
file is older than its tasks; this takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkprep.pipeline.produce.default_jobs import usable_cpus
from darkprep.report.charts import Chart, Curve, Points
from darkprep.report.page import render_page, write_page
from darkprep.report.pictures import Gallery, Picture, PictureSet, jpeg_size, small_jpeg
from darkprep.shards.errors import OptionError, first_line
from darkprep.shards.files import disk_errors, json_bytes, read_json, write_bytes, write_json
from darkprep.studies.panel import Comparison, encode_panel, panel
from darkprep.studies.task_kinds import TrainingTask
from darkprep.studies.tasks import StudyContext, Task
from darkprep.trainer.records import read_metrics
from darkprep.trainer.validations import read_validations

_CURVES_PER_CHART = 6
"""The number of colours for curves."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; its first column has the names of the rows."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown, with its caption and its note."""
        rows = [self.heads, ["---"] * len(self.heads), *self.rows]
        lines = [f"**{self.caption}**", "", *(f"| {' | '.join(row)} |" for row in rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """The result of a finished study: texts, tables, comparisons and runs."""

    name: str
    title: str
    lead: str
    """What the study compares, in a few sentences."""
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    trainings: tuple[TrainingTask, ...]


def write_result(result: StudyResult, tasks: Sequence[Task], context: StudyContext) -> Path:
    """Write all files of a study and return the path of its page. Raises DiskFull or SpoolError."""
    folder = context.out / result.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", _record(result, tasks, context))
    markdown = "\n\n".join([table.markdown() for table in result.tables] + list(result.notes))
    write_bytes(folder / "table.md", f"# {result.title}\n\n{markdown}\n".encode())
    if result.comparisons:
        write_bytes(folder / "panel.jpg", encode_panel(panel(result.comparisons)))
    write_page(folder / "index.html", _page(result, context))
    return folder / "index.html"


def _record(result: StudyResult, tasks: Sequence[Task], context: StudyContext) -> dict[str, Any]:
    return {
        "study": result.name,
        "title": result.title,
        "lead": result.lead,
        "notes": list(result.notes),
        "tables": [asdict(table) for table in result.tables],
        "cores": usable_cpus().count,
        "seconds": sum(context.seconds(task.name) for task in tasks),
        "cells": {task.name: _cell(context.record_path(task.name)) for task in tasks},
    }


def _cell(path: Path) -> dict[str, Any] | None:
    """Return the record of a task. Raises OptionError for a record that JSON does not allow to be written again."""
    record = read_json(path)
    try:
        json_bytes(record or {})
    except (ValueError, RecursionError) as error:
        raise OptionError(
            f"{path}: cannot be written again ({first_line(error)}); delete it and run the study again, which repeats this task"
        ) from error
    return record


def _page(result: StudyResult, context: StudyContext) -> str:
    charts = (chart.layout() for chart in _loss_charts(result.trainings, context))
    sets = [_picture_set(comparison) for comparison in result.comparisons]
    reports = [
        (training.label, f"../{training.folder(context).relative_to(context.out)}/run/report.html")
        for training in result.trainings
    ]
    return render_page(
        "study.html",
        title=result.title,
        lead=result.lead,
        tables=result.tables,
        gallery=Gallery(sets) if sets else None,
        charts=[chart for chart in charts if chart],
        notes=result.notes,
        reports=reports,
    )


def _loss_charts(trainings: Sequence[TrainingTask], context: StudyContext) -> list[Chart]:
    """Return charts of training loss and validation PSNR; one chart has as many runs on one axis as there are colours."""
    charts = []
    for first in range(0, len(trainings), _CURVES_PER_CHART):
        some = trainings[first : first + _CURVES_PER_CHART]
        for title, read, text, resolution in (
            ("Training loss", _losses, "{:.3f}", 0.001),
            ("Validation PSNR", _validation_psnr, "{:.1f} dB", 0.1),
        ):
            curves = tuple(
                Curve(name=one.label, points=read(one.folder(context) / "run"), colour=1 + k)
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
        Picture(kind=picture.label, label=picture.label, jpeg=small_jpeg(picture.pixels))
        for picture in comparison.pictures
    )
    rows, columns, _ = comparison.pictures[0].pixels.shape
    return PictureSet(
        name=comparison.name,
        caption=f"{comparison.name}, {columns} x {rows} pixels",
        size=jpeg_size(pictures[0].jpeg) or (columns, rows),
        pictures=pictures,
    )

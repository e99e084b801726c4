"""The page of a training run, made from the files of the run's directory.

The trade-off: the page is always made from files alone, so that it can be made while a run is going on,
after it was killed, and on another machine; what is in no file cannot be shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darkprep.report.charts import Chart, ChartLayout, Curve, Points, smooth
from darkprep.report.page import FILE, render_page, write_page
from darkprep.report.pictures import (
    Gallery,
    Picture,
    PictureSet,
    evenly_spaced,
    jpeg_size,
    picture_note,
)
from darkprep.report.provenance import FILE as PROVENANCE
from darkprep.shards import OptionError
from darkprep.shards.files import read_json, read_regular_file
from darkprep.trainer.records import MetricsLine, RunSummary, read_metrics, read_summary
from darkprep.trainer.validations import (
    PictureScore,
    Validation,
    best_validation,
    read_validations,
)
from darkprep.view.history import SpoolHistoryLine, read_history
from darkprep.view.numbers import format_bytes, format_count, format_duration, format_number

VALIDATION_FOLDER = "heldout"
"""Subdirectory of a run for the pictures of its validation frames."""
_MAX_RESTORED = 8
"""Maximum number of iterations for which a scene's pictures are shown."""
_MAX_SCENES = 8
"""Maximum number of scenes that are shown; a training run has four."""
_MOST_RECORD_BYTES = 1 << 20
"""Larger settings than those of a training run are left out; the page would be larger than a browser can show."""
_MOST_JPEG_BYTES = 2 << 20
"""Larger pictures than those of a training run are left out."""
_INPUTS_AND_TRUTH = (("dark", "dark input"), ("amplified", "amplified input"), ("truth", "truth"))


def write_run_report(run_dir: Path) -> Path:
    """Write report.html into a run's directory and return its path. Raises OptionError if there is no run."""
    config = read_json(run_dir / "config.json", _MOST_RECORD_BYTES)
    if config is None:
        raise OptionError(f"{run_dir}: holds no run (no config.json); name a run's directory")
    write_page(run_dir / FILE, run_page(run_dir, config))
    return run_dir / FILE


def run_page(run_dir: Path, config: dict[str, Any]) -> str:
    """Return the HTML page of a run; damaged files and lines are left out."""
    summary = read_summary(run_dir)
    provenance = read_json(run_dir / PROVENANCE, _MOST_RECORD_BYTES) or {}
    metrics = read_metrics(run_dir)
    validations = read_validations(run_dir)
    history = read_history(run_dir)
    pictures = _validation_pictures(run_dir, validations)
    charts = (
        *_training_charts(metrics),
        *_validation_charts(validations),
        *_throughput_charts(metrics),
    )
    return render_page(
        "run.html",
        title=f"{config.get('model', '?')} on {config.get('camera') or 'no camera'}",
        lead=_lead(run_dir, provenance, summary, config, metrics),
        figures=_figures(summary, metrics, validations, history),
        gallery=Gallery(pictures) if pictures else None,
        picture_note=picture_note(config.get("target")),
        training_charts=_layouts(charts),
        disk_charts=_layouts([_disk_chart(history)] if history else []),
        command=provenance.get("command"),
        settings=_settings(config, provenance, summary),
    )


def _lead(
    run_dir: Path,
    provenance: dict[str, Any],
    summary: RunSummary | None,
    config: dict[str, Any],
    metrics: Sequence[MetricsLine],
) -> str:
    started = f"Started {provenance['started']}. " if provenance.get("started") else ""
    if summary:
        end = f"Ended ({summary.ended}) after {format_count(summary.iterations, 'iteration')}: {summary.limiting_side}."
    else:
        wanted = config.get("iterations")
        goal = f" of {wanted:,}" if type(wanted) is int else ""
        logged = f"{metrics[-1].iteration:,}" if metrics else "0"
        end = f"Still running, or killed: {logged}{goal} iterations are logged."
    return f"Run “{run_dir.absolute().name}”. {started}{end}"


def _figures(
    summary: RunSummary | None,
    metrics: Sequence[MetricsLine],
    validations: Sequence[Validation],
    history: Sequence[SpoolHistoryLine],
) -> list[tuple[str, str, str]]:
    """Return name, value and remark of the most important figures, where they are known."""
    newest = metrics[-1] if metrics else None
    rates: tuple[float, float] | None = None
    done, seconds = 0, 0.0
    if summary:
        done, seconds = summary.iterations, summary.seconds
        rates = (summary.samples_per_second, summary.data_wait_fraction)
    elif newest:
        done, seconds = newest.iteration, newest.seconds
        rates = (newest.samples_per_s, newest.data_wait_fraction)
    figures = [("iterations", f"{done:,}", f"in {format_duration(seconds)}")]
    if newest:
        first = summary.first_loss if summary and summary.first_loss else metrics[0].loss
        figures.append(("loss", f"{newest.loss:.4f}", f"from {first:.4f}"))
    if validations:
        last, best = validations[-1], best_validation(validations)
        remark = f"SSIM {last.ssim:.3f}, {format_count(len(last.scores), 'picture')}"
        if best and best is not last:
            remark += f"; best {best.psnr:.2f} dB after {format_count(best.iteration, 'iteration')}"
        figures.append(("validation PSNR", f"{last.psnr:.2f} dB", remark))
    if rates:
        figures.append(("samples/s", f"{rates[0]:.1f}", ""))
        figures.append(("waited for data", f"{rates[1]:.1%}", "of the time"))
    peak = max([summary.peak_disk_bytes if summary else 0, *(line.disk_bytes for line in history)])
    if peak:
        budget = history[-1].budget_bytes if history else None
        remark = f"of {format_bytes(budget)} budget" if budget else ""
        figures.append(("largest spool", format_bytes(peak), remark))
    if summary:
        figures.append(("shards deleted", f"{summary.shards_deleted:,}", "after use"))
    return figures


# -- charts -------------------------------------------------------------------------------------------


def _layouts(charts: Sequence[Chart]) -> list[ChartLayout]:
    return [layout for chart in charts if (layout := chart.layout())]


def _points(lines: Sequence[MetricsLine | Validation], name: str) -> Points:
    """Return (iteration, value) for all lines in which the field `name` is not None."""
    found = ((line.iteration, getattr(line, name)) for line in lines)
    return [(float(iteration), float(value)) for iteration, value in found if value is not None]


def _training_charts(metrics: Sequence[MetricsLine]) -> list[Chart]:
    losses, rates = _points(metrics, "loss"), _points(metrics, "learning_rate")
    charts = [
        Chart(
            title="Loss",
            description="The bold line is smoothed; the axis is logarithmic.",
            curves=(
                Curve(name="loss", points=losses, style="thin"),
                Curve(name="smoothed loss", points=smooth(losses)),
            ),
            x_label="iterations",
            format_y=format_number,
            log_scale=True,
        )
    ]
    if rates:
        changes = len({rate for _, rate in rates}) > 1
        description = (
            "It drops once, at half of the iterations."
            if changes
            else f"{rates[0][1]:.2g} throughout."
        )
        charts.append(
            Chart(
                title="Learning rate",
                description=description,
                curves=(Curve(name="learning rate", points=rates, colour=2, keep_extremes=True),),
                x_label="iterations",
                format_y=lambda value: f"{value:.2g}",
                starts_at_zero=True,
            )
        )
    return charts


def _validation_charts(validations: Sequence[Validation]) -> list[Chart]:
    kinds: tuple[tuple[str, str, Callable[[float], str], float], ...] = (
        ("psnr", "PSNR", lambda value: f"{value:.1f} dB", 0.1),
        ("ssim", "SSIM", lambda value: f"{value:.3f}", 0.001),
    )
    charts = []
    for name, title, text, resolution in kinds:
        points = _points(validations, name)
        if not points:
            continue
        best = max(points, key=lambda point: point[1])
        charts.append(
            Chart(
                title=f"Validation {title}",
                description=f"{text(points[-1][1])} at the end, at best {text(best[1])} after {format_count(best[0], 'iteration')}.",
                curves=(Curve(name=title, points=points, style="dots", colour=3),),
                x_label="iterations",
                format_y=text,
                y_resolution=resolution,
                mark=("best", *best),
            )
        )
    return charts


def _throughput_charts(metrics: Sequence[MetricsLine]) -> list[Chart]:
    kinds: tuple[tuple[str, str, Callable[[float], str], float, int], ...] = (
        ("data_wait_fraction", "Waiting for data", lambda value: f"{value:.1%}", 0.001, 2),
        ("samples_per_s", "Samples per second", format_number, 0.0, 1),
        ("gpu_busy_percent", "GPU utilisation", lambda value: f"{value:.0f}%", 1.0, 3),
    )
    charts = []
    for name, title, text, resolution, colour in kinds:
        points = _points(metrics, name)
        if not points:
            continue
        mean = sum(y for _, y in points) / len(points)
        charts.append(
            Chart(
                title=title,
                description=f"{text(mean)} on average, {text(max(y for _, y in points))} at most.",
                curves=(Curve(name=title, points=points, style="area", colour=colour),),
                x_label="iterations",
                format_y=text,
                y_resolution=resolution,
                starts_at_zero=True,
            )
        )
    return charts


def _disk_chart(history: Sequence[SpoolHistoryLine]) -> Chart:
    points: list[tuple[float, float]] = []
    for line in history:
        minutes = line.seconds / 60
        points += [(minutes, float(line.least_disk_bytes)), (minutes, float(line.disk_bytes))]
    budget = history[-1].budget_bytes
    peak = max(y for _, y in points)
    share = f", {peak / budget:.0%} of the budget of {format_bytes(budget)}" if budget else ""
    return Chart(
        title="Disk space in use",
        description=f"At most {format_bytes(peak)}{share}.",
        curves=(Curve(name="spool", points=points, style="area", keep_extremes=True),),
        x_label="min",
        format_x=format_number,
        x_resolution=0.0,
        format_y=format_bytes,
        starts_at_zero=True,
        limit=("budget", float(budget)) if budget else None,
        wide=True,
    )


# -- pictures -----------------------------------------------------------------------------------------


def _validation_pictures(run_dir: Path, validations: Sequence[Validation]) -> list[PictureSet]:
    sets = []
    folders = (path for path in (run_dir / VALIDATION_FOLDER).glob("*") if path.is_dir())
    for folder in sorted(folders)[:_MAX_SCENES]:
        own = {
            line.iteration: score
            for line in validations
            for score in line.scores
            if score.pair == folder.name
        }
        files = [path for path in folder.glob("*.jpg") if re.fullmatch(r"\d+", path.stem)]
        restored = [_restored(path, own) for path in evenly_spaced(sorted(files), _MAX_RESTORED)]
        restored = [picture for picture in restored if picture.jpeg]
        dark, amplified, truth = (
            Picture(kind=kind, label=label, jpeg=_read_jpeg(folder / f"{kind}.jpg"))
            for kind, label in _INPUTS_AND_TRUTH
        )
        size = jpeg_size(dark.jpeg)
        if not (restored and size and amplified.jpeg and truth.jpeg):
            continue
        caption = f"{folder.name}: a crop at full size"
        if last := own.get(restored[-1].iteration or 0):
            caption += f"; restored at the end with {last.psnr:.2f} dB, SSIM {last.ssim:.3f}"
        sets.append(
            PictureSet(
                name=folder.name,
                caption=caption,
                size=size,
                pictures=(dark, amplified, *restored, truth),
            )
        )
    return sets


def _restored(path: Path, scores: Mapping[int, PictureScore]) -> Picture:
    iteration = int(path.stem)
    label = f"restored, {format_count(iteration, 'iteration')}"
    if iteration in scores:
        label += f", {scores[iteration].psnr:.1f} dB"
    return Picture(kind="restored", label=label, jpeg=_read_jpeg(path), iteration=iteration)


def _read_jpeg(path: Path) -> bytes:
    """Return the content of a JPEG file; empty if it is not a valid JPEG of a training run.

    Links are not followed: in a run of someone else they could put this user's own pictures into the page.
    """
    if any(part.is_symlink() for part in (path, *path.parents[:2])):
        return b""
    try:
        jpeg = read_regular_file(path, _MOST_JPEG_BYTES + 1)
    except OSError:
        return b""
    return jpeg if len(jpeg) <= _MOST_JPEG_BYTES and jpeg_size(jpeg) else b""


# -- settings -----------------------------------------------------------------------------------------


def _settings(
    config: dict[str, Any], provenance: dict[str, Any], summary: RunSummary | None
) -> list[tuple[str, dict[str, Any]]]:
    """Return the run's settings in titled groups of names and values."""
    parts = {name: provenance.get(name) for name in ("plan", "versions", "machine")}
    plan, versions, machine = (part if isinstance(part, dict) else {} for part in parts.values())
    tables = [
        ("Configuration", config),
        ("Plan", _readable_bytes(plan)),
        ("Versions", versions),
        ("Machine", machine),
        ("Summary", _readable_bytes(summary.record() if summary else {})),
    ]
    return [(title, entries) for title, entries in tables if entries]


def _readable_bytes(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with readable names, and numbers of bytes with a unit."""
    return {
        name.removesuffix("_bytes").replace("_", " "): format_bytes(value)
        if name.endswith("_bytes") and type(value) is int and 0 <= value < 10**18
        else value
        for name, value in entries.items()
    }

"""Reports to look at: of a run, from its directory alone, and of an evaluation.

The trade-off: a report is made anew from the files each time, so it can be made of a run at work, of one
that was killed, and of one from another machine; what was not written down cannot be shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from darkprep.report.charts import Chart, Points, Series, smoothed
from darkprep.report.page import (
    Layer,
    Scene,
    facts,
    gallery,
    page,
    section,
    table,
    tiles,
    write_page,
)
from darkprep.report.provenance import FILE as ABOUT
from darkprep.shards import OptionError
from darkprep.shards.files import read_json, read_regular_file
from darkprep.view.history import FILE as HISTORY
from darkprep.view.history import checked_lines, number
from darkprep.view.numbers import format_bytes, format_duration

NAME = "report.html"
_MOST_STEPS = 8
"""Iterations whose pictures are shown of a scene."""
_LAYERS = (("dark", "dark input"), ("amplified", "amplified input"), ("truth", "truth"))


VALIDATION_FOLDER = "heldout"
"""Where a run keeps the pictures of its validation, below its directory."""


def write_run_report(run_dir: Path) -> Path:
    """Make report.html in a run's directory; its path. Raises OptionError where there is no run."""
    config = read_json(run_dir / "config.json")
    if config is None:
        raise OptionError(f"{run_dir}: holds no run (no config.json); name a run's directory")
    write_page(run_dir / NAME, run_page(run_dir, config))
    return run_dir / NAME


def run_page(run_dir: Path, config: dict[str, Any]) -> str:
    """The page of a run; what is damaged in its files is left out, as if it had not been written."""
    summary = _checked_summary(read_json(run_dir / "summary.json") or {})
    about = read_json(run_dir / ABOUT) or {}
    metrics = checked_lines(run_dir / "metrics.jsonl", ("iteration", "loss"))
    judged = checked_lines(run_dir / "evaluations.jsonl", ("iteration", "psnr", "ssim"))
    history = checked_lines(run_dir / HISTORY, ("seconds", "disk_bytes", "least_disk_bytes"))
    scenes = _run_scenes(run_dir, judged)
    title = f"{config.get('model', '?')} on {config.get('camera') or 'no camera'}"
    curves = _training_curves(metrics) + _judged_curves(judged) + _pace_curves(metrics)
    sections = [
        _run_tiles(summary, metrics, judged, history),
        section("Held-out pictures", gallery(scenes), note=_PICTURES) if scenes else "",
        section("Training", _charts(curves)) if curves else "",
        section("The disk budget", _charts([_saw_tooth(history)]), note=_SPOOL) if history else "",
        _run_facts(config, about, summary),
    ]
    lead = _run_lead(run_dir, about, summary, config, metrics)
    return page(title=title, lead=lead, sections=sections)


def _checked_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary that says how the training ended; else none, as of one at work."""
    numbers = all(number(summary, name) is not None for name in ("iterations", "seconds"))
    texts = all(isinstance(summary.get(name), str) for name in ("ended", "limiting_side"))
    return summary if numbers and texts else {}


_PICTURES = (
    "Scenes that the network does not train on. Drag the divider, or move it with the arrow keys; "
    "choose what stands on either side, and after how many iterations."
)
_SPOOL = (
    "What the spool occupied on the disk. Producers fill it up to the budget, the trainer deletes each "
    "shard when it is used up."
)


def _run_lead(
    run_dir: Path,
    about: dict[str, Any],
    summary: dict[str, Any],
    config: dict[str, Any],
    metrics: Sequence[dict[str, Any]],
) -> str:
    started = f"Started {about['started']}. " if about.get("started") else ""
    if summary:
        end = f"Ended ({summary['ended']}) after {summary['iterations']:,} iterations: {summary['limiting_side']}."
    else:
        done = metrics[-1]["iteration"] if metrics else 0
        wanted = number(config, "iterations")
        goal = "" if wanted is None else f" of {wanted:,}"
        end = f"At work, or killed: {done:,}{goal} iterations are told of."
    return f"Run “{run_dir.absolute().name}”. {started}{end}"


def _run_tiles(
    summary: dict[str, Any],
    metrics: Sequence[dict[str, Any]],
    judged: Sequence[dict[str, Any]],
    history: Sequence[dict[str, Any]],
) -> str:
    newest = metrics[-1] if metrics else {}
    done = summary.get("iterations", newest.get("iteration", 0))
    seconds = _first_number("seconds", summary, newest) or 0.0
    shown = [("iterations", f"{done:,}", f"in {format_duration(seconds)}")]
    if newest:
        first = number(summary, "first_loss") or metrics[0]["loss"]
        shown.append(("loss", f"{newest['loss']:.4f}", f"from {first:.4f}"))
    if judged:
        last = judged[-1]
        below = f"SSIM {last['ssim']:.3f}, {_counted(len(_images(last)), 'piece')}"
        shown.append(("held-out PSNR", f"{last['psnr']:.2f} dB", below))
    pace = number(summary, "samples_per_second")
    pace = number(newest, "samples_per_s") if pace is None else pace
    if pace is not None:
        shown.append(("samples a second", f"{pace:.1f}", ""))
    wait = _first_number("data_wait_fraction", summary, newest)
    if wait is not None:
        shown.append(("waited for data", f"{wait:.1%}", "of the time"))
    peaks = [number(summary, "peak_disk_bytes") or 0, *(line["disk_bytes"] for line in history)]
    peak = max(peaks)
    if peak:
        budget = number(history[-1], "budget_bytes") if history else None
        below = f"of {format_bytes(budget)} budget" if budget else "spool at most"
        shown.append(("spool at most", format_bytes(peak), below))
    deleted = number(summary, "shards_deleted")
    if deleted is not None:
        shown.append(("shards deleted", f"{deleted:,}", "after use"))
    return tiles(shown)


def _first_number(name: str, *records: dict[str, Any]) -> float | None:
    """The number of that name in the first record that has one."""
    found = (number(record, name) for record in records)
    return next((value for value in found if value is not None), None)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# -- curves -------------------------------------------------------------------------------------------


def _points(lines: Sequence[dict[str, Any]], name: str) -> Points:
    found = ((line["iteration"], number(line, name)) for line in lines)
    return [(float(iteration), float(value)) for iteration, value in found if value is not None]


def _charts(charts: Sequence[Chart]) -> str:
    return f'<div class="charts">{"".join(chart.html() for chart in charts)}</div>'


def _training_curves(metrics: Sequence[dict[str, Any]]) -> list[Chart]:
    losses, rates = _points(metrics, "loss"), _points(metrics, "learning_rate")
    if len(losses) < 2:
        return []
    loss = Chart(
        title="Loss",
        says="The bold line is smoothed; the axis is logarithmic.",
        series=(
            Series(name="loss", points=losses, style="thin"),
            Series(name="smoothed loss", points=smoothed(losses)),
        ),
        x_name="iterations",
        y_text=lambda value: f"{value:.3g}",
        log=True,
    )
    changes = {rate for _, rate in rates}
    says = f"{rates[0][1]:.2g} throughout." if len(changes) == 1 else "It drops once, at half time."
    rate = Chart(
        title="Learning rate",
        says=says,
        series=(Series(name="learning rate", points=rates, colour=2, extremes=True),),
        x_name="iterations",
        y_text=lambda value: f"{value:.2g}",
        from_zero=True,
    )
    return [loss, rate]


def _judged_curves(judged: Sequence[dict[str, Any]]) -> list[Chart]:
    kinds: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("psnr", "PSNR", lambda value: f"{value:.1f} dB"),
        ("ssim", "SSIM", lambda value: f"{value:.3f}"),
    )
    charts = []
    for name, title, text in kinds:
        points = _points(judged, name)
        if len(points) < 2:
            continue
        best = max(points, key=lambda point: point[1])
        charts.append(
            Chart(
                title=f"Held-out {title}",
                says=f"{text(points[-1][1])} at the end, at best {text(best[1])} after {best[0]:,.0f} iterations.",
                series=(Series(name=title, points=points, style="dots", colour=3),),
                x_name="iterations",
                y_text=text,
            )
        )
    return charts


def _pace_curves(metrics: Sequence[dict[str, Any]]) -> list[Chart]:
    kinds: tuple[tuple[str, str, Callable[[float], str], int], ...] = (
        ("data_wait_fraction", "Waiting for data", lambda value: f"{value:.1%}", 2),
        ("samples_per_s", "Samples a second", lambda value: f"{value:.3g}", 1),
        ("gpu_busy_percent", "GPU in use", lambda value: f"{value:.0f} %", 3),
    )
    charts = []
    for name, title, text, colour in kinds:
        points = _points(metrics, name)
        if len(points) < 2:
            continue
        mean = sum(y for _, y in points) / len(points)
        charts.append(
            Chart(
                title=title,
                says=f"{text(mean)} on average, {text(max(y for _, y in points))} at most.",
                series=(Series(name=title, points=points, style="area", colour=colour),),
                x_name="iterations",
                y_text=text,
                from_zero=True,
            )
        )
    return charts


def _saw_tooth(history: Sequence[dict[str, Any]]) -> Chart:
    points: list[tuple[float, float]] = []
    for line in history:
        minutes = line["seconds"] / 60
        points += [(minutes, float(line["least_disk_bytes"])), (minutes, float(line["disk_bytes"]))]
    budget = number(history[-1], "budget_bytes")
    most = max(y for _, y in points)
    says = f"Never more than {format_bytes(most)}"
    says += f", {most / budget:.0%} of the budget of {format_bytes(budget)}." if budget else "."
    return Chart(
        title="Disk in use",
        says=says,
        series=(Series(name="spool", points=points, style="area", extremes=True),),
        x_name="min",
        x_text=lambda value: f"{value:.3g}",
        y_text=format_bytes,
        from_zero=True,
        limit=("budget", float(budget)) if budget else None,
        wide=True,
    )


# -- pictures -----------------------------------------------------------------------------------------


def _run_scenes(run_dir: Path, judged: Sequence[dict[str, Any]]) -> list[Scene]:
    scores = {
        (line["iteration"], image["pair"]): image for line in judged for image in _images(line)
    }
    scenes = []
    for folder in sorted(path for path in (run_dir / VALIDATION_FOLDER).glob("*") if path.is_dir()):
        own = {step: image for (step, pair), image in scores.items() if pair == folder.name}
        steps = [path for path in folder.glob("*.jpg") if re.fullmatch(r"\d+", path.stem)]
        shown = [_restored(path, own) for path in _spread(sorted(steps))]
        restored = [layer for layer in shown if layer.jpeg]
        layers = [
            Layer(name=name, label=label, jpeg=_jpeg(folder / f"{name}.jpg"))
            for name, label in _LAYERS
        ]
        if not restored or not all(layer.jpeg for layer in layers):
            continue
        last = own.get(restored[-1].step or 0)
        caption = f"{folder.name}: a piece at full size"
        if last:
            caption += f"; restored at the end with {last['psnr']:.2f} dB, SSIM {last['ssim']:.3f}"
        scenes.append(
            Scene(
                name=folder.name,
                caption=caption,
                size=_size(layers[0].jpeg) or (1, 1),
                layers=(*layers[:2], *restored, layers[2]),
            )
        )
    return scenes


def _images(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The pieces that a line of evaluations.jsonl has figures of."""
    images = line.get("images")
    return [
        image
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict)
        and isinstance(image.get("pair"), str)
        and all(number(image, name) is not None for name in ("psnr", "ssim"))
    ]


def _restored(path: Path, scores: Mapping[int, dict[str, Any]]) -> Layer:
    step = int(path.stem)
    label = f"restored, {step:,} iterations"
    if step in scores:
        label += f", {scores[step]['psnr']:.1f} dB"
    return Layer(name="restored", label=label, jpeg=_jpeg(path), step=step)


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most _MOST_STEPS of them, the first and the last among these."""
    if len(paths) <= _MOST_STEPS:
        return list(paths)
    places = {round(i * (len(paths) - 1) / (_MOST_STEPS - 1)) for i in range(_MOST_STEPS)}
    return [paths[place] for place in sorted(places)]


def _jpeg(path: Path) -> bytes:
    """The picture at `path`; nothing where there is none that can be opened."""
    try:
        jpeg = read_regular_file(path)
    except OSError:
        return b""
    return jpeg if _size(jpeg) else b""


def _size(jpeg: bytes) -> tuple[int, int] | None:
    """Width and height; None of what is no JPEG."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            return picture.size if all(picture.size) else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


# -- tables -------------------------------------------------------------------------------------------


def _run_facts(config: dict[str, Any], about: dict[str, Any], summary: dict[str, Any]) -> str:
    told = {name: about.get(name) for name in ("plan", "versions", "machine")}
    plan, versions, machine = (one if isinstance(one, dict) else {} for one in told.values())
    kinds = [("Configuration", config), ("Plan", _in_words(plan))]
    kinds += [("Versions", versions), ("Machine", machine)]
    kinds.append(("Summary", _in_words(summary)))
    shown = "".join(facts(title, entries) for title, entries in kinds if entries)
    note = f"Command: {about['command']}" if about.get("command") else ""
    return section("What it was made with", f'<div class="facts">{shown}</div>', note=note)


def _in_words(entries: dict[str, Any]) -> dict[str, Any]:
    """Bytes as people read them."""
    counts = {name: number(entries, name) for name in entries if name.endswith("_bytes")}
    said = {name: format_bytes(count) for name, count in counts.items() if count is not None}
    return {
        name.removesuffix("_bytes").replace("_", " "): value
        for name, value in (entries | said).items()
    }


# -- evaluations --------------------------------------------------------------------------------------


def evaluation_page(record: dict[str, Any], scenes: Sequence[Scene], *, lead: str) -> str:
    """The page of an evaluation: `record` is what metrics.json holds."""
    with_baseline = record.get("baseline_ssim") is not None
    shown = [
        ("PSNR", _decibels(record["psnr"]), f"mean of {record['pairs']} pairs"),
        ("SSIM", f"{record['ssim']:.4f}", ""),
    ]
    if with_baseline:
        gain = f"SSIM {record['baseline_ssim']:.4f}"
        shown.append(("amplified input", _decibels(record["baseline_psnr"]), gain))
    heads = ["pair", "ratio", "amplification", "PSNR", "SSIM"]
    heads += ["input PSNR", "input SSIM"] if with_baseline else []
    rows = [_image_row(image, with_baseline=with_baseline) for image in record["images"]]
    sections = [
        tiles(shown),
        section("Pictures", gallery(scenes), note=_EVALUATED) if scenes else "",
        section(
            "All pairs",
            table(heads, rows, caption="Scores of all pairs"),
            note=f"Protocol {record['protocol']}: {record['protocol_says']}.",
        ),
    ]
    return page(title=f"Evaluation on {record['camera']}", lead=lead, sections=sections)


_EVALUATED = (
    "From the worst restored to the best. Drag the divider, or move it with the arrow keys; choose what "
    "stands on either side."
)


def _image_row(image: dict[str, Any], *, with_baseline: bool) -> list[str]:
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

"""Reports to look at: of a run, from its directory alone, and of an evaluation.

The trade-off: a report is made anew from the files each time, so it can be made of a run at work, of one
that was killed, and of one from another machine; what was not written down cannot be shown.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from darkprep.about import FILE as ABOUT
from darkprep.charts import Chart, Points, Series, smoothed
from darkprep.heldout import pictures_of
from darkprep.history import FILE as HISTORY
from darkprep.history import read_lines
from darkprep.page import Layer, Scene, facts, gallery, page, section, table, tiles, write_page
from darkprep.values import spelled_bytes, spelled_seconds
from shards import OptionError
from shards.durable import read_json

NAME = "report.html"
_MOST_STEPS = 8
"""Iterations whose pictures are shown of a scene."""
_LAYERS = (("dark", "dark input"), ("amplified", "amplified input"), ("truth", "truth"))


def write_run_report(run_dir: Path) -> Path:
    """Make report.html in a run's directory; its path. Raises OptionError where there is no run."""
    config = read_json(run_dir / "config.json")
    if config is None:
        raise OptionError(f"{run_dir}: holds no run (no config.json); name a run's directory")
    text = run_page(run_dir, config)
    write_page(run_dir / NAME, text)
    return run_dir / NAME


def run_page(run_dir: Path, config: dict[str, Any]) -> str:
    """The page of a run."""
    summary = read_json(run_dir / "summary.json") or {}
    about = read_json(run_dir / ABOUT) or {}
    metrics = read_lines(run_dir / "metrics.jsonl")
    judged = read_lines(run_dir / "evaluations.jsonl")
    history = read_lines(run_dir / HISTORY)
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
    return page(
        title=title, lead=_run_lead(run_dir, about, summary, config, metrics), sections=sections
    )


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
        end = f"Ended ({summary['ended']}) after {summary['iterations']:,} iterations: {summary['who_limits']}."
    else:
        done = metrics[-1]["iteration"] if metrics else 0
        end = f"At work, or killed: {done:,} of {config.get('iterations', 0):,} iterations are told of."
    return f"Run “{run_dir.absolute().name}”. {started}{end}"


def _run_tiles(
    summary: dict[str, Any],
    metrics: Sequence[dict[str, Any]],
    judged: Sequence[dict[str, Any]],
    history: Sequence[dict[str, Any]],
) -> str:
    newest = metrics[-1] if metrics else {}
    done = summary.get("iterations", newest.get("iteration", 0))
    seconds = summary.get("seconds", newest.get("seconds", 0.0))
    shown = [("iterations", f"{done:,}", f"in {spelled_seconds(seconds)}")]
    if newest:
        first = summary.get("first_loss") or metrics[0]["loss"]
        shown.append(("loss", f"{newest['loss']:.4f}", f"from {first:.4f}"))
    if judged:
        last = judged[-1]
        below = f"SSIM {last['ssim']:.3f}, {_counted(len(last['images']), 'piece')}"
        shown.append(("held-out PSNR", f"{last['psnr']:.2f} dB", below))
    pace = summary.get("samples_per_second", newest.get("samples_per_s"))
    if pace is not None:
        shown.append(("samples a second", f"{pace:.1f}", ""))
    wait = summary.get("data_wait_fraction", newest.get("data_wait_fraction"))
    if wait is not None:
        shown.append(("waited for data", f"{wait:.1%}", "of the time"))
    peak = max([summary.get("peak_disk_bytes", 0), *(line["disk_bytes"] for line in history)])
    if peak:
        budget = history[-1].get("budget_bytes") if history else None
        below = f"of {spelled_bytes(budget)} budget" if budget else "spool at most"
        shown.append(("spool at most", spelled_bytes(peak), below))
    if "shards_deleted" in summary:
        shown.append(("shards deleted", f"{summary['shards_deleted']:,}", "after use"))
    return tiles(shown)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# -- curves -------------------------------------------------------------------------------------------


def _points(lines: Sequence[dict[str, Any]], name: str, by: str = "iteration") -> Points:
    return [(float(line[by]), float(line[name])) for line in lines if line.get(name) is not None]


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
    budget = history[-1].get("budget_bytes")
    most = max(y for _, y in points)
    says = f"Never more than {spelled_bytes(most)}"
    says += f", {most / budget:.0%} of the budget of {spelled_bytes(budget)}." if budget else "."
    return Chart(
        title="Disk in use",
        says=says,
        series=(Series(name="spool", points=points, style="area", extremes=True),),
        x_name="min",
        x_text=lambda value: f"{value:.3g}",
        y_text=spelled_bytes,
        from_zero=True,
        limit=("budget", float(budget)) if budget else None,
        wide=True,
    )


# -- pictures -----------------------------------------------------------------------------------------


def _run_scenes(run_dir: Path, judged: Sequence[dict[str, Any]]) -> list[Scene]:
    scores = {
        (line["iteration"], image["pair"]): image
        for line in judged
        for image in line.get("images", [])
    }
    scenes = []
    for folder in pictures_of(run_dir):
        steps = _spread(sorted(folder.glob("[0-9]*.jpg")))
        if not steps or not all((folder / f"{name}.jpg").exists() for name, _ in _LAYERS):
            continue
        layers = [
            Layer(name=name, label=label, jpeg=(folder / f"{name}.jpg").read_bytes())
            for name, label in _LAYERS
        ]
        restored = [_restored(path, scores.get((int(path.stem), folder.name))) for path in steps]
        last = scores.get((int(steps[-1].stem), folder.name))
        caption = f"{folder.name}: a piece at full size"
        if last:
            caption += f"; restored at the end with {last['psnr']:.2f} dB, SSIM {last['ssim']:.3f}"
        scenes.append(
            Scene(
                name=folder.name,
                caption=caption,
                size=_size(layers[0].jpeg),
                layers=(*layers[:2], *restored, layers[2]),
            )
        )
    return scenes


def _restored(path: Path, scores: dict[str, Any] | None) -> Layer:
    step = int(path.stem)
    label = f"restored, {step:,} iterations"
    if scores:
        label += f", {scores['psnr']:.1f} dB"
    return Layer(name="restored", label=label, jpeg=path.read_bytes(), step=step)


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most _MOST_STEPS of them, the first and the last among these."""
    if len(paths) <= _MOST_STEPS:
        return list(paths)
    places = {round(i * (len(paths) - 1) / (_MOST_STEPS - 1)) for i in range(_MOST_STEPS)}
    return [paths[place] for place in sorted(places)]


def _size(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return picture.size


# -- tables -------------------------------------------------------------------------------------------


def _run_facts(config: dict[str, Any], about: dict[str, Any], summary: dict[str, Any]) -> str:
    kinds = [("Configuration", config), ("Plan", _in_words(about.get("plan", {})))]
    kinds += [("Versions", about.get("versions", {})), ("Machine", about.get("machine", {}))]
    kinds.append(("Summary", _in_words(summary)))
    shown = "".join(facts(title, entries) for title, entries in kinds if entries)
    note = f"Command: {about['command']}" if about.get("command") else ""
    return section("What it was made with", f'<div class="facts">{shown}</div>', note=note)


def _in_words(entries: dict[str, Any]) -> dict[str, Any]:
    """Bytes as people read them."""
    return {
        name.removesuffix("_bytes").replace("_", " "): spelled_bytes(value)
        if name.endswith("_bytes") and isinstance(value, int)
        else value
        for name, value in entries.items()
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

"""How the state of a spool is drawn: one screen for a terminal, one line for a pipe.

Both are pure functions of the record that `darkprep status --json` prints, so every command shows the
same. The trade-off: a figure that is not in that record cannot be seen live.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from darkprep.view.numbers import format_bytes, format_duration
from darkprep.view.status import waiting_words

_BAR_CELLS = 40
_SPARKS = "▁▂▃▄▅▆▇█"
_WIDEST = 100
_STATE_STYLES = {
    "making": "green",
    "done": "green",
    "waiting for the trainer": "yellow",
    "waiting for disk space": "red",
    "stopped": "dim",
    "failed": "red",
}


def screen(record: dict[str, Any], *, title: str, elapsed_s: float, width: int) -> RenderableType:
    """The whole state for `width` columns: producers, spool, trainer, and who limits."""
    inner = min(width, _WIDEST) - 4
    cells = max(10, min(_BAR_CELLS, inner - 41))
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    rows.add_row("producers", Group(*_producer_rows(record["producers"])))
    rows.add_row("spool", Group(*_spool_rows(record, cells)))
    rows.add_row("trainer", Group(*_trainer_rows(record["trainer"], cells)))
    limit = Text(record["limiting_side"], style="italic")
    return Panel(
        Group(rows, Text(""), limit),
        title=Text(f" {title} ", style="bold"),
        title_align="left",
        subtitle=Text(f" {format_duration(elapsed_s)} ", style="dim"),
        subtitle_align="right",
        border_style="cyan",
        width=inner + 4,
    )


def line(record: dict[str, Any]) -> str:
    """The same in one line."""
    trainer = record["trainer"]
    alive = [one for one in record["producers"] if one["alive"]]
    parts = [*_trainer_words(trainer)] if trainer["alive"] else []
    parts.append(_disk_words(record))
    parts.append(f"{record['shards_ready']} shards ready")
    if alive:
        parts.append(_producer_words(alive[-1]))
    if record["damaged"]:
        parts.append(f"{record['damaged']} damaged")
    return " | ".join(parts)


# -- the three rows -----------------------------------------------------------------------------------


def _producer_rows(producers: list[dict[str, Any]]) -> list[Text]:
    alive = [one for one in producers if one["alive"]]
    if not alive:
        return [Text("none at work", style="dim")]
    rows = []
    for one in alive:
        state = str(one["state"])
        rows.append(
            Text.assemble(
                ("● ", _STATE_STYLES.get(state, "dim")),
                state,
                f" · {one.get('mb_per_s', 0.0):.1f} MB/s",
                f" · blocked {one['blocked_fraction']:.0%}",
            )
        )
        rows.append(Text(_producer_counts(one), style="dim"))
    return rows


def _producer_counts(one: dict[str, Any]) -> str:
    parts = [
        f"{one.get('shards_made', 0):,} shards made",
        f"{one.get('frames_decoded', 0):,} frames decoded",
        f"room for {one.get('frames_kept', 0):,} of {one.get('frames_wanted', 0):,}",
    ]
    left = eta_of_producer(one)
    if left is not None:
        parts.append(f"ETA {format_duration(left)}")
    if one.get("skipped"):
        parts.append(f"{one['skipped']} files skipped")
    if one.get("deaths"):
        parts.append(f"{one['deaths']} workers replaced")
    return " · ".join(parts)


def _spool_rows(record: dict[str, Any], cells: int) -> list[Text]:
    shards = min(record["disk_bytes"], record["shards_ready"] * record["shard_bytes"])
    frames = record["disk_bytes"] - shards
    budget = record["budget_bytes"] or record["disk_bytes"] or 1
    bar = _bar([(frames / budget, "█", "blue"), (shards / budget, "▓", "cyan")], cells)
    below = [
        Text.assemble(("█", "blue"), " frames ", (format_bytes(frames), "dim")),
        Text.assemble(
            ("▓", "cyan"),
            f" {record['shards_ready']} shards ready ",
            (format_bytes(shards), "dim"),
        ),
    ]
    if record["damaged"]:
        below.append(Text(f"{record['damaged']} damaged, made again", style="yellow"))
    return [Text.assemble(bar, "  ", _disk_words(record)), Text("   ").join(below)]


def _disk_words(record: dict[str, Any]) -> str:
    used, budget = record["disk_bytes"], record["budget_bytes"]
    if not budget:
        return format_bytes(used)
    return f"{format_bytes(used)} of {format_bytes(budget)} ({used / budget:.0%})"


def _trainer_rows(trainer: dict[str, Any], cells: int) -> list[Text]:
    if not trainer["alive"]:
        said = "none at work"
        if trainer["batch"]:
            said += f"; the last one stopped at batch {trainer['batch']:,}"
        return [Text(said, style="dim")]
    words = _trainer_words(trainer)
    rows = []
    share = _share_done(trainer)
    if share is not None:
        rows.append(Text.assemble(_bar([(share, "█", "green")], cells), f"  {share:.0%}"))
    rows.append(Text(" · ".join(words[:3])))
    # A loss falls by factors: on a linear scale all but the first minutes would be flat.
    losses = [math.log(loss) for loss in trainer.get("recent_losses") or [] if loss > 0]
    if words[3:]:
        rows.append(Text(" · ".join(words[3:])))
    if len(losses) > 1:
        rows.append(Text.assemble(("loss ", "dim"), (sparkline(losses, cells - 5), "green")))
    return rows


def _trainer_words(trainer: dict[str, Any]) -> list[str]:
    """Place and pace first, then what may be unknown."""
    done, goal = trainer.get("iteration"), trainer.get("iterations")
    if done is None:
        return [f"batch {trainer['batch']:,}"]
    by_clock = _ends_by_clock(trainer)
    place = f"iteration {done:,}" + (f" of {goal:,}" if goal and not by_clock else "")
    words = [place, f"{trainer['iterations_per_s']:.2f} it/s"]
    words.append(f"{trainer['samples_per_s']:.1f} samples/s")
    if trainer.get("loss") is not None:
        words.append(f"loss {trainer['loss']:.4f}")
    words.append(f"data wait {trainer['wait_fraction']:.1%}{waiting_words(trainer)}")
    if trainer.get("gpu_busy_percent") is not None:
        words.append(f"GPU {trainer['gpu_busy_percent']:.0f} %")
    if by_clock:
        words.append(f"ends in {format_duration(trainer['ends_in_s'])}")
    elif trainer.get("eta_s") is not None:
        words.append(f"ETA {format_duration(trainer['eta_s'])}")
    return words


def _ends_by_clock(trainer: dict[str, Any]) -> bool:
    """Whether the clock will end the training before its iterations do."""
    left, eta = trainer.get("ends_in_s"), trainer.get("eta_s")
    return left is not None and (eta is None or eta > left)


def _share_done(trainer: dict[str, Any]) -> float | None:
    """How much is done, by the clock where that will end the training."""
    if _ends_by_clock(trainer):
        whole = trainer["ends_in_s"] + trainer["clock_s"]
        return float(min(1.0, trainer["clock_s"] / whole)) if whole else 1.0
    if trainer.get("iteration") is None or not trainer.get("iterations"):
        return None
    return float(min(1.0, trainer["iteration"] / trainer["iterations"]))


def _producer_words(one: dict[str, Any]) -> str:
    left = eta_of_producer(one)
    end = "" if left is None else f", ETA {format_duration(left)}"
    return (
        f"producer {one['state']}, {one.get('shards_made', 0)} made, "
        f"{one.get('frames_decoded', 0)} frames decoded, {one.get('mb_per_s', 0.0):.1f} MB/s{end}"
    )


def eta_of_producer(one: dict[str, Any]) -> float | None:
    """Seconds until a producer has made all it was asked for; None without an end, or while it waits."""
    until, made, running = one.get("until"), one.get("shards_made"), one.get("running_s")
    if until is None or not made or not running or one["state"] != "making":
        return None
    left = until - int(one.get("next_needed", 0)) - int(one.get("shards_ready", 0))
    return float(max(0, left) * running / made)


# -- drawing ------------------------------------------------------------------------------------------


def _bar(parts: list[tuple[float, str, str]], cells: int) -> Text:
    """Shares of a whole, each with its own glyph, so that it reads without colour; at least one cell each."""
    bar, used = Text(), 0
    for share, glyph, style in parts:
        wanted = max(1, round(share * cells)) if share > 0 else 0
        count = min(wanted, cells - used)
        bar.append(glyph * count, style=style)
        used += count
    return bar.append("░" * (cells - used), style="dim")


def sparkline(values: Sequence[float], cells: int) -> str:
    """The course of some numbers in one row of at most `cells` characters."""
    shown = list(values)[-max(1, cells) :]
    low, high = min(shown), max(shown)
    reach = (high - low) or 1.0
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[round((value - low) / reach * top)] for value in shown)

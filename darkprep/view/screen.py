"""Draw a spool's status as a screen: producers, spool, trainer, and which of them limits the pace."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from darkprep.view.numbers import format_bytes, format_count, format_duration
from darkprep.view.status import SpoolStatus, TrainerStatus, WatchedProducer
from darkprep.view.text import disk_text, trainer_parts

_BAR_CELLS = 40
_SPARKS = "▁▂▃▄▅▆▇█"
_MAX_WIDTH = 100
_FREE_COLUMNS = 4
"""Columns left free beside the screen for the `^C` that a terminal prints; otherwise it would start a new line."""
_STATE_STYLES = {
    "making": "green",
    "done": "green",
    "waiting for the trainer": "yellow",
    "waiting for disk space": "red",
    "stopped": "dim",
    "failed": "red",
}


def screen(status: SpoolStatus, *, title: str, elapsed_s: float, width: int) -> RenderableType:
    """Return the whole status for a terminal of `width` columns."""
    outer = min(width - _FREE_COLUMNS, _MAX_WIDTH)
    cells = max(10, min(_BAR_CELLS, outer - 45))
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    rows.add_row("producers", Group(*_producer_rows(status.live_producers)))
    rows.add_row("spool", Group(*_spool_rows(status, cells)))
    rows.add_row("trainer", Group(*_trainer_rows(status.trainer, cells)))
    return Panel(
        Group(rows, Text(""), Text(status.limiting_side, style="italic")),
        title=Text(f" {title} ", style="bold"),
        title_align="left",
        subtitle=Text(f" {format_duration(elapsed_s)} ", style="dim"),
        subtitle_align="right",
        border_style="cyan",
        width=outer,
    )


def _producer_rows(producers: Sequence[WatchedProducer]) -> list[Text]:
    if not producers:
        return [Text("not running", style="dim")]
    rows = []
    for producer in producers:
        state = producer.status.state
        rows.append(
            Text.assemble(
                ("● ", _STATE_STYLES.get(state, "dim")),
                state,
                f" · {producer.status.mb_per_s or 0.0:.1f} MB/s",
                f" · blocked {producer.blocked_fraction:.0%}",
            )
        )
        rows.append(Text(_producer_counts(producer), style="dim"))
    return rows


def _producer_counts(producer: WatchedProducer) -> str:
    status = producer.status
    parts = [
        f"{format_count(status.shards_made or 0, 'shard')} made",
        f"{format_count(status.frames_decoded or 0, 'frame')} decoded",
        f"room for {status.frames_kept or 0:,} of {status.frames_wanted or 0:,}",
    ]
    if producer.eta_s is not None:
        parts.append(f"ETA {format_duration(producer.eta_s)}")
    if status.skipped:
        parts.append(f"{format_count(status.skipped, 'file')} skipped")
    if status.deaths:
        parts.append(f"{format_count(status.deaths, 'worker')} replaced")
    return " · ".join(parts)


def _spool_rows(status: SpoolStatus, cells: int) -> list[Text]:
    shards = min(status.disk_bytes, status.shards_ready * status.shard_bytes)
    frames = status.disk_bytes - shards
    budget = status.budget_bytes or status.disk_bytes or 1
    bar = _bar([(frames / budget, "█", "blue"), (shards / budget, "▓", "cyan")], cells)
    legend = [
        Text.assemble(("█", "blue"), " frames ", (format_bytes(frames), "dim")),
        Text.assemble(
            ("▓", "cyan"),
            f" {format_count(status.shards_ready, 'shard')} ready ",
            (format_bytes(shards), "dim"),
        ),
    ]
    if status.damaged:
        legend.append(Text(f"{status.damaged} damaged and rebuilt", style="yellow"))
    return [Text.assemble(bar, "  ", disk_text(status)), Text("   ").join(legend)]


def _trainer_rows(trainer: TrainerStatus, cells: int) -> list[Text]:
    if not trainer.alive:
        stopped = f"; the last one stopped at batch {trainer.batch:,}" if trainer.batch else ""
        return [Text(f"not running{stopped}", style="dim")]
    parts, rows = trainer_parts(trainer), []
    training = trainer.training
    share = training.share_done if training else None
    if share is not None:
        rows.append(Text.assemble(_bar([(share, "█", "green")], cells), f"  {share:.0%}"))
    rows.append(Text(" · ".join(parts[:3])))
    if parts[3:]:
        rows.append(Text(" · ".join(parts[3:])))
    # A loss falls by factors: on a linear scale all but the first minutes would be flat.
    losses = [math.log(loss) for loss in (training.recent_losses if training else ()) if loss > 0]
    if len(losses) > 1:
        rows.append(Text.assemble(("loss ", "dim"), (sparkline(losses, cells - 5), "green")))
    return rows


def _bar(parts: list[tuple[float, str, str]], cells: int) -> Text:
    """Return a bar of shares (share, glyph, style), each at least one cell wide; it is readable without colour."""
    bar, used = Text(), 0
    for share, glyph, style in parts:
        wanted = max(1, round(share * cells)) if share > 0 else 0
        count = min(wanted, cells - used)
        bar.append(glyph * count, style=style)
        used += count
    return bar.append("░" * (cells - used), style="dim")


def sparkline(values: Sequence[float], cells: int) -> str:
    """Return the last `cells` values as one row of characters, scaled between their minimum and maximum."""
    shown = list(values)[-max(1, cells) :]
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    top = len(_SPARKS) - 1
    return "".join(_SPARKS[round((value - low) / span * top)] for value in shown)

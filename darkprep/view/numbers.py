"""How numbers and lines are written for people: bytes, durations, one line of text."""

from __future__ import annotations

import math


def one_line(text: str) -> str:
    """`text` with what cannot be printed escaped: line ends, control characters, bytes that are no text."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def format_bytes(count: float) -> str:
    """`1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < (1000 if unit == "B" else 999.5):  # what rounds to 1000 is one of the next unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def format_duration(seconds: float) -> str:
    """`12 s`, `3:05 min`, `2:15 h`, `?` when it is not known."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"

"""A terminal as a file: it keeps the characters of a screen, with the control sequences that rich writes."""

from __future__ import annotations

import io
import re

_SEQUENCE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")


class Terminal(io.StringIO):
    """A file that is a terminal; `rows` is what stands on it, scrolled lines included."""

    def __init__(self, width: int = 100, height: int = 40) -> None:
        super().__init__()
        self.size = self._width, self._height = width, height
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def rows(self) -> list[str]:
        """All lines from the first one written to that of the cursor, without spaces at their ends."""
        assert not any("".join(row).strip() for row in self._rows[self._row + 1 :])
        return ["".join(row).rstrip() for row in self._rows[: self._row + 1]]

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        at = 0
        while at < len(text):
            sequence = _SEQUENCE.match(text, at)
            if sequence:
                self._control(sequence[1], sequence[2])
                at = sequence.end()
            else:
                self._put(text[at])
                at += 1
        return super().write(text)

    def _put(self, letter: str) -> None:
        if letter == "\n":
            self._row, self._column = self._row + 1, 0
        elif letter == "\r":
            self._column = 0
        else:
            if self._column == self._width:  # written full, the line wraps at the next letter
                self._row, self._column = self._row + 1, 0
            row = self._current()
            row += [" "] * (self._column + 1 - len(row))
            row[self._column] = letter
            self._column += 1
        self._current()

    def _current(self) -> list[str]:
        while len(self._rows) <= self._row:
            self._rows.append([])
        return self._rows[self._row]

    def _control(self, argument: str, kind: str) -> None:
        if kind == "A":
            top = max(0, len(self._rows) - self._height)
            self._row = max(top, self._row - int(argument or 1))
        elif kind == "K":
            assert argument == "2"
            self._current().clear()
        else:
            assert kind in "mhl", f"the terminal does not implement {kind}"

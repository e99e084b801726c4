"""Choices out of bytes: the same bytes make the same choices, and an end of the bytes makes zeros."""

from __future__ import annotations

import json
from typing import Any

_WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**12, 10**30, -(10**30), 0.5, 1e308, float("inf"),
    float("-inf"), float("nan"), "", "x", "../../x", "/etc/passwd", "\x00", "\ud800", "9" * 5000, [], {}, [[]],
    [0] * 9, {"host": {}}, "1", "NaN",
)  # fmt: skip
"""Values that parsers tend to forget."""


class Choices:
    """Takes the bytes one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self._data))

    def below(self, bound: int) -> int:
        """A number from 0 to `bound - 1`."""
        return int.from_bytes(self.take(4), "little") % bound

    def one_of(self, options: Any) -> Any:
        """One of a sequence."""
        return options[self.below(len(options))]

    def value(self) -> Any:
        """Something that JSON may hold."""
        kind = self.below(4)
        if kind == 0:
            return self.one_of(_WORDS)
        if kind == 1:
            return int.from_bytes(self.take(self.below(12)), "little", signed=True)
        if kind == 2:
            return self.take(self.below(40)).decode("latin-1")
        return [self.value() for _ in range(self.below(4))]

    def edited(self, good: bytes) -> bytes:
        """`good` with a few bytes changed, cut out or put in, or cut or made longer at its end."""
        data = bytearray(good)
        for _ in range(1 + self.below(4)):
            at, count = self.below(len(data) + 1), self.below(16)
            piece = self.take(count)
            kind = self.below(8)
            if kind < 5:
                data[at : at + len(piece)] = piece
            elif kind == 5:
                del data[at : at + count]
            elif kind == 6:
                data[at:at] = piece
            else:
                data = data[: len(data) - self.below(1 + len(data) // (1 + self.below(64)))]
        return bytes(data)

    def with_a_leaf_replaced(self, record: Any) -> Any:
        """A copy of a JSON value, one place in it replaced, removed or added."""
        copy = json.loads(json.dumps(record))
        self.replace_a_leaf(copy)
        return copy

    def replace_a_leaf(self, record: Any) -> None:
        """Replace, remove or change one value in `record`, lists and dictionaries in each other."""
        place = record
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = self.one_of(keys)
            if isinstance(place[key], dict | list) and place[key] and self.below(4):
                place = place[key]
                continue
            if self.below(8) == 0:
                del place[key]
            elif type(place[key]) in (int, float) and self.below(2):
                place[key] += self.below(17) - 8  # a value near a valid one may be valid too
            else:
                place[key] = self.value()
            break

    def json(self, record: Any) -> bytes:
        """A file that should hold `record`: a leaf replaced, or its bytes edited, or nothing of it left."""
        kind = self.below(8)
        if kind < 5:
            return json.dumps(self.with_a_leaf_replaced(record)).encode("utf-8", "replace")
        if kind < 7:
            return self.edited(json.dumps(record).encode())
        return self.rest()

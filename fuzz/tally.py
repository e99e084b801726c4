"""Counts of inputs and of accepted inputs, per part of a fuzz target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

ENOUGH = 5_000
"""After so many inputs of a part without an accepted one, the part counts as blind."""


class Tally:
    """The counts of one run of a target whose parts are `parts`."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._parts = tuple(parts)
        self.tried: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()

    def add(self, part: str, accepted: bool) -> None:
        """Count one input; raise AssertionError when its part has accepted none of many inputs."""
        self.tried[part] += 1
        self.accepted[part] += accepted
        if self.tried[part] == ENOUGH:
            assert self.accepted[part], f"{part}: none of {ENOUGH} inputs is valid"

    def blind(self) -> list[str]:
        """Return the parts that have accepted no input yet."""
        return [part for part in self._parts if not self.accepted[part]]

    def lines(self) -> list[str]:
        """Return one line of text for each part."""
        return [
            f"{part:16} {self.tried[part]:>9,} inputs, {self.accepted[part]:>9,} accepted"
            for part in self._parts
        ]

"""Records with one place changed: every place, by values of every JSON type."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

NESTED: Any = {"a": [{"b": [None, 1]}]}
for _ in range(30):
    NESTED = [NESTED]
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, float("inf"), float("nan"), 10**400, "", "\ud800", "x" * 100_000, [], {}, NESTED),
)  # fmt: skip
"""Values of every JSON type."""
REMOVED = object()

Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Yield the places in a record: keys and numbers of items, from the outermost one on."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*above, key)
            yield from places(value[key], (*above, key))


def replace_at(record: Any, place: Place, value: Any) -> None:
    """Replace one place of a record, or remove it."""
    *above, last = place
    for key in above:
        record = record[key]
    if value is REMOVED:
        del record[last]
    else:
        record[last] = value


def changed(record: Any, place: Place, value: Any) -> Any:
    """Return a copy of a record in which one place is replaced, or removed."""
    result = copy.deepcopy(record)
    replace_at(result, place, value)
    return result

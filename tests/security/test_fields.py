"""A record with a field of another type, out of range or missing is read, or refused in one line: never a traceback.

Every place of a record, in lists and nested records too, is replaced by values of every JSON type, and removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprep.shards import DarkprepError
from tests.support.changed_records import REMOVED, VALUES, changed, places
from tests.support.foreign_records import FOREIGN

LONGEST_MESSAGE = 2100
GENERAL = (
    *("digest does not match", "contradict each other", "its settings", "does not name the directory"),
    *("part 1 of", "pairs must be", "camera is missing", "pair is missing", "those of another noise"),
    *("amplify", "amplification_source", "_fingerprint", "modes", "is not a calibration", "cuts off noise", "has no gain K"),
    *("other settings", "cannot be written again", "does not hold 3 pictures"),
)  # fmt: skip
"""Parts of messages about a record as a whole, and names of fields that have another name in the record."""


ALIKE = ("EvaluationTask of x-trans",)
"""Kinds of records with the fields of another kind."""


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] if kind in ALIKE else []) for kind in FOREIGN],
)
def test_a_record_with_any_field_changed_is_read_or_refused_in_one_line(
    kind: str, every: int, tmp_path: Path
):
    """With every fifth value, other ones at each place, or with all."""
    record, read = FOREIGN[kind].record, FOREIGN[kind].read

    for number, place in enumerate(places(record)):
        if not "/".join(map(str, place)).startswith(FOREIGN[kind].parts):
            continue
        for value in (*VALUES, REMOVED)[number % every :: every]:
            try:
                read(tmp_path, changed(record, place, value))
            except DarkprepError as error:
                text = str(error)
                assert "\n" not in text, (place, value)
                assert len(text) < LONGEST_MESSAGE, (place, text[:200])
                keys = [key for key in place if isinstance(key, str)]
                spelled = [
                    key.replace(*change) for key in keys for change in (("_", "-"), (" ", "_"))
                ]
                named = (*keys, *spelled, *GENERAL)
                assert any(one in text for one in named), (place, value, text)

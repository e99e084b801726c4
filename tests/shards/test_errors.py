"""What messages take from errors of other libraries."""

from __future__ import annotations

import pytest

from darkprep.shards.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("not a number"), "not a number"),
        (OSError("the scheduler is gone.\nTraceback:\n  far away"), "the scheduler is gone"),
        (
            RuntimeError("\n\n  size mismatch for body:\n\tcopying a param"),
            "size mismatch for body:",
        ),
        (TimeoutError(), "TimeoutError"),
        (ConnectionError("..."), "ConnectionError"),
        (KeyboardInterrupt("\n"), "KeyboardInterrupt"),
    ],
)
def test_a_library_error_gives_its_first_line_or_its_class_name(error, said):
    assert first_line(error) == said

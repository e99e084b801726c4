"""Any text, for tests with random values."""

from __future__ import annotations

from hypothesis import strategies as st


def any_text(max_size: int | None = None) -> st.SearchStrategy[str]:
    """Text of all characters that UTF-8 can encode.

    It is `st.text` without its alphabet, which is found by encoding every character: two seconds in each process.
    """
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=max_size)

"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`([\w/]*\.py)?::(test_\w+)`")


def test_every_test_that_the_page_names_exists():
    """A name without a file is of the file named before it."""
    file, missing = "", []
    named = _NAMED.findall((ROOT / "docs/reliability.md").read_text())

    for in_file, name in named:
        file = in_file or file
        if f"def {name}(" not in (ROOT / "tests" / file).read_text():
            missing.append(f"{file}::{name}")

    assert len(named) > 30
    assert not missing

"""Every reason for which a RAW file is refused says what to do about it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parents[3] / "pipeline"


def reasons(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the reasons that are written out in a module's calls of RawError."""
    tree = ast.parse(file.read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def text_of(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.Name):
            return str(constants.get(node.id, ""))
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text_of, node.values))
        if isinstance(node, ast.FormattedValue):
            return text_of(node.value) or "..."
        if isinstance(node, ast.IfExp):
            return min(text_of(node.body), text_of(node.orelse), key=lambda text: ";" in text)
        return ""

    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "RawError"
            and len(node.args) == 2
            and (text := text_of(node.args[1]))
        ):
            yield node.lineno, text


def test_reasons_are_found():
    assert sum(len(list(reasons(file))) for file in PIPELINE.rglob("*.py")) > 20


@pytest.mark.parametrize(
    "file", sorted(PIPELINE.rglob("*.py")), ids=lambda file: str(file.relative_to(PIPELINE))
)
def test_every_refusal_has_a_remedy(file: Path):
    without = [
        (line, text)
        for line, text in reasons(file)
        if not any(word in text for word in ("; ", "copy it again", "replace the file"))
    ]

    assert not without

"""The documents keep step with the code: commands, options, links, and nothing of one person's machine."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from darkprep.commands.main import visible_commands

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(visible_commands())
README = ROOT / "README.md"
PACKAGES = ("darkprep", "model", "pipeline", "shards", "synth", "trainer")
FOREIGN = {"no kernel image is available"}
"""Messages of other libraries that a page may quote: this one is CUDA's."""

_BLOCK = re.compile(r"^```(?:bash|console|sh|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`darkprep ([a-z][^`]*)`")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_MACHINE = re.compile(r"(?<![\w.])(?:/work/|/root/|/home/\w|/tmp/\w|/Users/\w|/opt/\w)")
_FILE = re.compile(
    r"`((?:bench|darkprep|docs|fuzz|model|pipeline|shards|synth|tests|trainer|\.ci)/[\w./-]*)`"
)
_QUOTED = re.compile(r'"([^"]+)"')
_FILLED = "\0"
"""What stands for a value that a message names."""
_TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".cfg", ".sh", ".css", ".js", ""}


def tracked() -> list[Path]:
    """The project's files: what git knows, or all of them where there is no git."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.splitlines()]
    else:
        folders = (
            "bench",
            "darkprep",
            "docs",
            "model",
            "pipeline",
            "shards",
            "synth",
            "tests",
            "trainer",
        )
        paths = [*ROOT.glob("*.*"), *(path for f in folders for path in (ROOT / f).rglob("*.*"))]
    return sorted(path for path in paths if path.is_file() and path.suffix in _TEXT)


PAGES = [path for path in tracked() if path.suffix == ".md"]


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def shell_lines(page: Path) -> Iterator[str]:
    """The commands in a page's shell blocks: continued lines joined, prompts and output left out."""
    for block in _BLOCK.findall(page.read_text()):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        yield from prompted or [line for line in lines if line and not line.startswith("#")]


def invocations(page: Path) -> Iterator[list[str]]:
    """The words after `darkprep` of every call in a page's shell blocks."""
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if word.rpartition("/")[2] == "darkprep" and index + 1 < len(words):
                rest = words[index + 1 :]
                ends = [rest.index(sign) for sign in ("&&", "||", "|", ";", "&") if sign in rest]
                yield rest[: min(ends, default=len(rest))]


def parse(words: list[str]) -> None:
    """Parse a call as click would, without running it; raises click.UsageError."""
    name, *rest = words
    if name in ("--help", "--version", "-h", "-V"):
        return
    command = visible_commands()[name]
    # click keeps the help option of the first context, for later tests too: the same names as main.
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    parser = command.make_parser(context)
    given, left, _ = parser.parse_args(list(rest))
    assert not left, f"{words}: {left} is no option or argument"
    for option in command.params:
        if isinstance(option, click.Option) and option.name in given:
            values = given[option.name]
            option.type_cast_value(context, values)


def messages(source: str) -> Iterator[str]:
    """The strings of a source that can reach a user, which docstrings do not; values are `_FILLED`."""
    tree = ast.parse(source)
    unsaid: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            unsaid.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            unsaid.update(map(id, node.values))
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _FILLED
                for part in node.values
            )
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in unsaid
        ):
            yield re.sub(r"%[\d.]*[sdf]", _FILLED, node.value)


def quotes(text: str) -> list[str]:
    """What a page has between quotation marks, each on one line."""
    return [" ".join(one.split()) for one in _QUOTED.findall(text)]


def is_said(quote: str, said: set[str]) -> bool:
    """Whether a quote is part of a message.

    `...` in it is anything and N a number. A value in a message may be any other string of the sources
    as a whole: "a producer is already running" is "{name} is already running" and "a producer".
    """
    quote = re.sub(r"\bN\b", _FILLED, quote)
    parts = (one for one in said if one in quote and one != quote)
    values = {one for one in parts if re.search(rf"\b{re.escape(one)}\b", quote)}
    for form in (quote, *(quote.replace(value, _FILLED) for value in values)):
        pattern = re.compile(".*".join(map(re.escape, form.split("..."))))
        if any(pattern.search(one) for one in said):
            return True
    return False


@functools.cache
def all_messages() -> set[str]:
    """The strings of all sources; not made while the tests are collected, which each process does."""
    return {
        one
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for one in messages(path.read_text())
    }


def longer(file: Path, test: str) -> str | None:
    """Which of the longer markers a test of a file has; raises where the file has no such test."""
    tree = ast.parse(file.read_text())
    found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == test)
    of_file = [
        n.value
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"
    ]
    marks = [ast.unparse(mark) for mark in (*found.decorator_list, *of_file)]
    return next((one for one in ("slow", "soak") if f"pytest.mark.{one}" in marks), None)


def anchor(heading: str) -> str:
    """The name that a heading has in links."""
    plain = re.sub(r"[`*_]|\[|\]\([^)]*\)", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_speaks_of_every_command(name):
    assert re.search(rf"`(?:darkprep )?{name}\b|darkprep {name}\b", README.read_text())


def test_readme_calls_the_two_commands_that_do_the_job():
    calls = list(invocations(README))

    assert ["build", "--camera", "sony", "--fraction", "0.2"] in calls
    assert ["stream-train"] in calls


@pytest.mark.parametrize("page", named(PAGES))
def test_every_call_in_a_page_is_one_that_the_commands_take(page):
    for words in invocations(ROOT / page):
        assert words[0] in COMMANDS or words[0].startswith("-"), words
        parse(words)


@pytest.mark.parametrize("page", named(PAGES))
def test_every_command_named_in_a_sentence_exists(page):
    for said in _INLINE.findall((ROOT / page).read_text()):
        assert said.split()[0] in COMMANDS, said


def test_a_call_with_an_option_that_does_not_exist_is_found():
    with pytest.raises(click.UsageError):
        parse(["build", "--camera", "sony", "--fractoin", "0.2"])
    with pytest.raises(click.UsageError):
        parse(["build", "--camera", "sony", "--disk-budget", "20 lbs"])


@pytest.mark.parametrize("page", named(PAGES))
def test_python_in_a_page_is_python(page):
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    for link in _LINK.findall((ROOT / page).read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, fragment = link.partition("#")
        target = (ROOT / page).parent / place if place else ROOT / page
        assert target.exists(), link
        if fragment and target.suffix == ".md":
            assert fragment in map(anchor, _HEADING.findall(target.read_text())), link


@pytest.mark.parametrize("page", named(PAGES))
def test_files_that_a_page_names_exist(page):
    """As paths from the top of the repository; NAME in one stands for a file of the reader's own."""
    for name in _FILE.findall((ROOT / page).read_text()):
        assert "NAME" in name or (ROOT / name).exists(), name


def test_the_glossary_names_code_that_exists():
    rows = re.findall(
        r"^\| \*\*(.+?)\*\*.*\| (.+) \|$", (ROOT / "docs/glossary.md").read_text(), re.M
    )

    assert len(rows) > 40
    for word, code in rows:
        source = ""
        for name in re.findall(r"`([^`]+)`", code):
            if "/" in name:
                source = (ROOT / name).read_text()
            else:
                defined = rf"^(?:class|def) {name}\b|^{name}\b.* = "
                assert re.search(defined, source, re.M), f"{word}: {name}"


def test_messages_that_a_page_quotes_are_those_of_the_sources():
    found = quotes((ROOT / "docs" / "troubleshooting.md").read_text())

    assert len(found) > 6
    assert [one for one in found if one not in FOREIGN and not is_said(one, all_messages())] == []


@pytest.mark.parametrize(
    ("quote", "is_there"),
    [
        ("a producer is already running", True),
        ("a producer is at work here already", False),
        ("holds no pairs of ...", True),
        ("found no pairs", False),
        ("The data root is missing, holds no pairs", False),  # a docstring
        ("disk-budget ... is too small", True),
        ("disk-budget is too small", False),
        ("shard N is missing and no producer is running", True),
    ],
)
def test_a_message_that_nothing_says_is_found(quote, is_there):
    assert is_said(quote, all_messages()) == is_there


def test_tests_that_reliability_names_exist_and_the_longer_ones_are_told():
    text = (ROOT / "docs" / "reliability.md").read_text()
    found = re.findall(r"`([\w/]+\.py)?::(\w+)`(?: \((\w+)\))?", text)

    assert len(found) > 40
    file = ""
    for place, name, told in found:
        file = place or file
        assert longer(ROOT / "tests" / file, name) == (told or None), f"{file}::{name}"


def test_no_page_or_source_names_a_path_of_one_machine():
    mine = Path(__file__).resolve()
    told = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        if path.resolve() != mine and ROOT / "tests" not in path.parents
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if _MACHINE.search(line)
    ]

    assert not told


def test_the_constraints_pin_what_the_commands_of_readme_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["test"], *extras["lint"]]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    names = {re.match(r"[\w.-]+", one)[0].lower() for one in asked}  # type: ignore[index]
    assert len(names) > 10
    assert names <= {name.lower() for name in pinned}

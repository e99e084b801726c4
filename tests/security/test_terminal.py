"""No control character of a foreign name or record reaches the terminal, whichever way it is printed."""

from __future__ import annotations

import ast
import io
import logging
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.text import Text

from darkprep.commands import echo as echo_module
from darkprep.commands.errors import CommandGroup
from darkprep.commands.main import main
from darkprep.view import live
from darkprep.view.numbers import PrintableFormatter

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\x08\r\u202eb"
ROOT = Path(__file__).parents[2]


def is_clean(text: str) -> bool:
    return "\\x1b" in text and all(letter in "\n\t" or letter.isprintable() for letter in text)


def test_echo_escapes(capsys):
    echo_module.echo(HOSTILE)
    echo_module.echo(HOSTILE, err=True)

    out, err = capsys.readouterr()
    assert is_clean(out)
    assert is_clean(err)


def test_a_log_record_is_escaped_with_its_traceback():
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "x", 1, "%s", (HOSTILE,), (type(error), error, None)
        )
    assert is_clean(PrintableFormatter("darkprep: %(message)s").format(record))


def test_the_command_line_uses_this_formatter(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])

    CliRunner().invoke(main, ["stop", "--spool", "missing"])

    assert isinstance(root.handlers[0].formatter, PrintableFormatter)


@pytest.mark.parametrize("way", ["print", "show", "warning"])
def test_the_live_view_escapes(capsys, way):
    with live.Progress(on_stdout=True) as progress:
        if way == "warning":
            logging.getLogger("x").warning(HOSTILE)
        else:
            getattr(progress, way)(HOSTILE)

    assert is_clean(capsys.readouterr().out)


def test_the_live_screen_escapes_text_and_keeps_its_own_commands():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    console = live._PipeConsole(threading.Event(), file=file, force_terminal=True, width=80)
    console.print(Text(HOSTILE, style="bold"))

    assert "\x1b[1m" in file.getvalue()
    for hostile in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e"):
        assert hostile not in file.getvalue()


def test_an_error_is_one_escaped_line(capsys):
    group = CommandGroup("x")

    @group.command("fail")
    def fail() -> None:
        raise OSError(2, HOSTILE, HOSTILE)

    with pytest.raises(SystemExit):
        group.main(["fail"])
    assert is_clean(capsys.readouterr().err)


def calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return found & {"click.echo", "click.secho", "print", "Console", "logging.StreamHandler"}


def test_nothing_else_prints():
    sinks = {
        "darkprep/commands/echo.py": {"click.echo"},
        "darkprep/commands/main.py": {"logging.StreamHandler"},
    }
    folders = ("darkprep", "model", "pipeline", "shards", "synth", "trainer")
    for path in (one for folder in folders for one in (ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        assert calls(path) <= sinks.get(name, set()), name

"""Error handling of the command line: every failure is one line on stderr and an exit status.

The status is 1 for a failure, 2 for bad usage, 130 after Ctrl-C, and 141 when the reader of a pipe has
ended. The trade-off: click handles some of these differently, so the command group catches errors before
click does.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from darkprep.commands.echo import echo
from darkprep.commands.parameters import SpoolLocation
from darkprep.shards import DarkprepError
from darkprep.shards.errors import RankStopped
from darkprep.shards.files import NO_SPACE
from darkprep.shards.machine import remedy_of
from darkprep.view.numbers import one_line

NO_WORKING_DIRECTORY = "the current directory no longer exists; change to one that does"


class CommandGroup(click.Group):
    """A group of commands that prints every expected failure as one line on stderr."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options of the group itself; --help and --version print their text here."""
        with _hidden_from_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _hidden_from_click():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments; refuse a file or directory that is named twice."""
        name, command, rest = super().resolve_command(ctx, args)
        if command:
            _refuse_repeated(click.Context(command, info_name=name, parent=ctx), rest)
        return name, command, rest

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse a command line, run it, and exit with its status."""
        extra["standalone_mode"] = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A path may hold bytes that are not UTF-8; standard error escapes them by default.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            result = super().main(*args, **extra)
        except RankStopped:
            sys.exit(1)  # rank 0 reports the reason
        except DarkprepError as error:
            _fail(str(error), 1)
        except _UnexpectedOSError as error:
            _fail_with(error.error)
        except click.exceptions.NoArgsIsHelpError as error:
            echo(error.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "darkprep"
            _fail(f"{_on_one_line(error)} (see {command} --help)", 2)
        except click.ClickException as error:
            _fail(_on_one_line(error), error.exit_code)
        except (_Interrupted, click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        sys.exit(result if isinstance(result, int) else 0)


def _refuse_repeated(ctx: click.Context, args: list[str]) -> None:
    """Raise click's usage error if an option for one file, directory or spool is given more than once.

    click would use the last value and ignore the others. For other options this is documented behaviour.
    """
    order = ctx.command.make_parser(ctx).parse_args(args=list(args))[2]
    if any(param.name == "help" for param in order):
        return
    for param, count in Counter(order).items():
        is_location = isinstance(param.type, click.Path | SpoolLocation)
        if count > 1 and is_location and isinstance(param, click.Option) and not param.multiple:
            raise click.UsageError(f"{param.opts[0]} is given {count} times; give it once", ctx)


class _Interrupted(Exception):
    """Ctrl-C; if it were a KeyboardInterrupt, click would first print an empty line."""


class _UnexpectedOSError(Exception):
    """An OSError that no other code handled; click would exit with status 1 for a broken pipe."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextlib.contextmanager
def _hidden_from_click() -> Iterator[None]:
    """Replace the exceptions of a block that click would handle itself."""
    try:
        yield
    except (KeyboardInterrupt, EOFError) as error:
        raise _Interrupted from error
    except OSError as error:
        raise _UnexpectedOSError(error) from error


def _fail(message: str, status: int) -> None:
    try:
        echo(f"darkprep: {one_line(message)}", err=True)
    except OSError:
        _discard(sys.stderr)
    sys.exit(status)


def _on_one_line(error: click.ClickException) -> str:
    """Return a message of click, which may have several lines, as one line."""
    return " ".join(error.format_message().split())


def _fail_with(error: OSError) -> None:
    if isinstance(error, BrokenPipeError):
        _discard(sys.stdout, sys.stderr)
        sys.exit(141)
    _fail(_describe(error), 1)


def _describe(error: OSError) -> str:
    """Return where an OSError occurred and why; the system's message does not name standard streams."""
    reason = error.strerror or str(error)
    if not Path(str(error.filename or "")).is_absolute() and not working_directory_exists():
        return NO_WORKING_DIRECTORY
    if error.filename:
        remedy = remedy_of(error)
        return f"{error.filename}: {reason}{f'; {remedy}' if remedy else ''}"
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    # click and rich write to the standard streams only.
    if innermost.f_globals["__name__"].startswith(("click.", "rich.")):
        _discard(sys.stdout)
        return f"standard output: {reason}; redirect it elsewhere"
    if error.errno in NO_SPACE:
        return f"{reason}; `df -h` shows which disk is full (/tmp and /dev/shm are disks too): free some space and start again"
    return f"{reason}; check the disks and limits of this machine (`df -h`, `ulimit -a`) and start again"


def working_directory_exists() -> bool:
    """Return whether the current directory still exists."""
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _discard(*streams: TextIO) -> None:
    """Redirect streams to /dev/null, so that the interpreter does not fail when it flushes them at exit."""
    for stream in streams:
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), stream.fileno())

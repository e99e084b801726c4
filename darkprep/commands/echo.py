"""Printing for all commands: the one place where text of a command reaches the standard streams."""

from __future__ import annotations

import sys

import click

from darkprep.view.numbers import printable


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print lines with control characters escaped: names and files of others may hold terminal commands."""
    click.echo(printable(text), err=err, nl=nl)


def echo_data(data: bytes) -> None:
    """Print the content of a text file on stdout: unchanged to a pipe or file, as `echo` does on a terminal."""
    shown = printable(data.decode(errors="backslashreplace")) if sys.stdout.isatty() else data
    click.echo(shown, nl=False)

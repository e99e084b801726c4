"""The command line: a group of commands, each of which turns its options into one call and prints the result.

Everything that a command does is also possible with the library. A command's module is imported when the
command is used, and torch inside the commands that need it: help and producers start fast, and producers
run without torch. The trade-off: the lines of `darkprep --help` stand here a second time; a test compares
them with those of the commands.
"""

from __future__ import annotations

import importlib
import logging
import sys

import click

from darkprep.commands.echo import echo
from darkprep.commands.errors import CommandGroup
from darkprep.view.numbers import PrintableFormatter

_COMMANDS = {
    "demo": ("data:demo", "Try everything on synthetic photographs."),
    "synth": ("data:synth", "Write a synthetic data set of real DNG files."),
    "pairs": ("pairs:list_pairs", "List pairs as a table that can be edited and built from."),
    "calibrate": ("calibrate:calibrate", "Measure the noise of your own camera."),
    "build": ("build:build", "Make shards from RAW pairs, under a disk budget."),
    "produce": ("produce:produce", ""),
    "status": ("spool:status", "Show what a spool holds and which processes use it."),
    "verify": ("spool:verify", "Check everything in a spool."),
    "stop": ("spool:stop", "Stop the background producers of a spool."),
    "stream-train": ("train:stream_train", "Train on a spool while it is being filled."),
    "evaluate": ("evaluate:evaluate", "Score trained weights on whole test frames."),
    "restore": ("restore:restore", "Restore dark RAW files to pictures."),
    "export-model": ("export:export_model", "Write trained weights as ONNX, or as a model for darktable."),
    "pack": ("export:pack", "Make a data set of a spool's shards."),
    "import-weights": ("evaluate:import_weights", "Convert the checkpoint released by REDIRT's authors."),
    "study": ("study:study", "Make a table of several training runs and evaluations."),
    "report": ("inspect:report", "Write an HTML report of a run."),
    "advise": ("inspect:advise", "Measure this machine and suggest settings."),
}  # fmt: skip
"""Of each command: its module in this package and its name there, and its line in `darkprep --help`."""


class _MainGroup(CommandGroup):
    """Imports a command's module when the command is used, so that --help and each command start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its name; None if there is none."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(f"darkprep.commands.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help, from the table and without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, line) for name, (_, line) in sorted(_COMMANDS.items()) if line]
            )


def _print_version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:  # which is how completions are looked for
        from darkprep import __version__  # slow: it imports importlib.metadata

        echo(f"darkprep, version {__version__}")
        context.exit()


@click.group(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", "-V", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def main() -> None:
    """Train on dark RAW photographs while they are preprocessed, with a limit on the disk space used.

    \b
    darkprep demo                                  try everything on synthetic photographs
    darkprep build --camera sony --fraction 0.2    make shards from ./data in ./spool
    darkprep stream-train                          train on them while more are made
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("darkprep: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def visible_commands() -> dict[str, click.Command]:
    """Return every command that --help lists, by name, sorted."""
    context = click.Context(main)
    commands = {
        name: main.get_command(context, name)
        for name, (_, line) in sorted(_COMMANDS.items())
        if line
    }
    return {name: command for name, command in commands.items() if command}

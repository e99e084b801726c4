"""The command line: a group of commands, each of which turns its options into one call and prints the result.

Everything that a command does is also possible with the library. The trade-off: torch is imported inside
the commands that need it, not at the top, so help and producers start fast, and producers run without
torch.
"""

from __future__ import annotations

import logging
import sys

import click

from darkprep import __version__
from darkprep.commands.build import build
from darkprep.commands.data import demo, synth
from darkprep.commands.errors import CommandGroup
from darkprep.commands.inspect import advise, report
from darkprep.commands.pairs import list_pairs
from darkprep.commands.produce import produce
from darkprep.commands.restore import evaluate, import_weights, restore
from darkprep.commands.spool import status, stop, verify
from darkprep.commands.study import study
from darkprep.commands.train import stream_train
from darkprep.view.numbers import PrintableFormatter


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", prog_name="darkprep")
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


for command in (
    *(demo, synth, list_pairs, build, produce, status, verify, stop),
    *(stream_train, evaluate, restore, import_weights, study, report, advise),
):
    main.add_command(command)

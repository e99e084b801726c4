"""Writes docs/commands.md from the commands' help: `python docs/make_commands.py`.

The trade-off: the page contains what `--help` prints and no more, so that a program can write and check it
(tests/darkprep/test_tutorials.py fails when it is out of date).
"""

from __future__ import annotations

from pathlib import Path

import click

from darkprep.commands.main import main, visible_commands

PAGE = Path(__file__).with_name("commands.md")

_HEAD = """# Commands

Generated from the commands' help by `python docs/make_commands.py`; a test fails when it is out of date.

Sizes are written `20GB` or `500MiB`. If an option is given twice, its last value counts; an option that names a file, directory or spool may be given only once.
Every failure is one line on stderr with the cause and what to do.
REDIRT is the network and method of Lamba and Mitra, CVPR 2021.

| exit status | |
|---|---|
| 0 | success; also a training run that was stopped by Ctrl-C or SIGTERM and wrote its checkpoint |
| 1 | failed, or `verify` found damage, or `restore` could not restore every file |
| 2 | bad usage: an unknown command or option, a missing or invalid value |
| 130 | interrupted by Ctrl-C |
| 141 | the program that read the output has ended |

`build` and `stream-train` show a live screen on a terminal and plain lines in a pipe. `--log-format json` prints one JSON
object per line on stdout. `--quiet` prints nothing but errors, and one line when `build` waits for a trainer. `NO_COLOR` is supported.

The following line switches on the completion of commands and options in bash (for zsh and fish, put their names in place of `bash`):

```bash
eval "$(_DARKPREP_COMPLETE=bash_source darkprep)"
```
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    parts += [_section(name, command) for name, command in visible_commands().items()]
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    parent = click.Context(main, info_name="darkprep", help_option_names=["-h", "--help"])
    context = click.Context(command, info_name=name, parent=parent, max_content_width=96)
    context.terminal_width = 96
    return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Writes docs/commands.md from the commands themselves: `python docs/make_commands.py`.

The trade-off: the page says what `--help` says and no more, so that it can be made, and checked, by a
program (tests/darkprep/test_tutorials.py fails when it is out of date).
"""

from __future__ import annotations

from pathlib import Path

import click

from darkprep.commands.main import main

PAGE = Path(__file__).with_name("commands.md")

_HEAD = """# Commands

Made from the commands' own help by `python docs/make_commands.py`; a test fails when it is out of date.

Sizes read `20GB` or `500MiB`. Every failure is one line on stderr that says what is wrong and what to do.

| exit status | |
|---|---|
| 0 | done; also a training that was stopped by Ctrl-C or SIGTERM and left its checkpoint |
| 1 | failed, or `verify` found damage, or `restore` could not restore every file |
| 2 | called wrongly |
| 130 | interrupted before anything could be left behind |
| 141 | the reader of a pipe went away |

`build` and `stream-train` show one screen on a terminal and plain lines in a pipe; `--log-format json` prints one JSON
object a line on stdout, `--quiet` errors only. `NO_COLOR` is honoured. Completion of commands and options, for
bash (zsh and fish alike, with their names):

```bash
eval "$(_DARKPREP_COMPLETE=bash_source darkprep)"
```
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, command in sorted(main.commands.items()):
        if not command.hidden:
            parts.append(_section(name, command))
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    parent = click.Context(main, info_name="darkprep", help_option_names=["-h", "--help"])
    context = click.Context(command, info_name=name, parent=parent, max_content_width=96)
    context.terminal_width = 96
    return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

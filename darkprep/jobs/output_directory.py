"""Check the directories into which a command will write, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from darkprep.shards import OptionError


def check_output_directory(option: str, directory: Path | None) -> None:
    """Raise OptionError if `directory`, the value of `--option`, is not a directory and cannot be created."""
    for path in (directory, *directory.parents) if directory else ():
        if path.is_dir():
            return
        if os.path.lexists(path):
            what = "is a file" if path.exists() else "is a broken link"
            raise OptionError(f"{path}: {what}; give --{option} a directory")

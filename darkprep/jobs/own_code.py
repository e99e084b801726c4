"""Code of the user's own that a command line names: `package.module:object`, imported as a script would import it.

The trade-off: what is named on the command line is executed, with all rights of the user; a name that is read
from a file never is.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from darkprep.model.own import NetworkSource, is_own
from darkprep.shards import OptionError
from darkprep.shards.errors import first_line
from darkprep.trainer.recipe import Loss

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def import_network(name: str) -> NetworkSource | None:
    """Return the class or function named `package.module:Class`; None for the name of a built-in network."""
    found: NetworkSource | None = _imported("model", name) if is_own(name) else None
    return found


def import_loss(name: str) -> Loss | None:
    """Return the function named `package.module:function`, of a class an instance; None for a built-in loss."""
    if not is_own(name):
        return None
    found = _imported("loss", name)
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise OptionError(
                f"loss {name}: cannot be built without arguments: {type(error).__name__}: {first_line(error)}"
            ) from error
    loss: Loss = found
    return loss


def _imported(option: str, name: str) -> Any:
    """Import the object `package.module:name`, from the working directory or else the installed packages. Raises OptionError."""
    if not _NAME.fullmatch(name):
        raise OptionError(f"{option} {name!r}: is not of the form package.module:name")
    module, _, attributes = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (Exception, SystemExit) as error:
        raise OptionError(
            f"{option} {name}: cannot be imported from {here} or the installed packages: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        # At the end: modules that the code imports later are found, and hide none of darkprep's.
        sys.path.remove(here)
        sys.path.append(here)
    if not callable(found):
        raise OptionError(f"{option} {name}: is a {type(found).__name__} and cannot be called")
    return found

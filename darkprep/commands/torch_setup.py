"""Settings that must be made before torch is imported."""

from __future__ import annotations

import os

from darkprep.commands.errors import NO_WORKING_DIRECTORY, working_directory_exists
from darkprep.shards import OptionError


def prepare_torch() -> None:
    """Set the environment variables that torch reads when it is imported. Raises OptionError in a deleted directory.

    OpenMP threads are set to sleep while they wait, because busy waiting takes CPU time from producers. In
    a deleted directory torch's libraries would end the process without a message.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not working_directory_exists():
        raise OptionError(NO_WORKING_DIRECTORY)

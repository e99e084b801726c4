"""What has to be done before torch is loaded."""

from __future__ import annotations

import os

from darkprep.commands.errors import NO_WORKING_DIRECTORY, working_directory_exists
from darkprep.shards import OptionError


def prepare_torch() -> None:
    """Set what torch reads when it is loaded. Raises OptionError in a directory that was deleted.

    OpenMP threads that spin while they wait would take the cores from producers beside them. In a deleted
    directory torch's libraries end the process without a message.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not working_directory_exists():
        raise OptionError(NO_WORKING_DIRECTORY)

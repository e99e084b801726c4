"""Entry point of `darkprep` and `python -m darkprep`, also for background producers.

This module imports little: everything else is loaded with the command line, after the standard streams are
usable and where Ctrl-C is handled.
"""

import io
import os
import sys


def main() -> None:
    """Run the command line in this process and exit with its status."""
    try:
        _open_closed_streams()
        # No process that is started by this one imports from the working directory.
        os.environ["PYTHONSAFEPATH"] = "1"
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file name may not be valid text
                stream.reconfigure(errors="backslashreplace")
        from darkprep.commands.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("darkprep: interrupted\n")
        sys.exit(130)


def _open_closed_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed, as under cron and some daemons.

    Otherwise a file opened later would get the file descriptor of a standard stream (0 to 2), and worker
    processes could not inherit it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def _leave_out_working_directory() -> None:
    """Remove the working directory from the import path. `python -m` puts it there, and torchrun starts its ranks with `python -m`."""
    try:
        here = os.getcwd()  # noqa: PTH109 # pathlib would be imported from there
    except OSError:  # it was removed
        here = ""
    if not sys.flags.safe_path and sys.path[:1] == [here]:
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_working_directory()
    main()

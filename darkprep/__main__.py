"""`darkprep` and `python -m darkprep`; background producers start this way.

What is loaded here is little: all else comes with the command line, when the streams are in order and
Ctrl-C is looked for.
"""

import io
import os
import sys


def main() -> None:
    """Run the command line as this process's only work."""
    try:
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name on the disk may be no text
                stream.reconfigure(errors="backslashreplace")
        from darkprep.commands.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("darkprep: interrupted\n")
        sys.exit(130)


def _open_closed_streams() -> None:
    """Give /dev/null to a closed stdin, stdout or stderr, as cron and daemons leave them.

    Else a file that is opened later takes its number, and workers find nothing under it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()

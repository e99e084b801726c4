"""darkprep: RAW low-light pairs streamed to a trainer under a disk budget. This package is the command line alone."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("darkprep")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

"""darkprep: train on dark RAW photographs while they are preprocessed, within a limit on disk space."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("darkprep")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"

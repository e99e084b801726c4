"""darkprep: train on dark RAW photographs while they are preprocessed, within a limit on disk space."""

__version__: str


def __getattr__(name: str) -> str:
    """Return the version, found when it is first asked for.

    Until darkprep/__main__.py has removed the working directory from the import path, nothing is imported.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("darkprep")
    except PackageNotFoundError:  # run from a source tree that was not installed
        found = "0+unknown"
    globals()["__version__"] = found
    return found

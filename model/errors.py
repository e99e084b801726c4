"""The error of this package.

The trade-off: a single class. Callers know whether they passed a name or a file, and translate the error
accordingly.
"""


class ModelError(ValueError):
    """A network cannot be built, loaded, saved or run as requested; the message is one line."""

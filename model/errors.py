"""The error of this package.

The trade-off: a single class. Callers know what they asked for, a name or a file, and translate it there.
"""


class ModelError(ValueError):
    """A network cannot be built, loaded, saved or run as requested; the message is one line."""

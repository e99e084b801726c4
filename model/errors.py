"""The one error of this package.

The trade-off: a single class, so that a caller who knows what he asked for (a name, a file) can
translate it where he called; the message says the rest.
"""


class ModelError(ValueError):
    """A network cannot be named, built, loaded, saved or fed so; one line says what and why."""

"""Synthetic photographs as real DNG files, in the layouts of the public data sets. Nothing is re-exported here."""

__all__: list[str] = []

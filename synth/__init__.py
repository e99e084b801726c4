"""Synthetic photographs as real DNG files, in the layouts of the public data sets. Nothing is lifted here."""

__all__: list[str] = []

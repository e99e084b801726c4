"""Synthetic photographs as real DNG files, in the layouts of the public data sets."""

"""Pairs of short and long exposures: cameras, layouts of data sets, sources, whole frames."""

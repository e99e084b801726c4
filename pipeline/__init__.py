"""RAW photographs to training samples: the producing side of darkprep.

Everything here runs without torch and without a trainer; the two sides meet in `shards`.
"""

"""Which short exposure goes with which long one, and how the two are read."""

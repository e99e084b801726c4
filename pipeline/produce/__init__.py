"""Producers: how shards are made, what a worker does, and what fits into the disk budget."""

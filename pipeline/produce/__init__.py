"""Producers: who makes shards, what a worker does, what fits the disk budget."""

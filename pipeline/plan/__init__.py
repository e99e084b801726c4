"""The plan of a stream: its options, its pairs, and the content of each shard."""

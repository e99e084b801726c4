"""The recipe of a stream: options, pairs, and what each shard is made of."""

"""Samples to weights: the stream to the device, the loss, the loop, the evaluation, the restoring."""

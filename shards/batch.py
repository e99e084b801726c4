"""What a reader returns: batches, and counters of its own work."""

from __future__ import annotations

from dataclasses import dataclass

from darkprep.shards.format import U16, SampleMeta


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's part of a global batch. The reader reuses the arrays: copy data that is needed after the next batch."""

    index: int
    """Number of the global batch, from 0."""
    low: U16
    """`(B, C, h, w)` uint16 packed sensor codes."""
    gt: U16
    """`(B, 3, H, W)` uint16 sRGB."""
    metas: tuple[SampleMeta, ...]
    """B entries, one for each sample."""
    uses: tuple[int, ...]
    """For each sample, how many times it was used before."""


@dataclass(kw_only=True)
class ReaderStats:
    """Counters of a reader since its start."""

    wait_s: float = 0.0
    """Seconds that the trainer waited for batches, without the present wait."""
    waiting_since: float | None = None
    """The `time.monotonic()` at which the present wait began; None while there is none."""
    first_batch_s: float = 0.0
    """Seconds from the start to the first batch."""
    first_wait_s: float = 0.0
    """Seconds that the trainer waited for the first batch; part of `wait_s`."""
    batches: int = 0
    bytes: int = 0
    shards_deleted: int = 0
    """Shards that training has passed, whether this reader or a producer deleted them; counted by rank 0."""
    damaged: int = 0
    """Damaged shards that were quarantined."""
    peak_disk_bytes: int = 0
    """Maximum size of the spool in bytes, measured about once a second."""

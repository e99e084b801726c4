"""A trainer without a network: hashes every batch in order and keeps its place as a checkpoint does.

    python -m tests.support.consumer SPOOL PLACE --batch-size 4 --pace 0.01

The hash of batch n is taken over the hash of batch n - 1, so one number stands for the whole stream.
The trade-off: the place is written every third batch only, so that a kill makes it go back.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import xxhash

from darkprep.jobs.background import stop_on_signals
from darkprep.shards import DarkprepError, Spool, SpoolReader
from darkprep.shards.batch import Batch
from darkprep.shards.files import read_json, write_json
from darkprep.shards.format import raw_bytes

KEEP_EVERY = 3
SEED = 7


def chained(before: str, batch: Batch) -> str:
    """The hash of the stream up to `batch`, given the hash up to the one before."""
    digest = xxhash.xxh3_128(before.encode())
    names = [meta.key for meta in batch.metas]
    digest.update(json.dumps([batch.index, names, batch.uses]).encode())
    digest.update(raw_bytes(batch.low))
    digest.update(raw_bytes(batch.gt))
    return digest.hexdigest()


def consume(
    spool: Spool,
    place: Path,
    *,
    batch_size: int,
    pace: float = 0.0,
    stop_after: int | None = None,
    stop: threading.Event | None = None,
) -> tuple[int, str]:
    """Use batches from the kept place on until `stop` or `stop_after`; how many in all, and their hash."""
    kept = read_json(place) or {"batch": 0, "digest": ""}
    count, digest = int(kept["batch"]), str(kept["digest"])
    reader = SpoolReader(
        spool,
        batch_size=batch_size,
        seed=SEED,
        start=count,
        stop_after=stop_after,
        stop=stop,
        on_starving=lambda shard, seconds: None,  # a killed producer is started again, in its time
    )
    with reader:
        for batch in reader:
            assert batch.index == count, f"batch {batch.index} came after {count - 1}"
            digest = chained(digest, batch)
            count += 1
            time.sleep(pace)
            if count % KEEP_EVERY == 0:
                write_json(place, {"batch": count, "digest": digest})
            if stop and stop.is_set():
                break
    write_json(place, {"batch": count, "digest": digest})
    return count, digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spool", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--pace", type=float, default=0.0)
    given = parser.parse_args()
    stop = stop_on_signals()
    try:
        consume(
            Spool(given.spool).open(),
            given.place,
            batch_size=given.batch_size,
            pace=given.pace,
            stop=stop,
        )
    except DarkprepError as error:
        sys.exit(f"consumer: {error}")


if __name__ == "__main__":
    main()

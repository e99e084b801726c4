"""Check everything in a spool directory: shards with their payloads, and stored frames."""

from __future__ import annotations

from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.shards import ShardDamaged, Spool
from darkprep.shards.shard_file import verify_shard


def verify_spool(spool: Spool) -> tuple[int, int, list[str]]:
    """Check all shards and frames; return the number of each, and a line for each damaged one."""
    faults: list[str] = []
    layout, plan = spool.stream.layout(), spool.digest
    shards = spool.ready_shards()
    for shard in shards:
        try:
            verify_shard(spool.shard_path(shard), layout, shard, plan)
        except ShardDamaged as error:
            faults.append(f"damaged {error}")
        except FileNotFoundError:
            continue  # used and deleted meanwhile
    store = FrameStore(FramesDirectory.from_spool(spool).path)
    names = store.names()
    faults += [f"damaged frame {store.path / name}" for name in names if not store.is_intact(name)]
    return len(shards), len(names), faults

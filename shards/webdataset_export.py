"""Read the ready shards as a plain webdataset, for tools other than darkprep's trainer.

The trade-off: the list of shards is fixed when it is opened. Later shards are not in it, and nothing is
deleted after use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprep.shards.errors import StreamEnded
from darkprep.shards.shard_file import ShardFile
from darkprep.shards.spool import Spool

if TYPE_CHECKING:
    import webdataset


def open_webdataset(spool: Spool) -> webdataset.WebDataset:
    """Return a webdataset over the shards that are ready now: dictionaries with `low.npy`, `gt.npy` and `json`.

    Every shard's structure is checked first, so that it can contain nothing but arrays and JSON. Raises
    StreamEnded when no shard is ready, ShardDamaged when a shard differs from its plan.
    """
    import webdataset  # not at the top: it loads torch, which producers do not need
    from webdataset.cache import StreamingOpen

    layout, plan = spool.stream.layout(), spool.digest
    shards = spool.ready_shards()
    if not shards:
        raise StreamEnded(f"{spool.path}: no shard is ready; make shards with `darkprep build`")
    for shard in shards:
        ShardFile(spool.shard_path(shard), layout, shard, plan).close()
    paths = [str(spool.shard_path(shard)) for shard in shards]
    dataset = webdataset.WebDataset(paths, shardshuffle=False)
    stages = dataset.pipeline
    (opener,) = (n for n, stage in enumerate(stages) if isinstance(stage, StreamingOpen))
    stages[opener] = _open_files
    return dataset.decode()


def _open_files(paths: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Open shards as webdataset's StreamingOpen does, but as paths.

    StreamingOpen takes them for URLs: it cuts "a#b" and "a?b" short, and gives what follows "pipe:" to a shell.
    """
    for entry in paths:
        path = entry["url"]
        yield {"url": path, "stream": Path(path).open("rb"), "local_path": path}

"""RAW files that change under a running producer: seen at the next visit, named, replaced; and what is not seen."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.budget import smallest_budget
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.reader import read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import Cursor, RawError, ShardFile, Spool
from tests.support.builds import InlinePool


def vanish(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    """By another photograph of the same size."""
    other = path.with_name("00003_00_0.1s.dng")
    assert other.stat().st_size == path.stat().st_size
    path.write_bytes(other.read_bytes())


def zero(path: Path) -> None:
    """As an interrupted copy onto a file system that allocates late leaves it."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "change",
    [replace, *(pytest.param(one, marks=pytest.mark.slow) for one in (vanish, truncate, zero))],
)
def test_a_file_that_changes_between_two_visits_is_named_and_its_pair_replaced(
    change: Callable[[Path], None], raw_spool: Spool
):
    """There is no room for frames, so every visit decodes; the shards made before stay as they are."""
    plan = Plan.load(raw_spool)
    path = plan.root / "Sony/short/00001_00_0.1s.dng"
    stop = threading.Event()
    changed_at: list[int] = []
    config = ProducerConfig(budget_bytes=smallest_budget(plan), jobs=1, until=60)
    producer = Producer(raw_spool, config, InlinePool(), stop=stop)
    assert not producer.budget.frames
    thread = threading.Thread(target=producer.run)
    thread.start()
    pairs: list[set[str]] = []
    try:
        deadline = time.monotonic() + 60
        while len(pairs) < 40 and time.monotonic() < deadline:
            if not raw_spool.shard_path(len(pairs)).exists():
                time.sleep(0.005)
                continue
            pairs.append(pairs_in(raw_spool, len(pairs)))
            if not changed_at and path.stem in set().union(*pairs):
                change(path)
                # What was ready or being made then may still hold it.
                changed_at.append(max(raw_spool.ready_shards()) + 2)
            raw_spool.write_cursor(Cursor(rank=0, world=1, batch=0, shard=len(pairs)))
    finally:
        stop.set()
        thread.join()

    assert len(pairs) == 40
    assert not any(path.stem in found for found in pairs[changed_at[0] :])
    assert [Path(skipped.path) for skipped in producer.skipped] == [path]


def pairs_in(spool: Spool, shard: int) -> set[str]:
    opened = ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)
    opened.verify_all()
    opened.close()
    return {meta.pair for meta in opened.metas}


def large_raw(path: Path) -> Path:
    codes = np.random.default_rng(0).integers(600, 16000, (400, 600)).astype(np.uint16)
    write_dng(path, codes, DngTags(exposure_s=0.1, iso=800))
    return path


def test_a_change_in_the_middle_that_keeps_the_size_is_not_seen(tmp_path: Path):
    """The limit of a fingerprint of both ends: it costs two reads, where a whole hash costs the file."""
    path = large_raw(tmp_path / "a.dng")
    before, codes = RawFile(path).fingerprint(), read_raw(path).mosaic
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x11\x22" * 50)

    assert RawFile(path).fingerprint() == before
    assert not np.array_equal(read_raw(path).mosaic, codes)


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_body_with_a_hole_of_zeros_is_refused(share: float, tmp_path: Path):
    path = large_raw(tmp_path / "a.dng")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 - int(share * size) // 2)
        file.write(bytes(int(share * size)))

    with pytest.raises(RawError, match="pixels are 0 though black is 512"):
        read_raw(path)


def test_a_small_hole_or_other_nonsense_in_uncompressed_pixels_is_not_seen(tmp_path: Path):
    """No sum stands in such a file: half a per cent of zeros is within what a sensor's dead pixels give."""
    path = large_raw(tmp_path / "a.dng")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 200))

    assert read_raw(path).mosaic.min() == 0

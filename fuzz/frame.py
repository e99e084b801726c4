"""A stored frame of any bytes is None, or the pixels and attributes that were stored."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from typing import Any

import numpy as np

from darkprep.pipeline.produce.frame_store import (
    FrameAttributes,
    FrameStore,
    SensorLevels,
    _attributes_checksum,
)
from fuzz.choices import Choices
from fuzz.memory import new_folder

_NAME = "short-1"
_ATTRIBUTES = FrameAttributes(
    kind="short",
    raw="a.dng",
    levels=SensorLevels(black=(512.0,) * 4, white=16383, iso=800.0),
)


PARTS = ("metadata", "attributes", "pixels")


def try_input(data: bytes) -> tuple[str, bool]:
    """Try one stored frame; raise AssertionError or whatever a store must not raise."""
    store, record, pixels = _prepared()
    choices = Choices(data)
    metadata, chunk = json.dumps(record).encode(), pixels
    kind = choices.below(8)
    if kind < 3:
        part, metadata = "metadata", choices.json(record)
    elif kind < 5:
        part, metadata = "attributes", _with_its_sum(choices.with_a_leaf_replaced(record))
    else:
        part, chunk = "pixels", choices.edited(pixels)
    (store.path / _NAME / "zarr.json").write_bytes(metadata)
    (store.path / _NAME / "0.0.0").write_bytes(chunk)
    fresh = FrameStore(store.path)
    fresh.names()
    found = fresh.get(_NAME)
    if found is not None:
        assert found.array.tobytes()[: len(pixels)] == pixels
        assert found.array.dtype == np.uint16
    return part, found is not None


def _with_its_sum(record: Any) -> bytes:
    """Hostile rather than damaged: the checksum of the attributes is right where there can be one."""
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        attributes = dict(record["attributes"])
        shape = tuple(int(count) for count in record["shape"])
        record["attributes"] = attributes | {"facts_xxh3": _attributes_checksum(shape, attributes)}
    return json.dumps(record).encode("utf-8", "replace")


@functools.cache
def _prepared() -> tuple[FrameStore, Any, bytes]:
    store = FrameStore(new_folder() / "frames")
    shutil.rmtree(store.path, ignore_errors=True)
    store.create()
    array = np.random.default_rng(0).integers(0, 65536, (4, 6, 8), dtype=np.uint16)
    store.put(_NAME, array, _ATTRIBUTES)
    record = json.loads((store.path / _NAME / "zarr.json").read_text())
    return store, record, array.tobytes()

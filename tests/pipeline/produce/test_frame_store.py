"""What is stored beside a frame's pixels has fixed keys and one strict decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore, SensorLevels

SHORT = FrameAttributes(
    kind="short",
    raw="00001_00_0.1s.ARW",
    levels=SensorLevels(black=(512.0, 511.0, 512.0, 513.0), white=16383, iso=800.0),
)
LONG = FrameAttributes(kind="long", raw="00001_00_10s.ARW")
SHORT_JSON = {
    "kind": "short",
    "black": [512.0, 511.0, 512.0, 513.0],
    "white": 16383,
    "iso": 800.0,
    "raw": "00001_00_0.1s.ARW",
}


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    store = FrameStore(tmp_path / "frames")
    store.create()
    return store


def frame() -> Any:
    return np.random.default_rng(0).integers(0, 65536, (4, 8, 10), dtype=np.uint16)


def test_the_stored_keys_are_fixed(store: FrameStore):
    store.put("short-1", frame(), SHORT)

    stored = json.loads((store.path / "short-1/zarr.json").read_text())["attributes"]

    assert list(stored) == [*SHORT_JSON, "xxh3", "facts_xxh3"]
    assert {name: stored[name] for name in SHORT_JSON} == SHORT_JSON
    assert LONG.to_json() == {"kind": "long", "raw": "00001_00_10s.ARW"}


def test_the_metadata_are_those_that_zarr_writes(store: FrameStore, tmp_path: Path):
    store.put("short-1", frame(), SHORT)
    stored = json.loads((store.path / "short-1/zarr.json").read_text())
    zarr.create_array(
        store=tmp_path / "own",
        shape=frame().shape,
        chunks=frame().shape,
        dtype="uint16",
        compressors=None,
        filters=None,
        chunk_key_encoding={"name": "v2", "separator": "."},
        attributes=stored["attributes"],
    )

    assert stored == json.loads((tmp_path / "own/zarr.json").read_text())


@pytest.mark.parametrize("attributes", [SHORT, LONG])
def test_attributes_survive_the_disk(attributes: FrameAttributes, store: FrameStore):
    store.put("frame-1", frame(), attributes)

    found = FrameStore(store.path).get("frame-1")

    assert found is not None
    assert found.attributes == attributes


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "medium"},
        {"kind": None},
        {"raw": 3},
        {"black": []},
        {"black": 512.0},
        {"black": ["512"]},
        {"black": [float("nan")] * 4},
        {"white": 16383.5},
        {"white": True},
        {"white": "16383"},
        {"iso": None},
        {"iso": float("inf")},
        {"iso": [800]},
    ],
)
def test_invalid_attributes_are_rejected(changes: dict[str, Any]):
    with pytest.raises(ValueError, match=r"stored frame: .* must be"):
        FrameAttributes.from_json(SHORT_JSON | changes)


@pytest.mark.parametrize("missing", SHORT_JSON)
def test_no_attribute_may_be_missing(missing: str):
    with pytest.raises(KeyError, match=missing):
        FrameAttributes.from_json({k: v for k, v in SHORT_JSON.items() if k != missing})

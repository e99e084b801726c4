"""Format version 2: the targets linear and raw. Plans and samples of the target srgb are those of version 1."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from darkprep.shards import (
    TARGETS,
    PlanError,
    Sample,
    SampleMeta,
    ShardDamaged,
    ShardLayout,
    Spool,
    SpoolReader,
    Target,
    write_shard,
)
from darkprep.shards.format import META_BYTES, decode_meta, encode_meta
from darkprep.shards.plan_record import PlanRecord
from darkprep.shards.shard_file import verify_shard
from tests.support.fake_reader import meta_of
from tests.support.small_spools import sample, stream

RAW: dict[str, Any] = {"target": "raw", "gt_black": (64.0, 64.0, 65.0, 64.0), "gt_white": 1023}


def meta_towards(target: Target) -> SampleMeta:
    changes = RAW if target == "raw" else {"target": target}
    return replace(meta_of("00000000-0000"), **changes)


def record_towards(target: Target) -> PlanRecord:
    return PlanRecord(stream=replace(stream(shards=2), target=target), recipe={"a": 1})


@pytest.fixture
def filled(tmp_path: Path, target: Target) -> Spool:
    """A spool of two shards of four samples."""
    spool = Spool(tmp_path / "spool")
    spool.create(record_towards(target))
    for shard in range(2):
        samples = []
        for index in range(4):
            one = sample(shard, index, spool.stream)
            changes = RAW if target == "raw" else {"target": target}
            samples.append(Sample(one.low, one.gt, replace(one.meta, **changes)))
        write_shard(
            spool.shard_path(shard),
            spool.stream.layout(),
            shard,
            samples,
            plan=spool.digest,
            partial=spool.partial,
        )
    return spool


def test_a_plan_of_the_target_srgb_is_that_of_version_1():
    """The digest is one that version 1 wrote."""
    record = PlanRecord(stream=stream(), recipe={"a": 1})

    assert record.digest == "b78136a8f9d09853"
    assert record.to_json()["format"] == 1
    assert "target" not in record.to_json()["stream"]


def test_the_metadata_of_a_sample_of_the_target_srgb_are_those_of_version_1():
    record = json.loads(encode_meta(meta_towards("srgb"), "plan"))

    assert record["format"] == 1
    assert not record.keys() & {"target", "gt_black", "gt_white"}


@pytest.mark.parametrize("target", TARGETS)
def test_plans_and_metadata_of_every_target_are_read_again(target: Target):
    plan, meta = record_towards(target), meta_towards(target)

    stored = json.loads(json.dumps(plan.to_json()))
    assert PlanRecord.from_json(stored, "here", "").stream.target == target
    assert decode_meta(encode_meta(meta, "plan"), "plan") == meta


def test_the_digest_depends_on_the_target():
    assert len({record_towards(target).digest for target in TARGETS}) == 3


@pytest.mark.parametrize("target", ["linear", "raw"])
@pytest.mark.parametrize("version", [1, 3])
def test_another_version_than_the_targets_is_refused(target: Target, version: int):
    stored = json.loads(encode_meta(meta_towards(target), "plan"))
    with pytest.raises(ShardDamaged, match="version"):
        decode_meta(json.dumps(stored | {"format": version}).encode(), "plan")
    with pytest.raises(PlanError):
        PlanRecord.from_json(record_towards(target).to_json() | {"format": version}, "here", "")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("target", {"target": "xyz"}),
        ("gt_black", {"target": "raw"}),
        ("gt_black", {"target": "linear", "gt_black": (1.0,) * 4, "gt_white": 2}),
        ("gt_white", RAW | {"gt_white": 65}),
        ("gt_white", RAW | {"gt_white": float("nan")}),
    ],
)
def test_invalid_levels_of_the_truth_are_named(field: str, changes: dict[str, Any]):
    with pytest.raises(ValueError, match=field):
        replace(meta_of("k"), **changes)


def test_the_longest_metadata_of_a_raw_target_fit():
    meta = replace(
        meta_of("00000000-0000", "xtrans", 123.4567890123),
        pair="x" * 200,
        black=(1022.1234,) * 9,
        target="raw",
        gt_black=(1022.1234,) * 9,
        gt_white=16383,
    )
    assert len(encode_meta(meta, "0" * 16)) == META_BYTES


@pytest.mark.parametrize("cfa", ["bayer", "xtrans"])
def test_the_truth_of_a_raw_target_has_the_shape_of_the_input(cfa):
    layout = ShardLayout(cfa=cfa, height=12, width=18, samples=1, target="raw")
    assert layout.gt_shape == layout.low_shape
    assert replace(layout, target="linear").gt_shape == (3, 12, 18)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to the collector
@pytest.mark.parametrize("target", TARGETS)
def test_the_reader_and_plain_webdataset_return_the_same_arrays(filled: Spool, target: Target):
    url = str(filled.shard_path(0))
    first = {one["__key__"]: one for one in webdataset.WebDataset(url, shardshuffle=False).decode()}
    gc.collect()
    reader = SpoolReader(filled, batch_size=4, keep=True)
    read = {}
    for _ in range(2):
        batch = next(reader)
        for low, gt, meta in zip(batch.low, batch.gt, batch.metas, strict=True):
            read[meta.key] = (low.copy(), gt.copy(), meta)
    reader.close()

    assert len(first) == 4
    for key, one in first.items():
        low, gt, meta = read[key]
        np.testing.assert_array_equal(one["low.npy"], low)
        np.testing.assert_array_equal(one["gt.npy"], gt)
        assert one["json"].get("target", "srgb") == meta.target == target
        assert tuple(one["json"].get("gt_black", ())) == meta.gt_black


@pytest.mark.parametrize("target", ["raw"])
def test_a_shard_of_another_target_is_damaged(filled: Spool, target: Target):
    meta = replace(meta_towards("raw"), target="linear", gt_black=(), gt_white=0)
    path = filled.shard_path(0)
    data = bytearray(path.read_bytes())
    start = filled.stream.layout().meta_offset
    data[start : start + META_BYTES] = encode_meta(meta, filled.digest)
    path.write_bytes(data)
    with pytest.raises(ShardDamaged, match="linear"):
        verify_shard(path, filled.stream.layout(), 0, filled.digest)

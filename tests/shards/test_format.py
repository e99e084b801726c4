from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from darkprep.shards import PERIOD, SampleMeta, ShardDamaged, ShardLayout
from darkprep.shards.format import META_BYTES, decode_meta, encode_meta, sample_key
from tests.support.any_text import any_text


def meta(**changes: object) -> SampleMeta:
    values: dict[str, object] = {
        "key": sample_key(42, 3), "pair": "00055_00_0.1s", "camera": "sony", "cfa": "bayer", "origin": (512, 1024),
        "black": (512.0, 510.5, 512.0, 512.0), "white": 16383, "ratio": 300.0, "amplification": 300.0,
        "amplification_source": "ratio", "iso": 800.0, "low": "xxh3:00", "gt": "xxh3:11",
    }  # fmt: skip
    return SampleMeta(**{**values, **changes})


def test_metadata_survive_the_round_trip_in_exactly_1024_bytes():
    data = encode_meta(meta(), "abcd")

    assert len(data) == META_BYTES
    assert decode_meta(data, "abcd") == meta()


def test_metadata_of_another_plan_are_refused():
    with pytest.raises(ShardDamaged, match="another plan"):
        decode_meta(encode_meta(meta(), "abcd"), "ef01")


def test_an_unknown_format_version_is_refused_by_name():
    record = json.loads(encode_meta(meta(), "abcd")) | {"format": 7}

    with pytest.raises(ShardDamaged, match="version 7"):
        decode_meta(json.dumps(record).encode(), "abcd")


@pytest.mark.parametrize(
    "changes",
    [
        {"black": (512.0,)}, {"white": 300}, {"amplification": 0.0}, {"ratio": float("nan")}, {"cfa": "foveon"},
        {"iso": float("inf")},
    ],
)  # fmt: skip
def test_invalid_metadata_are_refused(changes: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(meta(), **changes)


def test_the_json_key_of_the_amplification_source_is_gain():
    """FORMAT.md fixes the key, so shards from before the field was renamed can be read."""
    record = json.loads(encode_meta(meta(amplification_source="estimate"), "abcd"))

    assert record["gain"] == "estimate"
    assert "amplification_source" not in record
    with pytest.raises(ShardDamaged, match="amplification_source"):
        decode_meta(json.dumps(record | {"amplification_source": "ratio"}).encode(), "abcd")


def test_a_pair_name_too_long_for_the_metadata_is_refused():
    with pytest.raises(ValueError, match="more than the 1024"):
        encode_meta(meta(pair="x" * 1000), "abcd")


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_arbitrary_bytes_raise_shard_damaged_only(data: bytes):
    with pytest.raises(ShardDamaged):
        decode_meta(data, "abcd")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text(5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text(3), inner, max_size=3),
    max_leaves=4,
)


@given(st.sampled_from(sorted(json.loads(encode_meta(meta(), "p")))), json_values)
@settings(max_examples=250)
def test_any_field_replaced_by_any_value_is_read_or_refused(name: str, value: object):
    record = json.loads(encode_meta(meta(), "p")) | {name: value}

    try:
        read = decode_meta(json.dumps(record).encode(), "p")
    except ShardDamaged:
        return
    assert np.isfinite([*read.black, read.white, read.ratio, read.amplification, read.iso]).all()
    assert isinstance(read.pair, str)


@given(
    st.sampled_from(["bayer", "xtrans"]),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_pythons_tarfile_reads_the_layout(cfa, rows: int, columns: int, samples: int, shard: int):
    layout = ShardLayout(
        cfa=cfa, height=rows * PERIOD[cfa], width=columns * PERIOD[cfa], samples=samples
    )
    data = bytearray(layout.shard_bytes)
    for index in range(samples):
        for offset, header in zip(
            layout.header_offsets(), layout.headers(shard, index), strict=True
        ):
            start = index * layout.sample_bytes + offset
            data[start : start + len(header)] = header

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        arrays = [
            np.load(io.BytesIO(data[m.offset_data : m.offset_data + m.size]))
            for m in members
            if m.name.endswith("npy")
        ]

    assert [m.name for m in members][:3] == [
        f"{sample_key(shard, 0)}.{end}" for end in ("low.npy", "gt.npy", "json")
    ]
    assert len(members) == 3 * samples
    assert arrays[0].shape == layout.low_shape
    assert arrays[1].shape == layout.gt_shape
    assert arrays[0].dtype == np.dtype("<u2")
    assert [m.offset_data for m in members][2] == layout.meta_offset


@pytest.mark.parametrize(
    ("field", "value"), [("height", 7), ("width", 0), ("samples", 0), ("samples", 10000)]
)
def test_an_invalid_layout_names_the_field(field: str, value: int):
    with pytest.raises(ValueError, match=field):
        ShardLayout(**{"cfa": "bayer", "height": 8, "width": 8, "samples": 2, field: value})

"""ELD's LMDB patches are read as small photographs, and their pickle cannot do anything."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkprep.pipeline.pairs.cameras import CAMERAS
from darkprep.pipeline.pairs.inert_pickle import read_inert_pickle
from darkprep.pipeline.pairs.lmdb import LmdbPatch, _environment, _meta_colours, find_patches
from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.raw.colour import linear_light
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import ShardFile, Spool, machine
from darkprep.shards.errors import DatasetError, MachineError, OptionError, RawError
from darkprep.synth.sensors import sensor_of
from tests.support.builds import InlinePool

lmdb: Any = pytest.importorskip("lmdb")

SIDE = 24
BALANCE = np.array([2.0, 1.0, 1.5, 1.0], np.float32)
MATRIX = np.linalg.inv(sensor_of("sony").balanced_from_srgb()).astype(np.float32)


@pytest.fixture(autouse=True)
def closed():
    yield
    _environment.cache_clear()
    _meta_colours.cache_clear()


def store(folder: Path, patches: list[np.ndarray], meta: Any = None) -> None:
    """Writes patches `(4, h, w)` uint16 in the order R, G, B, G as ELD's code does."""
    with (
        lmdb.open(str(folder), map_size=1 << 24) as environment,
        environment.begin(write=True) as put,
    ):
        for k, patch in enumerate(patches):
            put.put(f"{k:08d}".encode(), patch.tobytes())
    if meta is None:
        meta = {"shape": patches[0].shape, "dtype": np.uint16}
        meta |= {k: (BALANCE, MATRIX) for k in range(len(patches))}
    (folder / "meta_info.pkl").write_bytes(pickle.dumps(meta))


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """Two pairs: smooth targets, and inputs that are a little darker."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    wave = 0.02 * y + 0.01 * x
    light = np.stack([0.2 + wave, 0.3 + wave, 0.25 + wave, 0.302 + wave])
    targets = [(light * k * 65535).astype(np.uint16) for k in (1.0, 0.7)]
    store(tmp_path / "SID_Sony_target_Raw.db", targets)
    store(tmp_path / "SID_Sony_input_Raw.db", [patch // 10 * 9 for patch in targets])
    return tmp_path


def test_pairs_are_found_by_name_and_number(patches):
    found = find_patches(patches, CAMERAS["sony"], "SID_Sony")

    assert [pair.id for pair in found.pairs] == ["SID_Sony-00000000", "SID_Sony-00000001"]
    one = found.pairs[1]
    assert one.short == "SID_Sony_input_Raw.db/00000001"
    assert one.long == "SID_Sony_target_Raw.db/00000001"
    assert (one.ratio, one.split, one.scene) == (1.0, "train", "photograph-00000")
    assert isinstance(open_source(patches / one.short), LmdbPatch)
    assert isinstance(open_source(patches / "Sony/short/a.ARW"), RawFile)


def test_long_exposures_alone_are_the_clean_file_or_else_the_targets(patches):
    found = find_patches(patches, CAMERAS["sony"], "SID_Sony", longs_only=True)
    assert {pair.short for pair in found.pairs} == {pair.long for pair in found.pairs}
    assert found.pairs[0].long == "SID_Sony_target_Raw.db/00000000"

    store(patches / "SID_Sony_Raw.db", [np.zeros((4, SIDE, SIDE), np.uint16)])
    clean = find_patches(patches, CAMERAS["sony"], "SID_Sony", longs_only=True)
    assert [pair.long for pair in clean.pairs] == ["SID_Sony_Raw.db/00000000"]


def test_planes_come_in_our_order_with_levels_of_shares(patches):
    path = patches / "SID_Sony_target_Raw.db" / "00000000"

    frame = open_source(path).decode()

    assert frame.planes.shape == (4, SIDE, SIDE)
    means = (frame.planes / 65535).mean(axis=(1, 2))
    assert means == pytest.approx([0.2144, 0.3144, 0.3164, 0.2644], abs=5e-4)
    assert (frame.black, frame.white, frame.cfa) == ((0, 0, 0, 0), 65535, "bayer")
    assert frame.white_balance == pytest.approx((2.0, 1.0, 1.5, 1.0))
    header = LmdbPatch(path).header()
    assert (header.height, header.width, header.pattern) == (2 * SIDE, 2 * SIDE, ("RG", "GB"))


def test_a_patch_is_developed_with_its_own_balance_and_matrix(patches):
    path = patches / "SID_Sony_target_Raw.db" / "00000000"

    srgb = open_source(path).develop()

    assert srgb.shape == (3, 2 * SIDE, 2 * SIDE)
    planes = LmdbPatch(path).planes() / 65535
    balanced = np.stack([planes[0] * 2, planes[1:3].mean(0), planes[3] * 1.5])
    wanted = np.tensordot(MATRIX.astype(np.float64), balanced, axes=1)
    light = linear_light(srgb).reshape(3, SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    inner = np.s_[:, 3:-3, 3:-3]
    assert np.abs(light - wanted)[inner].max() < 0.005
    np.testing.assert_array_equal(srgb, LmdbPatch(path).develop())


def test_fingerprints_of_different_patches_differ(patches):
    first, second = (LmdbPatch(patches / "SID_Sony_target_Raw.db" / f"{k:08d}") for k in (0, 1))

    assert first.fingerprint() == first.fingerprint() != second.fingerprint()


@pytest.mark.parametrize("missing", ["SID_Sony_input_Raw.db", "SID_Sony_target_Raw.db"])
def test_a_missing_half_is_named(patches, missing):
    (patches / missing).rename(patches / "elsewhere")

    with pytest.raises(DatasetError, match=r"no SID_Sony_input_Raw\.db and SID_Sony_target"):
        find_patches(patches, CAMERAS["sony"], "SID_Sony")


def test_halves_of_different_sizes_are_refused(tmp_path):
    patch = np.zeros((4, SIDE, SIDE), np.uint16)
    store(tmp_path / "A_target_Raw.db", [patch])
    store(tmp_path / "A_input_Raw.db", [patch, patch])

    with pytest.raises(DatasetError, match="A_input_Raw has 2 patches and A_target_Raw 1"):
        find_patches(tmp_path, CAMERAS["sony"], "A")


@pytest.mark.parametrize("size", [0, 7, 3 * SIDE * SIDE * 2])
def test_a_patch_that_is_not_four_square_planes_is_named(tmp_path, size):
    store(tmp_path / "A.db", [np.zeros(size, np.uint8)], meta={})

    with pytest.raises(RawError, match=r"A\.db/00000000: has \d+ bytes"):
        LmdbPatch(tmp_path / "A.db" / "00000000").planes()
    with pytest.raises(RawError, match="is not in the LMDB file"):
        LmdbPatch(tmp_path / "A.db" / "00000001").planes()


def test_a_file_that_is_no_lmdb_is_named(tmp_path):
    (tmp_path / "A.db").mkdir()
    (tmp_path / "A.db" / "data.mdb").write_bytes(b"no database" * 1000)

    with pytest.raises(DatasetError, match=r"A\.db: not an LMDB file"):
        LmdbPatch(tmp_path / "A.db" / "00000000").planes()


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (136, 1 << 40, r"has 20480 bytes and states 4503599627374592; download it again"),
        (120, 1 << 40, r"states 1099511627776 patches, more than it can hold; download it again"),
    ],
)
def test_a_file_that_states_more_than_it_has_is_named_and_memory_is_not_called_short(
    tmp_path: Path, offset: int, value: int, message: str
):
    """At these offsets of the two first pages are the number of the last page and of the patches."""
    store(tmp_path / "A_Raw.db", [np.zeros((4, SIDE, SIDE), np.uint16)])
    with (tmp_path / "A_Raw.db" / "data.mdb").open("r+b") as file:
        for page in (0, 4096):
            file.seek(page + offset)
            file.write(value.to_bytes(8, "little"))

    with pytest.raises(DatasetError, match=message):
        find_patches(tmp_path, CAMERAS["sony"], "A", longs_only=True)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)

    with pytest.raises(OptionError, match=r"pip install 'darkprep\[lmdb\]'"):
        LmdbPatch(tmp_path / "A.db" / "00000000").planes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f4"])
def test_colours_are_read_from_pickles_of_every_protocol(tmp_path, protocol, kind):
    meta: dict[Any, Any] = {"shape": (4, 2, 2), "dtype": np.uint16}
    meta |= {3: (BALANCE.astype(kind), np.asfortranarray(MATRIX.astype(kind)))}
    (tmp_path / "A.db").mkdir()
    (tmp_path / "A.db" / "meta_info.pkl").write_bytes(pickle.dumps(meta, protocol))

    colours = LmdbPatch(tmp_path / "A.db" / "00000003").colours()

    assert colours.gains == pytest.approx([2.0, 1.0, 1.5])
    assert colours.to_srgb == pytest.approx(MATRIX, rel=1e-6)
    with pytest.raises(RawError, match="00000004: has no usable white balance or colour matrix"):
        LmdbPatch(tmp_path / "A.db" / "00000004").colours()


class Hostile:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.recipe = (call, arguments)

    def __reduce__(self) -> Any:
        return self.recipe


@pytest.mark.parametrize(
    "value",
    [
        Hostile(os.system, "touch pwned"),
        Hostile(eval, "open('pwned', 'w')"),
        Hostile(getattr, "text", "upper"),
        {0: (Hostile(np.load, "a.npy"), MATRIX)},
    ],
)
def test_a_pickle_that_calls_anything_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RawError, match=r"meta: is not a pickle of plain values .*it contains"):
        read_inert_pickle(pickle.dumps(value), "meta")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle at all",
        pickle.dumps({1: 2})[:-2],
        b"\x80\x04r\xff\xff\xff\xff.",  # puts into the memo at 4 294 967 295
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",  # bytes of 4 EiB
    ],
)
def test_a_damaged_pickle_is_refused(data):
    with pytest.raises(RawError, match="meta: is not a pickle of plain values"):
        read_inert_pickle(data, "meta")


@pytest.mark.parametrize(
    "entry",
    [
        "nothing",
        (BALANCE, np.zeros((3, 3), np.float32)),
        (BALANCE[:2], MATRIX),
        (np.array([1, 2, 3]), MATRIX),
        (BALANCE, np.array([None] * 9)),
        (BALANCE, "matrix"),
    ],
)
def test_invalid_colours_are_named(tmp_path, entry):
    (tmp_path / "A.db").mkdir()
    (tmp_path / "A.db" / "meta_info.pkl").write_bytes(pickle.dumps({0: entry}))

    with pytest.raises(RawError):
        LmdbPatch(tmp_path / "A.db" / "00000000").colours()


def test_a_missing_or_huge_table_is_named(tmp_path):
    (tmp_path / "A.db").mkdir()
    with pytest.raises(RawError, match=r"meta_info\.pkl: cannot be read \(No such file"):
        LmdbPatch(tmp_path / "A.db" / "00000000").colours()

    with (tmp_path / "A.db" / "meta_info.pkl").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(RawError, match=r"is larger than 64 MiB"):
        LmdbPatch(tmp_path / "A.db" / "00000000").colours()


def test_a_table_that_is_none_is_named(tmp_path):
    (tmp_path / "A.db").mkdir()
    (tmp_path / "A.db" / "meta_info.pkl").write_bytes(pickle.dumps([1, 2]))

    with pytest.raises(RawError, match=r"meta_info.pkl: is not a table of patches; download it"):
        LmdbPatch(tmp_path / "A.db" / "00000000").colours()


def test_crops_of_a_patch_are_those_of_the_whole(patches):
    patch = LmdbPatch(patches / "SID_Sony_target_Raw.db" / "00000001")
    whole = patch.develop()

    found = patch.develop_crops([(0, 0), (2, 6)], 16)

    assert (found.height, found.width) == whole.shape[1:]
    np.testing.assert_array_equal(found.crops[0], whole[:, :16, :16])
    np.testing.assert_array_equal(found.crops[1], whole[:, 2:18, 6:22])


@pytest.mark.parametrize("noise", [None, "sony"])
def test_shards_are_made_of_patches(patches, tmp_path, noise):
    options = PlanOptions(
        camera="sony", lmdb="SID_Sony", noise=noise, crop=32, margin=4, samples_per_shard=4,
        crops_per_visit=2,
    )  # fmt: skip
    spool = Spool(tmp_path / "spool")
    plan = make_plan(patches, options)
    plan.save(spool)
    config = ProducerConfig(budget_bytes=1 << 28, jobs=1, until=1)

    producer = Producer(spool, config, InlinePool())
    producer.run()

    assert producer.skipped == ()
    opened = ShardFile(spool.shard_path(0), spool.stream.layout(), 0, spool.digest)
    opened.verify_all()
    for meta in opened.metas:
        levels = ((0.0,) * 4, 65535) if noise is None else ((512.0,) * 4, 16383)
        assert (meta.black, meta.white) == levels
        assert meta.amplification == meta.ratio
        assert (meta.ratio == 1) == (noise is None)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("times", [1, 99])
def test_an_error_of_the_machine_is_not_the_files(
    patches: Path, monkeypatch: pytest.MonkeyPatch, number: int, times: int
):
    monkeypatch.setattr(machine, "RETRY_AFTER_S", (0.0, 0.0))
    path, left, opened = patches / "SID_Sony_input_Raw.db/00000000", [times], lmdb.open
    expected = open_source(path).fingerprint()
    _environment.cache_clear()

    def failing(directory: str, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise lmdb.Error(f"{directory}: {os.strerror(number)}")
        return opened(directory, **named)

    monkeypatch.setattr(lmdb, "open", failing)

    if times == 1:
        assert open_source(path).fingerprint() == expected
    else:
        with pytest.raises(MachineError, match=os.strerror(number)):
            open_source(path).fingerprint()

"""Writing a shard and opening it again, whole or damaged."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from darkprep.shards import (
    DiskFull,
    Sample,
    ShardDamaged,
    ShardFile,
    Spool,
    open_webdataset,
    write_shard,
)
from tests.support.small_spools import MakeSpool, fill, sample


def opened(spool: Spool, shard: int = 3) -> ShardFile:
    return ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)


def read_all(shard: ShardFile, spool: Spool) -> list[Sample]:
    layout = spool.stream.layout()
    found = []
    for index in range(layout.samples):
        low, gt = np.empty(layout.low_shape, np.uint16), np.empty(layout.gt_shape, np.uint16)
        shard.read(index, low, gt)
        found.append(Sample(low, gt, shard.metas[index]))
    return found


def test_samples_come_back_as_they_were_written(make_spool: MakeSpool):
    spool = make_spool(ready=[3])

    found = read_all(opened(spool), spool)

    for index, got in enumerate(found):
        wanted = sample(3, index, spool.stream)
        np.testing.assert_array_equal(got.low, wanted.low)
        np.testing.assert_array_equal(got.gt, wanted.gt)
        assert got.meta.pair == wanted.meta.pair
        assert got.meta.key == f"00000003-000{index}"


def test_the_same_samples_give_the_same_bytes_of_the_size_known_beforehand(make_spool: MakeSpool):
    spool = make_spool(ready=[3])
    first = spool.shard_path(3).read_bytes()

    fill(spool, [3])

    assert spool.shard_path(3).read_bytes() == first
    assert len(first) == spool.stream.layout().shard_bytes
    assert not list(spool.partial.iterdir())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to the collector
def test_plain_webdataset_yields_every_sample(make_spool: MakeSpool):
    spool = make_spool(ready=range(3))

    found = {entry["__key__"]: entry for entry in open_webdataset(spool)}
    gc.collect()

    assert len(found) == 12
    wanted = sample(2, 1, spool.stream)
    np.testing.assert_array_equal(found["00000002-0001"]["low.npy"], wanted.low)
    np.testing.assert_array_equal(found["00000002-0001"]["gt.npy"], wanted.gt)
    assert found["00000002-0001"]["json"]["pair"] == wanted.meta.pair


def damage_cut_in_a_payload(path: Path, spool: Spool) -> None:
    os.truncate(path, spool.stream.layout().sample_bytes + 700)


def damage_cut_between_members(path: Path, spool: Spool) -> None:
    layout = spool.stream.layout()
    os.truncate(path, layout.sample_bytes + layout.header_offsets()[1])


def damage_cut_between_samples(path: Path, spool: Spool) -> None:
    os.truncate(path, 2 * spool.stream.layout().sample_bytes)


def damage_cut_in_a_header(path: Path, spool: Spool) -> None:
    os.truncate(path, 2 * spool.stream.layout().sample_bytes + 100)


def damage_emptied(path: Path, spool: Spool) -> None:
    os.truncate(path, 0)


def damage_no_end_mark(path: Path, spool: Spool) -> None:
    os.truncate(path, path.stat().st_size - 1024)


def damage_end_mark_overwritten(path: Path, spool: Spool) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def damage_something_appended(path: Path, spool: Spool) -> None:
    with path.open("ab") as file:
        file.write(bytes(10240))


def damage_a_flipped_header_bit(path: Path, spool: Spool) -> None:
    _flip(path, spool.stream.layout().sample_bytes + 20)


def damage_a_flipped_npy_header(path: Path, spool: Spool) -> None:
    _flip(path, 512 + 30)


def damage_a_zip_renamed(path: Path, spool: Spool) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("00000003-0000.json", "{}")


def damage_another_shard_under_this_name(path: Path, spool: Spool) -> None:
    fill(spool, [4])
    spool.shard_path(4).replace(path)


def damage_a_member_named_outside(path: Path, spool: Spool) -> None:
    _rename_member(path, "../../../etc/passwd")


def damage_an_absolute_member(path: Path, spool: Spool) -> None:
    _rename_member(path, "/tmp/x.low.npy")


def damage_a_huge_declared_size(path: Path, spool: Spool) -> None:
    _edit_member(path, size=8 << 30)


def damage_a_member_that_is_a_link(path: Path, spool: Spool) -> None:
    _edit_member(path, type=tarfile.SYMTYPE, linkname="/etc/passwd")


def damage_a_tar_bomb(path: Path, spool: Spool) -> None:
    """A sparse file of a terabyte whose members claim eight gigabytes each."""
    damage_a_huge_declared_size(path, spool)
    os.truncate(path, 1 << 40)


def damage_a_link_to_elsewhere(path: Path, spool: Spool) -> None:
    path.rename(spool.path / "elsewhere.tar")
    path.symlink_to(spool.path / "elsewhere.tar")


def damage_a_pipe_without_a_writer(path: Path, spool: Spool) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_a_folder(path: Path, spool: Spool) -> None:
    path.unlink()
    path.mkdir()


def damage_of_another_cfa(path: Path, spool: Spool) -> None:
    _edit_meta(path, spool, cfa="xtrans", black=[512.0] * 9)


def damage_of_another_sample(path: Path, spool: Spool) -> None:
    _edit_meta(path, spool, key="00000003-0001")


def damage_a_missing_field(path: Path, spool: Spool) -> None:
    _edit_meta(path, spool, white=None)


def _edit_meta(path: Path, spool: Spool, **changes: object) -> None:
    with path.open("r+b") as file:
        file.seek(spool.stream.layout().meta_offset)
        record = json.loads(file.read(1024)) | changes
        file.seek(-1024, os.SEEK_CUR)
        file.write(json.dumps(record).encode().ljust(1024))


def damage_metadata_of_nonsense(path: Path, spool: Spool) -> None:
    with path.open("r+b") as file:
        file.seek(spool.stream.layout().meta_offset)
        file.write(b"[" * 1024)


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def _rename_member(path: Path, name: str) -> None:
    _edit_member(path, name=name)


def _edit_member(path: Path, **changes: object) -> None:
    with tarfile.open(path) as tar:
        member = tar.getmembers()[0]
    for name, value in changes.items():
        setattr(member, name, value)
    with path.open("r+b") as file:
        file.write(
            member.tobuf(
                tarfile.USTAR_FORMAT if getattr(member, "size", 0) < 8 << 30 else tarfile.GNU_FORMAT
            )[:512]
        )


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__.removeprefix("damage_"))
def test_every_structural_fault_is_refused_at_opening(
    damage: Callable[[Path, Spool], None], make_spool: MakeSpool
):
    spool = make_spool(ready=[3])
    damage(spool.shard_path(3), spool)

    with pytest.raises(ShardDamaged, match=r"00000003\.tar"):
        opened(spool)
    spool.quarantine.add(spool.shard_path(3), 3, "damaged")
    assert not spool.ready_shards()
    assert spool.quarantine.count() == 1
    spool.quarantine.trim(0)


def test_a_shard_of_another_plan_is_refused(make_spool: MakeSpool):
    spool, other = make_spool(ready=[3]), make_spool("other", ready=[3])
    shutil.copy(other.shard_path(3), spool.shard_path(3))

    with pytest.raises(ShardDamaged, match="another plan"):
        opened(spool)


@pytest.mark.parametrize("part", ["low", "gt"])
def test_a_flipped_payload_bit_is_found_at_its_first_read(part: str, make_spool: MakeSpool):
    spool = make_spool(ready=[3])
    layout = spool.stream.layout()
    offset = layout.low_offset if part == "low" else layout.gt_offset
    _flip(spool.shard_path(3), 2 * layout.sample_bytes + offset + 5)
    shard = opened(spool)
    low, gt = np.empty(layout.low_shape, np.uint16), np.empty(layout.gt_shape, np.uint16)

    shard.read(1, low, gt)
    with pytest.raises(ShardDamaged, match=f"sample 2: the checksum of {part}"):
        shard.read(2, low, gt)


def test_a_file_truncated_after_opening_is_damage_not_a_crash(make_spool: MakeSpool):
    spool = make_spool(ready=[3])
    layout = spool.stream.layout()
    shard = opened(spool)
    os.truncate(spool.shard_path(3), 3 * layout.sample_bytes)

    with pytest.raises(ShardDamaged, match="ends inside sample 3"):
        shard.read(3, np.empty(layout.low_shape, np.uint16), np.empty(layout.gt_shape, np.uint16))


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_refused_or_in_the_padding(
    make_spool: MakeSpool, changes: list[tuple[int, int]], cut: bool
):
    spool = make_spool(ready=[3])
    data = bytearray(spool.shard_path(3).read_bytes())
    for place, mask in changes:
        data[place % len(data)] ^= mask
    spool.shard_path(3).write_bytes(data[: changes[0][0] % len(data)] if cut else data)

    try:
        found = read_all(opened(spool), spool)
    except ShardDamaged:
        return
    for index, got in enumerate(found):
        np.testing.assert_array_equal(got.low, sample(3, index, spool.stream).low)
        np.testing.assert_array_equal(got.gt, sample(3, index, spool.stream).gt)


def test_a_sample_of_the_wrong_shape_raises_value_error(make_spool: MakeSpool):
    spool = make_spool()
    samples = [sample(0, index, spool.stream) for index in range(4)]
    samples[2] = Sample(samples[2].low[:, 1:], samples[2].gt, samples[2].meta)

    with pytest.raises(ValueError, match="sample 2"):
        write_shard(
            spool.shard_path(0), spool.stream.layout(), 0, samples, plan="p", partial=spool.partial
        )
    assert not list(spool.partial.iterdir())
    assert not spool.ready_shards()


def test_a_full_disk_is_reported_with_path_and_size_and_leaves_no_file(
    make_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
):
    spool = make_spool()

    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(DiskFull, match=r"partial: the disk is full, 0\.1 MB are needed"):
        fill(spool, [0])
    assert not list(spool.partial.iterdir())
    assert not spool.ready_shards()

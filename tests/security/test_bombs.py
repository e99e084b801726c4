"""Files of someone else that ask for much time or memory are refused or read in part, within a second."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from darkprep.jobs.background import last_log_line, log_path
from darkprep.jobs.weights import load_network
from darkprep.model.weights import FORMAT
from darkprep.pipeline.noise.camera_calibration import read_calibration
from darkprep.pipeline.pairs.cameras import camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.folders import find_layout
from darkprep.pipeline.pairs.inert_pickle import floats_of, read_inert_pickle
from darkprep.pipeline.pairs.pair_table import pairs_from_csv
from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore, _attributes_checksum
from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.exif import read_exposure
from darkprep.pipeline.raw.photo_metadata import PhotoMetadata, metadata_in_directories
from darkprep.pipeline.raw.reader import read_header, read_raw
from darkprep.pipeline.raw.source import RawFile
from darkprep.report.charts import smooth
from darkprep.report.run_page import write_run_report
from darkprep.shards import Cursor, DatasetError, OptionError, PlanError, Spool, SpoolError
from darkprep.shards.decode import decode
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.errors import RawError, WeightsError
from darkprep.shards.files import (
    DEEPEST,
    json_objects,
    parse_json_object,
    read_last_lines,
    read_regular_file,
    remove,
    walk,
)
from darkprep.shards.heartbeat import ProducerStatus
from darkprep.shards.plan_record import StreamSpec
from darkprep.shards.process import ProcessId
from darkprep.shards.quarantine import ShardQuarantine
from darkprep.trainer.records import read_metrics
from darkprep.trainer.run_log import _remove_lines_after
from darkprep.trainer.validations import read_validations
from darkprep.view.history import read_history
from darkprep.view.read_status import spool_status
from darkprep.view.text import status_lines
from tests.support.foreign_records import FOREIGN
from tests.support.runs import write_run

HUGE = 1 << 36
"""Bytes of a sparse file: more than this machine has memory."""


def sparse(path: Path, end: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(HUGE)
        file.seek(0, os.SEEK_END)
        file.write(end)
    return path


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + bytes(4)


def dng_of_many_directories() -> bytes:
    """Return a DNG of 65,536 subdirectories, each with 65,536 strips; all refer to one table."""
    count, sub, table = 1 << 16, 512, 2048
    first = directory((0x0100, 4, 1, 64), (0x0101, 4, 1, 64), (0x014A, 4, count, table))
    second = directory(
        *((0x0100, 4, 1, 64), (0x0101, 4, 1, 64), (0x0103, 3, 1, 1), (0x0106, 3, 1, 32803)),
        *((0x0111, 4, count, table), (0x0117, 4, count, table)),
    )
    head = (b"II*\0" + struct.pack("<I", 8) + first).ljust(sub, b"\0") + second
    return head.ljust(table, b"\0") + struct.pack("<I", sub) * count


@pytest.mark.parametrize("part", [b"{}", pytest.param(b"[]", marks=pytest.mark.slow)])
def test_a_record_or_log_of_millions_of_lists_or_objects_is_not_parsed(part):
    text = b'{"a": [' + b",".join([part] * 1_000_000) + b"]}"
    row = b'{"a": [' + b",".join([part] * 150_000) + b"]}"
    newest = b'{"a": 1}'

    assert parse_json_object(text) is None
    rows = json_objects([row] * 8 + [newest])

    assert len(rows) == 1 + 6
    assert rows[-1] == {"a": 1}


def test_a_dng_of_many_directories_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.dng"
    path.write_bytes(dng_of_many_directories())
    monkeypatch.setattr("rawpy.imread", lambda _: pytest.fail("decodes"))

    with pytest.raises(RawError, match=r"more TIFF directories \(IFDs\) than any camera writes"):
        read_header(str(path))


def test_a_dng_of_many_samples_per_pixel_is_refused_and_memory_is_not_called_short(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, np.full((48, 64), 600, np.uint16), DngTags())
    one_sample = struct.pack("<HHIHH", 0x0115, 3, 1, 1, 0)
    assert one_sample in path.read_bytes()
    many = struct.pack("<HHII", 0x0115, 4, 1, 0xEF8DB001)
    path.write_bytes(path.read_bytes().replace(one_sample, many))

    for read in (read_header, read_raw):
        with pytest.raises(RawError, match="more samples per pixel than any camera writes"):
            read(str(path))


def nested_key() -> bytes:
    data = b"\x80\x02}U\x01xq\x00"
    for level in range(60):
        data += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return data


PICKLES = {
    "key of nested tuples": nested_key() + b"K\x01s.",
    "keys of nested tuples": nested_key().replace(b"}", b"}(", 1) + b"K\x01u.",
    "dictionary of nested tuples": nested_key().replace(b"}", b"(", 1) + b"K\x01d.",
    "set of nested tuples": pickle.dumps({("x",)}, 4),
    "dtype of a list": b"\x80\x02cnumpy\ndtype\n]\x85R.",
    "long text as bytes": b"\x80\x02c_codecs\nencode\nX"
    + struct.pack("<I", 5000)
    + b"x" * 5000
    + b"U\x06latin1\x86R.",
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_hashes_or_allocates_for_ever_is_refused(data):
    with pytest.raises(RawError, match="is not a pickle of plain values"):
        read_inert_pickle(data, "meta_info.pkl")


def test_bytes_are_not_allocated_before_they_are_read(monkeypatch):
    monkeypatch.setattr("builtins.bytearray", lambda *_: pytest.fail("allocates"))
    data = b"\x80\x05\x96" + struct.pack("<Q", 2_900_000_000) + b"."

    with pytest.raises(RawError, match="is not a pickle of plain values"):
        read_inert_pickle(data, "meta_info.pkl")


def test_lists_that_are_shared_are_no_numbers():
    value: object = 1.0
    for _ in range(40):
        value = [value, value]

    with pytest.raises(ValueError, match="not numbers"):
        floats_of(value)


@pytest.mark.parametrize("start", [b"", b"\x02" + bytes(7) + b"{}"])
def test_a_weights_file_of_any_length_is_refused_before_it_is_read(tmp_path, start):
    path = sparse(tmp_path / "weights.safetensors")
    with path.open("r+b") as file:
        file.write(start)

    with pytest.raises(WeightsError, match="is larger than 4 GiB"):
        load_network(path)


def safetensors(path: Path, header: dict[str, object], length: int = 0) -> Path:
    """Write a file of weights with this header and `length` zeros."""
    metadata = {"format": FORMAT, "name": "redirt", "cfa": "bayer"}
    text = json.dumps({"__metadata__": metadata} | header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + length)
    return path


def test_weights_of_a_wrong_shape_are_refused_before_their_numbers_are_read(tmp_path, monkeypatch):
    size = 1 << 31
    name = "body.higher_scale_encoder.head.0.bias"
    tensor = {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}
    path = safetensors(tmp_path / "weights.safetensors", {name: tensor}, size)
    monkeypatch.setattr("torch.isfinite", lambda _: pytest.fail("reads the numbers"))

    with pytest.raises(WeightsError, match=rf"has the wrong shape in {name} \({size // 2},\)"):
        load_network(path)


def test_weights_with_a_header_of_a_million_tensors_or_a_long_note_are_refused(tmp_path):
    many = {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(65_000)}
    with pytest.raises(WeightsError, match="its header is larger than 4 MiB"):
        load_network(safetensors(tmp_path / "many.safetensors", many))

    metadata = {"format": FORMAT, "name": "redirt", "cfa": "bayer", "note": "x" * 3000}
    with pytest.raises(WeightsError, match="note has more than 2000 characters"):
        load_network(safetensors(tmp_path / "note.safetensors", {"__metadata__": metadata}))


def test_a_torch_file_of_gigabytes_is_not_read_as_the_released_weights(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(1 << 31)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("reads it"))

    with pytest.raises(WeightsError, match="larger than the released checkpoint"):
        load_network(path)


def test_a_pipe_among_photographs_is_refused_and_nobody_waits_for_its_other_end(tmp_path):
    path = tmp_path / "a.dng"
    os.mkfifo(path)

    for read in (read_header, read_exposure, RawFile(path).fingerprint, RawFile(path).decode):
        with pytest.raises(RawError, match=r"is empty|is not a regular file"):
            read(*([str(path)] if read in (read_header, read_exposure) else []))
    assert metadata_in_directories(path) == PhotoMetadata()


LINE = {"iteration": 1, "psnr": 20.0, "ssim": 0.5}


def test_records_of_a_run_of_any_length_are_read_in_part(tmp_path):
    end = b"\n" + json.dumps(LINE).encode() + b"\n"
    for name in ("metrics.jsonl", "evaluations.jsonl", "spool.jsonl"):
        sparse(tmp_path / name, end)

    assert read_metrics(tmp_path) == []
    assert len(read_validations(tmp_path)) == 1
    assert read_history(tmp_path) == []


def test_logs_of_a_spool_of_any_length_are_read_in_part(tmp_path):
    spool = Spool(tmp_path)
    sparse(log_path(spool), b"\ndarkprep: the reason\n")
    quarantine = ShardQuarantine(tmp_path / "damaged")
    sparse(quarantine.log_path)

    assert last_log_line(spool) == "the reason"
    assert quarantine.records() == []


def test_a_file_of_any_length_is_read_in_part(tmp_path):
    path = sparse(tmp_path / "list.txt", b"\nend\n")

    assert len(read_regular_file(path)) == 64 << 20
    assert read_last_lines(path, 1000) == [b"end"]


def test_lines_of_a_resumed_run_are_copied_one_by_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"iteration": n}) for n in range(6)]
    path.write_text("\n".join(rows) + "\n" + "[" * (3 << 20))

    _remove_lines_after(path, 3)

    assert path.read_text().splitlines() == rows[:4]


def test_a_long_line_is_left_out():
    assert json_objects([b'{"a": [' + b"[]," * (1 << 20) + b"[]]}", b'{"a": 1}']) == [{"a": 1}]


def test_of_very_many_lines_some_are_read_and_the_last_always(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{}\n" * 600_000 + b'{"a": 1}\n')

    rows = read_last_lines(path)
    records = json_objects(rows)

    assert (len(rows), rows[-1]) == (500_000, b'{"a": 1}')
    assert len(records) == 100_000
    assert records[-1] == {"a": 1}
    assert len(smooth([(float(n), 1.0) for n in range(100_000)])) == 4_000


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(b"a,b\n" * 500_000, id="rows", marks=pytest.mark.slow),
        pytest.param(b"," * (1 << 20), id="fields"),
    ],
)
def test_a_pair_table_of_very_many_rows_or_fields_is_refused(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_bytes(b"short,long\n" + rows)

    with pytest.raises(DatasetError, match=r"a pair table has at most 500,000 lines"):
        pairs_from_csv(path)


def test_a_stored_frame_of_holes_is_damaged_and_its_checksum_not_computed(tmp_path, monkeypatch):
    store = FrameStore(tmp_path / "frames")
    store.create()
    attributes = FrameAttributes(kind="long", raw="a.dng")
    store.put("1-a-long", np.zeros((3, 8, 8), np.uint16), attributes)
    folder = tmp_path / "frames" / "1-a-long"
    record = json.loads((folder / "zarr.json").read_text())
    shape = (1, 1, HUGE // 2)
    sums = record["attributes"] | {"facts_xxh3": _attributes_checksum(shape, record["attributes"])}
    (folder / "zarr.json").write_text(json.dumps(record | {"shape": shape, "attributes": sums}))
    os.truncate(folder / "0.0.0", HUGE)
    monkeypatch.setattr(
        "darkprep.pipeline.produce.frame_store.checksum", lambda _: pytest.fail("computes")
    )

    assert FrameStore(tmp_path / "frames").get("1-a-long") is None


def test_the_page_of_a_run_shows_few_small_pictures_that_are_no_links(tmp_path):
    run = write_run(tmp_path / "run")
    scene = next((run / "heldout").iterdir())
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((scene / "dark.jpg").read_bytes() + b"secret")
    for number in range(20):
        shutil.copytree(scene, run / "heldout" / f"copy-{number}")
    (run / "heldout" / "copy-0" / "dark.jpg").unlink()
    (run / "heldout" / "copy-0" / "dark.jpg").symlink_to(secret)
    (run / "heldout" / "copy-1" / "dark.jpg").write_bytes(secret.read_bytes().ljust(3 << 20, b"x"))

    page = write_run_report(run).read_text()

    assert 0 < page.count('<div class="stage"') <= 8
    assert "copy-0" not in page
    assert "copy-1:" not in page
    assert "copy-10:" in page


def test_the_page_of_a_run_does_not_grow_with_its_records(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "about.json").write_text(json.dumps({"command": "x" * (2 << 20)}))

    assert len(write_run_report(run).read_bytes()) < 1 << 20
    (run / "config.json").write_text(json.dumps({"model": "x" * (2 << 20)}))
    with pytest.raises(OptionError, match="holds no run"):
        write_run_report(run)


def test_the_page_of_a_run_whose_folder_of_pictures_is_a_link_shows_none(tmp_path):
    run = write_run(tmp_path / "run")
    assert '<div class="stage"' in write_run_report(run).read_text()
    (run / "heldout").rename(tmp_path / "pictures of the user")
    (run / "heldout").symlink_to(tmp_path / "pictures of the user")

    assert '<div class="stage"' not in write_run_report(run).read_text()


def test_a_pipe_as_calibration_is_refused_and_nobody_waits_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "c.json")

    with pytest.raises(OptionError, match="is not a regular file"):
        read_calibration(tmp_path / "c.json")


def test_a_plan_of_samples_that_fill_the_memory_is_refused():
    with pytest.raises(ValueError, match="height times width must be at most"):
        StreamSpec(
            camera="sony",
            cfa="bayer",
            height=36_000,
            width=36_000,
            crop=36_000,
            samples=1,
            window=1,
            shards=None,
            seed=0,
        )


@pytest.fixture
def deep(tmp_path):
    """A directory with 900 directories in each other."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield tmp_path
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_directories_of_any_depth_are_searched_in_part(deep):
    assert len(list(walk(deep))) == DEEPEST + 1
    assert 0 < allocated_bytes(deep) < 1 << 20
    for search in (find_layout, lambda root, _: find_pairs(root, camera_named("sony"))):
        with pytest.raises(DatasetError):
            search(deep, "short-long")
    with contextlib.suppress(SpoolError):  # where the caller is deep in other functions
        assert remove(deep / "d")


def test_a_dng_of_half_a_gigapixel_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.dng"
    write_dng(path, np.full((48, 64), 600, np.uint16), DngTags())
    data = path.read_bytes()
    for tag, before, now in ((0x0100, 64, 30_720), (0x0101, 48, 17_152), (0x0103, 1, 7)):
        entries = [struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", before) for kind in (3, 4)]
        found = next(entry for entry in entries if entry in data)
        data = data.replace(found, found[:-4] + struct.pack("<I", now))
    path.write_bytes(data)

    for read in (read_header, read_raw):
        with pytest.raises(RawError, match="states 17152x30720 pixels, more than any camera has"):
            read(str(path))


def test_of_thousands_of_cursors_and_heartbeats_few_are_read(make_spool):
    spool = make_spool()
    ended = {"state": "making", "started": 1, "time": 2e9}
    for number in range(1500):
        host = {"host": f"h{number}", "pid": number}
        (spool.producers / f"h{number}-{number}.json").write_text(json.dumps(ended | host))
        cursor = Cursor(rank=number, world=1500, batch=1, shard=3)
        (spool.cursors / f"rank-{number}.json").write_text(json.dumps(cursor.to_json()))
    spool.write_heartbeat(ProducerStatus(state="making"))
    for path in spool.producers.glob("h*.json"):
        os.utime(path, (4e9, 4e9))

    beats = spool.heartbeats()

    assert len(beats) == 16
    assert ProcessId.own() in [beat.process for beat in beats]
    assert len(spool.read_cursors()) == 1024
    assert len(status_lines(spool_status(spool))) < 40


@pytest.mark.parametrize(
    ("kind", "items", "reason"),
    [
        ("plan of measured noise", "modes", "modes must have at most 1000 ISO values"),
        ("plan of sampled noise", "files", "files must be at most 20,000"),
    ],
)
def test_a_plan_of_very_many_noise_levels_or_dark_frames_is_refused(tmp_path, kind, items, reason):
    record = json.loads(json.dumps(FOREIGN[kind].record))
    options = record["recipe"]["options"]
    noise = options["measured_noise" if items == "modes" else "sampled_darks"]
    if items == "modes":
        first = noise["modes"][0][0]
        noise["modes"] = [[first | {"iso": 100.0 + n}] for n in range(1001)]
    else:
        noise["files"] *= 20_001

    with pytest.raises(PlanError, match=reason):
        FOREIGN[kind].read(tmp_path, record)


def test_a_list_of_a_record_has_a_bound():
    @dataclass(frozen=True, kw_only=True)
    class Record:
        items: tuple[int, ...]

    with pytest.raises(ValueError, match="items has more than 500,000 items"):
        decode(Record, {"items": [0] * 500_001})

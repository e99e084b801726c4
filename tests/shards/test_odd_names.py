"""A directory may have any name: nothing takes a path for a URL, a pattern, a command or markup."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from darkprep.pipeline.produce.frame_store import FrameAttributes, FrameStore
from darkprep.shards import Spool, SpoolReader, open_webdataset
from tests.support.command_line import SMALL
from tests.support.small_spools import MakeSpool, sample

NAMES = (
    *("a::b", "zip::x", "memory::x", "file:x", "pipe:touch hit", "s3:x", "http:x", "c:\\x"),
    *("a#b", "a?b", "a;b", "a&b=c", "%41", "a%2Fb", "{0..1}", "{a,b}", "[a]", "*", "a b", " "),
    *("a\nb", "a\r\nb", "a\tb", "\x1b[31m", "[red]x", "$HOME", "~", "-", "--spool", "'\"`"),
    *("é", "e\u0301", "日本", "x.json", "x.yaml", "x.tar", "\udcff"),
)  # fmt: skip
"""The last is the byte 0xff, which is not UTF-8."""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass


@pytest.fixture
def few_collectable() -> Iterator[None]:
    """Let the collector look at new objects alone: there are millions of others once torch is loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def found_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to the collector
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_webdataset_reads_a_spool_of_any_name(
    name: str, make_spool: MakeSpool, few_collectable: None
):
    shutil.move(make_spool("made", ready=range(2)).path, name)
    spool = Spool(name).open()

    for one in (spool, Spool(spool.path.absolute()).open()):
        found = {entry["__key__"]: entry for entry in open_webdataset(one)}
        gc.collect()
        assert len(found) == 8
        wanted = sample(1, 2, spool.stream)
        np.testing.assert_array_equal(found["00000001-0002"]["low.npy"], wanted.low)
        assert found["00000001-0002"]["__url__"] == str(one.shard_path(1))
        assert found["00000001-0002"]["__local_path__"] == str(one.shard_path(1))
    assert found_in(Path()) == {name}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_frames_are_stored_in_a_directory_of_any_name_and_nowhere_else(name: str):
    store = FrameStore(Path(name) / "frames")
    store.create()
    array = np.arange(4 * 2 * 2, dtype=np.uint16).reshape(4, 2, 2)

    store.put("long-1", array, FrameAttributes(kind="long", raw=f"{name}.dng"))

    assert found_in(Path()) == {name}
    assert found_in(Path(name)) == {"frames"}
    assert store.is_intact("long-1")
    stored = zarr.open_array(zarr.storage.LocalStore(store.path / "long-1"), mode="r")
    np.testing.assert_array_equal(stored[:], array)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_reader_reads_a_spool_of_any_name(name: str, make_spool: MakeSpool):
    shutil.move(make_spool("made", ready=range(6)).path, name)

    with SpoolReader(Spool(name).open(), batch_size=4) as reader:
        assert sum(len(batch.metas) for batch in reader) == 24

    assert found_in(Path()) == {name}


@pytest.mark.parametrize(
    "name",
    [
        "a#b?{0..1}%41\n\udcff",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("a#b?{0..1}%41", "a\nb", "\udcff", "a::b", "[red]x", "-", "日本")
        ),
    ],
    ids=ascii,
)
def test_the_commands_work_in_directories_of_any_name(
    name: str, call: Callable[..., Any], small_data: Path
):
    Path(name).mkdir()
    data = Path(name, "data")
    shutil.copytree(small_data, data)
    spool = Path(name, "spool").absolute()

    built = call("build", "--camera", "sony", "--root", data, "--spool", spool, *SMALL)

    assert built.exit_code == 0, built.output
    assert Spool(spool).open().ready_shards() == [0, 1, 2]
    verified = call("verify", "--spool", spool)
    assert "3 shards and 9 frames checked, 0 damaged" in verified.output
    status = call("status", "--spool", spool)
    assert status.exit_code == 0
    assert found_in(Path()) == {name}
    assert found_in(Path(name)) == {"data", "spool"}

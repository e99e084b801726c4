"""Whatever the machine does while a spool is built: the stream is the same, or one line names the machine's reason."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import darkprep.shards.machine as machine
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.pipeline.raw.source import RawFile
from darkprep.shards import DarkprepError, RawError, Spool, SpoolReader
from darkprep.shards.errors import MachineError
from tests.support.builds import InlinePool, planned, shard_bytes
from tests.support.faults import Fault, inject
from tests.support.sid_tree import write_sid
from tests.support.small_spools import MakeSpool

ERRORS = ["EIO", "ESTALE", "EMFILE", "ETIMEDOUT", "ENOMEM", "ENOSPC"]
CALLS = [
    ("planning", "open"), ("planning", "read"),
    ("fingerprint", "open"), ("fingerprint", "read"),
    ("decode", "open"), ("decode", "read"),
    ("frame store write", "open"), ("frame store write", "allocate"), ("frame store write", "write"),
    ("frame store map", "open"), ("frame store map", "read"), ("frame store map", "map"),
    ("shard write", "open"), ("shard write", "allocate"), ("shard write", "write"),
]  # fmt: skip
FOREVER = 10**9


def cases(names: list[str]) -> list[Any]:
    """Each error at each call. Not slow: EIO at each call, ENOSPC at each call that writes, each error at one call."""

    def is_quick(call: tuple[str, str], name: str) -> bool:
        is_full = name == "ENOSPC" and call[1] == "write"
        return name == "EIO" or is_full or call == ("decode", "read")

    return [
        pytest.param(*call, name, marks=[] if is_quick(call, name) else pytest.mark.slow)
        for call in CALLS
        for name in names
    ]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(machine, "RETRY_AFTER_S", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def _guard_of_readings(request: pytest.FixtureRequest) -> None:
    """Guard readings where a fault concerns a photograph: then the error comes from another process."""
    phase = (
        request.node.callspec.params.get("phase", "") if hasattr(request.node, "callspec") else ""
    )
    if phase.startswith(("frame store", "shard")):
        request.getfixturevalue("unguarded")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_sid(tmp_path_factory.mktemp("data"), scenes=2, shorts=1)


@pytest.fixture(scope="module")
def expected(root: Path, tmp_path_factory) -> list[bytes]:
    """The shards of an undisturbed build."""
    spool = plan(tmp_path_factory.mktemp("undisturbed") / "spool", root)
    build(spool)
    return shard_bytes(spool)


def plan(path: Path, root: Path) -> Spool:
    return planned(path, root, epochs=1, window=1)


def build(spool: Spool) -> Producer:
    config = ProducerConfig(budget_bytes=1 << 30, jobs=1, until=1, disk_full_timeout_s=0.0)
    producer = Producer(spool, config, InlinePool())
    producer.run()
    return producer


def concerned(phase: str, path: str) -> bool:
    """Whether a fault of this phase concerns the path."""
    if phase.startswith("frame store"):
        return "/frames/" in path and not path.endswith("frames/zarr.json")
    if phase == "shard write":
        return "/partial/" in path
    return path.endswith(".dng")


def disturbed(
    spool_path: Path, root: Path, phase: str, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> tuple[Spool, Producer]:
    """Plan and build, with the fault active in its phase alone."""
    fault.is_active = phase == "planning"
    spool = plan(spool_path, root)
    if phase == "frame store map":
        build(spool)
        spool.delete(0)
    if phase == "fingerprint":
        fingerprint = RawFile._fingerprint_once

        def failing(source: RawFile) -> str:
            fault.is_active = True
            try:
                return fingerprint(source)
            finally:
                fault.is_active = False

        monkeypatch.setattr(RawFile, "_fingerprint_once", failing)
    else:
        fault.is_active = True
    return spool, build(spool)


@pytest.mark.parametrize("phase, operation, name", cases(["EIO", "EMFILE", "ENOSPC"]))
def test_an_error_that_passes_changes_no_byte(
    tmp_path: Path, root: Path, expected: list[bytes], monkeypatch, phase: str, operation: str, name: str
):  # fmt: skip
    number = getattr(errno, name)
    fault = inject(monkeypatch, number, operation, lambda path: concerned(phase, path), times=1)

    try:
        spool, producer = disturbed(tmp_path / "spool", root, phase, monkeypatch, fault)
    except DarkprepError as error:
        assert name == "ENOSPC", "a full disk is not tried again at once"
        assert "the disk is full" in str(error)
        spool, producer = Spool(tmp_path / "spool"), build(Spool(tmp_path / "spool"))

    assert fault.count == 1
    assert not producer.skipped
    assert shard_bytes(spool) == expected


@pytest.mark.parametrize("phase, operation, name", cases(ERRORS))
def test_an_error_that_stays_ends_in_one_line_and_blames_no_file(
    tmp_path: Path, root: Path, expected: list[bytes], monkeypatch, phase: str, operation: str, name: str
):  # fmt: skip
    number = getattr(errno, name)
    fault = inject(
        monkeypatch, number, operation, lambda path: concerned(phase, path), times=FOREVER
    )

    with pytest.raises(DarkprepError) as caught:
        disturbed(tmp_path / "spool", root, phase, monkeypatch, fault)

    assert fault.count > 1 or name == "ENOSPC"
    assert not isinstance(caught.value, RawError)
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path.parent.parent) in text and "; " in text
    assert not any(word in text for word in ("damaged", "truncated", "skipped", "replace"))
    monkeypatch.undo()
    spool = plan(tmp_path / "spool", root)
    assert spool.ready_shards() == []
    assert not list(spool.producers.glob("crashing.json"))
    producer = build(spool)
    assert not producer.skipped
    assert shard_bytes(spool) == expected


@pytest.mark.parametrize("phase", ["decode", "cut", "write"])
def test_short_memory_blames_no_file(root: Path, tmp_path: Path, monkeypatch, phase: str):
    def short_of_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    targets = {
        "decode": "darkprep.pipeline.raw.source.canonical_mosaic",
        "cut": "numpy.ascontiguousarray",
        "write": "darkprep.shards.writer.encode_meta",
    }
    spool = plan(tmp_path / "spool", root)
    monkeypatch.setattr(targets[phase], short_of_memory)

    with pytest.raises(DarkprepError, match="memory is short: use fewer --jobs") as caught:
        build(spool)

    assert not isinstance(caught.value, RawError)


def test_a_data_set_that_is_unmounted_is_not_a_missing_file(root: Path, tmp_path: Path):
    data = write_sid(tmp_path / "data", scenes=2, shorts=1)
    spool = plan(tmp_path / "spool", data)
    data.rename(tmp_path / "elsewhere")

    with pytest.raises(DarkprepError, match=r"data: cannot be read now: .*; mount it") as caught:
        build(spool)

    assert not isinstance(caught.value, RawError)


@pytest.mark.parametrize("times", [1, FOREVER])
@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EMFILE"])
def test_a_reader_starts_in_spite_of_an_error_that_passes_and_reports_one_that_stays(
    make_spool: MakeSpool, monkeypatch, name: str, times: int
):
    """A reader locks the spool and publishes a cursor first; the temporary file cannot even be removed."""
    spool = make_spool(ready=range(2))
    number = getattr(errno, name)
    fault = inject(
        monkeypatch, number, "open", lambda path: "/cursors/.rank-0" in path, times=times
    )
    monkeypatch.setattr(Path, "unlink", failing_on_cursors(Path.unlink, number))

    if times == 1:
        with SpoolReader(spool, batch_size=2) as reader:
            next(reader)
    else:
        with pytest.raises(MachineError, match="cursors: cannot be written now"):
            SpoolReader(spool, batch_size=2)
        assert not spool.has_trainer()
    assert fault.count == min(times, 1 + len(machine.RETRY_AFTER_S))


def failing_on_cursors(unlink: Callable[..., None], number: int) -> Callable[..., None]:
    def failing(path: Path, *args: Any, **named: Any) -> None:
        if ".rank-0" in str(path):
            raise OSError(number, "injected", str(path))
        unlink(path, *args, **named)

    return failing

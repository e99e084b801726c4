"""No directory and no cluster that someone else wrote into plan.json is used; what this user chose is."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from darkprep.jobs.background import Supervisor
from darkprep.jobs.remote_training import use_root
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.produce.frames_directory import FramesDirectory
from darkprep.pipeline.produce.producer import Producer, ProducerConfig
from darkprep.shards import OptionError, PlanError, Spool, own_settings
from darkprep.shards.own_settings import are_own_settings, last_own_settings, record_own_settings
from darkprep.shards.plan_record import ProducerSettings
from tests.support.builds import InlinePool

ORDERS: dict[str, dict[str, Any]] = {
    "root": {"root": "/elsewhere"},
    "frames": {"frames_dir": "/elsewhere", "frames_budget_bytes": 1 << 40},
    "dask": {"backend": "dask", "address": "tcp://elsewhere:1"},
    "ray": {"backend": "ray", "address": None},
    "pairs": {"pairs": "/elsewhere/pairs.csv"},
    "budget": {"budget_bytes": 1 << 50},
    "jobs": {"jobs": 1000},
}

pytestmark = pytest.mark.usefixtures("empty_directory")


def forge(path: Path, **orders: Any) -> Spool:
    """The spool with other settings in its plan, as someone else would write them."""
    record = json.loads((path / "plan.json").read_text())
    record["place"] |= orders
    (path / "plan.json").write_text(json.dumps(record))
    return Spool(path).open()


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes this process one of another machine, without the records of before; its state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(own_settings, "_chosen", set())
    return tmp_path / "state" / "darkprep" / "settings"


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
def test_no_producer_obeys_what_someone_else_wrote(small_spool: Path, orders: dict[str, Any]):
    spool = forge(small_spool, **orders)

    with pytest.raises(PlanError, match=r"come from another user or machine.*--root DIR"):
        Supervisor(spool, jobs=1, budget_bytes=1 << 30, until=None).ensure_producer()
    with pytest.raises(PlanError):
        Producer(spool, ProducerConfig(budget_bytes=1 << 30, jobs=1, until=1), InlinePool())


def test_a_training_ends_with_one_line_that_names_the_option(
    large_spool: Path, complaint, tmp_path
):
    forge(large_spool, frames_dir=str(tmp_path / "victim"), frames_budget_bytes=1 << 40)
    Spool(large_spool).open().delete(0)

    words = ["--iterations", "1", "--batch-size", "2", "--device", "cpu", "--quiet"]
    line = complaint("stream-train", "--spool", large_spool, *words)

    assert f"frames-dir {tmp_path / 'victim'}" in line
    assert "with `stream-train --root DIR`" in line
    assert not (tmp_path / "victim").exists()


def test_a_background_producer_refuses_it_too(small_spool: Path, complaint):
    forge(small_spool, backend="dask", address="tcp://elsewhere:1")

    words = ("--jobs", "1", "--disk-budget", "1GB", "--until", "3")
    assert "backend dask tcp://elsewhere:1" in complaint("produce", "--spool", small_spool, *words)


def test_status_and_verify_do_not_look_into_a_directory_that_someone_else_named(
    small_spool: Path, call
):
    forge(small_spool, frames_dir="/", frames_budget_bytes=1 << 40)

    assert FramesDirectory.from_spool(Spool(small_spool).open()).path == small_spool / "frames"
    assert call("verify", "--spool", small_spool).exit_code == 0
    assert call("status", "--spool", small_spool).exit_code == 0


def test_own_settings_are_obeyed_in_other_terminals_and_places(small_spool: Path, monkeypatch):
    monkeypatch.setattr(own_settings, "_chosen", set())  # another process

    moved = Spool(small_spool.rename("moved")).open()
    assert are_own_settings(moved.plan)

    own_settings.record_own_settings(moved.plan)  # another test may have built the same plan since
    assert last_own_settings(moved.digest) == moved.settings


def test_reading_and_copying_a_plan_records_nothing(small_spool: Path, other_machine: Path):
    spool = forge(small_spool, root="/elsewhere")
    Plan.load(spool)
    Spool("copy").create(spool.plan)

    assert not are_own_settings(Spool("copy").open().plan)
    assert not other_machine.exists()


def test_a_spool_of_another_machine_needs_the_directory_of_photographs_once(
    small_spool: Path, small_data: Path, other_machine: Path, monkeypatch
):
    spool = forge(small_spool, **ORDERS["frames"], **ORDERS["dask"], **ORDERS["budget"])

    use_root(spool, small_data, save=True)

    assert spool.settings == ProducerSettings(root=str(small_data))
    monkeypatch.setattr(own_settings, "_chosen", set())  # the next command
    again = Spool(small_spool).open()
    assert again.settings == spool.settings
    assert are_own_settings(again.plan)
    assert list(other_machine.iterdir())


def test_the_photographs_of_an_own_spool_may_move(small_spool: Path, small_data: Path):
    spool = Spool(small_spool).open()
    Path("moved").symlink_to(small_data)

    use_root(spool, Path("moved"), save=True)

    assert Path(spool.settings.root or "") == Path("moved").absolute()
    assert replace(spool.settings, root=None, pairs=None).jobs == 1


def test_a_read_only_training_writes_no_settings(small_spool: Path, small_data: Path):
    spool = forge(small_spool, root="/elsewhere")
    before = spool.plan_file.read_bytes()

    use_root(spool, small_data, save=False)

    assert are_own_settings(spool.plan)
    assert spool.plan_file.read_bytes() == before


def test_a_directory_without_the_photographs_is_refused(small_spool: Path):
    with pytest.raises(OptionError, match="root elsewhere: does not have the photographs"):
        use_root(Spool(small_spool).open(), Path("elsewhere"), save=True)


def test_without_a_writable_state_directory_another_is_used(
    small_spool: Path, other_machine: Path, tmp_path: Path, monkeypatch
):
    (tmp_path / "state").write_text("not a directory")
    plan = Spool(small_spool).open().plan
    record_own_settings(plan)
    monkeypatch.setattr(own_settings, "_chosen", set())

    assert are_own_settings(plan)
    assert (tmp_path / f"darkprep-{os.geteuid()}").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_state_directory_that_others_may_write_is_not_believed(
    small_spool: Path, other_machine: Path, tmp_path: Path, monkeypatch, mode: int
):
    plan = Spool(small_spool).open().plan
    record_own_settings(plan)
    monkeypatch.setattr(own_settings, "_chosen", set())
    assert are_own_settings(plan)

    other_machine.chmod(mode)

    assert not are_own_settings(plan)


def test_where_nothing_is_writable_the_command_itself_obeys_its_options(
    small_spool: Path, other_machine: Path, tmp_path: Path
):
    (tmp_path / "state").write_text("")
    (tmp_path / f"darkprep-{os.geteuid()}").write_text("")
    plan = Spool(small_spool).open().plan

    record_own_settings(plan)

    assert are_own_settings(plan)

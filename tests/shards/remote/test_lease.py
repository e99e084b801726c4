"""Leases in a store: a living holder keeps its lease, a dead one loses it, and no clock of another host matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from darkprep.shards import SpoolBusy, SpoolError
from darkprep.shards.process import start_ticks
from darkprep.shards.remote.lease import Holder, Lease, Watch, this_machine
from darkprep.shards.remote.object_store import Check
from tests.support.fake_store import FakeStore
from tests.support.processes import wait_until
from tests.support.s3_server import PATIENT_S
from tests.support.weather import Seen

NAME = "producers/lease.json"


def lease(store: Any, **changes: Any) -> Lease:
    return Lease(store, NAME, "a producer", **{"renewal_s": 0.05, **changes})


def record(**changes: Any) -> dict[str, Any]:
    """What a holder on another machine would write."""
    base = {"token": "theirs", "beat": 1, "machine": "another", "host": "far", "pid": 7}
    return {**base, "started": 1, "report": {}, **changes}


def put(store: FakeStore, **changes: Any) -> None:
    store.objects[NAME] = json.dumps(record(**changes)).encode()


@pytest.fixture
def far_holder(fake: FakeStore) -> Iterator[None]:
    """A holder on another machine that lives."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(0.05):
            count += 1
            put(fake, beat=count)

    put(fake)
    thread = threading.Thread(target=beat)
    thread.start()
    yield
    done.set()
    thread.join()


def test_a_lease_is_acquired_renewed_and_released(fake):
    with lease(fake) as held:
        held.report({"state": "making"})
        first = json.loads(fake.objects[NAME])["beat"]
        wait_until(lambda: json.loads(fake.objects[NAME])["beat"] >= first + 2)
        assert json.loads(fake.objects[NAME])["report"] == {"state": "making"}
        held.check()

    assert Watch(fake, NAME).look() is None


def test_a_released_lease_is_free_at_once(fake):
    with lease(fake):
        pass
    began = time.monotonic()

    with lease(fake), pytest.raises(SpoolBusy):
        lease(fake).acquire()

    assert time.monotonic() - began < 5


def test_the_object_holds_no_time(fake):
    """So there is nothing that hosts whose clocks differ could disagree about."""
    with lease(fake):
        names = json.loads(fake.objects[NAME]).keys()

    assert names == {"token", "beat", "machine", "host", "pid", "started", "report"}


@pytest.mark.usefixtures("far_holder")
def test_a_holder_that_lives_keeps_its_role_and_is_named(fake):
    began = time.monotonic()

    with pytest.raises(SpoolBusy, match=r"a producer is already running \(pid 7 on far\)"):
        lease(fake).acquire()

    assert time.monotonic() - began < 5
    assert json.loads(fake.objects[NAME])["token"] == "theirs"


def test_a_holder_that_fell_silent_loses_its_role_after_a_while(fake, caplog):
    put(fake)
    began = time.monotonic()

    with lease(fake, expiry_s=2) as held:
        assert time.monotonic() - began >= 2
        held.check()
        assert json.loads(fake.objects[NAME])["machine"] == this_machine()

    assert "to see whether a producer (pid 7 on far) is still running" in caplog.text


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(fake):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    put(fake, machine=this_machine(), pid=ended.pid, started=1)
    began = time.monotonic()

    with lease(fake, expiry_s=60):
        assert time.monotonic() - began < 5


def test_process_numbers_of_another_boot_or_container_say_nothing(fake):
    dead = Holder.of(json.dumps(record(pid=2**22 + 1, machine="another")).encode())

    assert dead is not None
    assert not dead.is_known_dead()


def test_only_the_own_clock_tells_how_long_nothing_changed(fake):
    now = [1000.0]
    watch = Watch(fake, NAME, clock=lambda: now[0])
    put(fake)

    assert watch.is_alive(watch.look(), 60) is None, "seen once, it may be dead or alive"
    now[0] += 59
    assert watch.is_alive(watch.look(), 60) is None
    now[0] += 2
    assert watch.is_alive(watch.look(), 60) is False
    put(fake, beat=2)
    assert watch.is_alive(watch.look(), 60) is True
    now[0] += 61
    assert watch.is_alive(watch.look(), 60) is False
    del fake.objects[NAME]
    assert watch.is_alive(watch.look(), 60) is False


def test_a_holder_whose_object_was_overwritten_stops_and_names_the_other(fake):
    first = lease(fake)
    first.acquire()
    put(fake, token="second")

    def stopped() -> bool:
        try:
            first.check()
        except SpoolBusy as error:
            return "pid 7 on far" in str(error)
        return False

    wait_until(stopped)
    first.release()
    assert json.loads(fake.objects[NAME])["token"] == "second", "the other's name stays"


def test_a_forked_child_of_the_holder_does_not_release_the_lease(fake, monkeypatch):
    with lease(fake) as held:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            held.release()
        held.check()
        assert Watch(fake, NAME).look() is not None

    assert Watch(fake, NAME).look() is None


def test_a_holder_without_an_answer_stops_ten_seconds_before_its_role_is_free(fake):
    now = [0.0]

    with Lease(fake, NAME, "a producer", clock=lambda: now[0]) as held:
        now[0] = 50
        held.check()
        now[0] = 51
        with pytest.raises(SpoolError, match="did not answer for 51 s"):
            held.check()


class Hanging(FakeStore):
    """A store in which the writes of one holder hang until `go_on`, and then arrive all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.hangs, self.go_on, self.landed = (threading.Event() for _ in range(3))
        self.accepted: Any = "not yet"

    def write_if(self, name: str, data: bytes, version: Any, *, check: Check | None = None) -> Any:
        if json.loads(data).get("token") != self.token:
            return super().write_if(name, data, version, check=check)
        self.hangs.set()
        assert self.go_on.wait(PATIENT_S)
        self.accepted = super().write_if(name, data, version)
        self.landed.set()
        return self.accepted


def test_a_holder_whose_write_hangs_stops_before_another_takes_over_and_deposes_nobody():
    store = Hanging()
    first, second = lease(store, expiry_s=1), lease(store, expiry_s=3)
    first.acquire()
    store.token = first._token
    assert store.hangs.wait(PATIENT_S)

    with pytest.raises(
        SpoolError, match=r"did not answer for 1 s, .* another process may now be a producer"
    ):
        wait_until(lambda: first.check(), 10)
    second.acquire()
    store.go_on.set()
    assert store.landed.wait(PATIENT_S)
    assert store.accepted is None, "the store refuses what arrives late"
    assert json.loads(store.objects[NAME])["token"] == second._token
    first.release()

    second.check()
    with pytest.raises(SpoolError, match="another process may now be a producer"):
        first.check()
    assert json.loads(store.objects[NAME])["token"] == second._token
    second.release()


def test_a_write_that_took_too_long_ends_the_lease(fake):
    now = [0.0]
    held = lease(fake, clock=lambda: now[0])
    held.acquire()
    write = fake.write

    def slow(name: str, data: bytes, **how: Any) -> None:
        write(name, data, **how)
        now[0] += 61

    fake.write = slow
    wait_until(lambda: now[0] > 60)
    wait_until(lambda: held._failure is not None)

    with pytest.raises(SpoolError, match="did not answer for 61 s"):
        held.check()
    held.release()
    assert json.loads(fake.objects[NAME])["beat"], "no longer its own to release"


def test_a_holder_is_told_when_the_store_fails(fake):
    held = lease(fake)
    held.acquire()

    def fail(*_: object, **__: object) -> bytes:
        raise SpoolError("memory://: does not answer")

    fake.write_if = fail

    def told() -> bool:
        try:
            held.check()
        except SpoolError as error:
            return "does not answer" in str(error)
        return False

    wait_until(told)
    held.release()


class Unconditional(FakeStore):
    """A store that ignores the conditions of writes: all, of creations, or of updates."""

    def __init__(self, ignored: str) -> None:
        super().__init__()
        self._ignored = ignored

    def write_if(self, name: str, data: bytes, version: Any, *, check: Check | None = None) -> Any:
        if self._ignored in ("all", "update" if version else "create"):
            found = self.read(name, 1 << 20)
            version = found.version if found else None
        return super().write_if(name, data, version, check=check)


@pytest.mark.parametrize("ignored", ["all", "create", "update"])
def test_a_store_without_conditional_writes_is_refused_in_one_line(ignored):
    store = Unconditional(ignored)

    with pytest.raises(SpoolError, match=r"has no conditional writes .* use S3, ") as caught:
        lease(store).acquire()

    assert "\n" not in str(caught.value)
    assert NAME not in store.objects


def test_waiting_for_a_holder_ends_when_it_is_asked_to(fake):
    put(fake)
    fake.stop.set()
    began = time.monotonic()

    with pytest.raises(SpoolBusy, match="pid 7 on far"):
        lease(fake).acquire()

    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "garbage", [b"{", b"[]", b'{"beat": "x"}', b"null", b"[" * 10_000, b'{"beat": true}', b"\xff"]
)
def test_an_object_that_makes_no_sense_is_nobodys(fake, garbage):
    fake.objects[NAME] = garbage

    with lease(fake) as held:
        held.check()
        assert json.loads(fake.objects[NAME])["pid"]


def test_the_holder_is_found_again_by_process_number_and_start(fake):
    with lease(fake):
        holder = Watch(fake, NAME).look()

    assert holder is not None
    assert holder.process is not None
    assert holder.process.started == start_ticks(holder.process.pid)
    assert holder.is_on_this_machine
    assert not holder.is_known_dead()


def test_a_role_on_a_real_store_is_kept_from_a_second_one(store):
    with (
        lease(store, renewal_s=0.2, expiry_s=60),
        pytest.raises(SpoolBusy, match="already running"),
    ):
        lease(store, expiry_s=60).acquire()
    with lease(store):
        pass


def test_refusals_that_pass_cost_nobody_a_role(store, weather):
    def is_lease(seen: Seen) -> bool:
        return seen.method in ("GET", "PUT") and "lease" in seen.key

    with lease(store) as held:
        for _ in range(3):
            began = weather.count(is_lease)
            weather.refuse(is_lease, 4)
            wait_until(lambda: weather.count(is_lease) >= began + 6)  # noqa: B023 # used at once
            held.check()

    assert Watch(store, NAME).look() is None

"""Leases: for each bucket one process at a time may produce, and one trainer group at a time may train.

A lease is an object that its holder changes every few seconds. Each change is a compare-and-swap: the store
refuses it if another process has changed the object since. A process that wants the lease watches the
object by its own clock: while the object changes, the holder is alive; after a minute without a change, the
lease is free. The clocks of two hosts are never compared. The trade-off: after a crash on another host the
lease is free only a minute later, and a holder that cannot reach the store must stop ten seconds earlier
than that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkprep.shards.errors import SpoolBusy, SpoolError
from darkprep.shards.process import ProcessId
from darkprep.shards.remote.failures import message
from darkprep.shards.remote.object_store import ObjectStore

if TYPE_CHECKING:
    from obstore import UpdateVersion

log = logging.getLogger(__name__)

RENEWAL_S = 5.0
"""Seconds between two changes of the object by its holder."""
EXPIRY_S = 60.0
"""Seconds without a change after which a lease is free."""

_RECORD_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a lease, as recorded in its object."""

    process: ProcessId | None
    machine: str
    report: dict[str, Any] = field(default_factory=dict)
    """What the holder does, for display."""

    @classmethod
    def of(cls, data: bytes) -> Holder | None:
        """Return the holder recorded in an object; None for a lease that was released or is damaged."""
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or type(record.get("beat")) is not int:
            return None
        report = record.get("report")
        return cls(
            process=ProcessId.from_json(record),
            machine=str(record.get("machine", "")),
            report=report if isinstance(report, dict) else {},
        )

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the holder's pid is valid here: same kernel, same boot, same pid namespace."""
        own = _boot_and_namespace()
        return bool(own) and self.machine in (
            this_machine(),
            own,
        )  # `own`: as first versions wrote it

    def is_known_dead(self) -> bool:
        """Whether the holder's process has ended; always False for other machines, where this cannot be checked."""
        return self.is_on_this_machine and not (self.process and self.process.is_alive())

    def __str__(self) -> str:
        return str(self.process or "unknown process")


class Watch:
    """Reads the object of a lease from time to time, and measures for how long it has not changed."""

    def __init__(
        self, store: ObjectStore, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._clock = store, name, clock
        self.version: UpdateVersion | None = None
        """The version of the object at the last look; None if there was no object."""
        self._since = clock()
        self._changed = False

    def look(self) -> Holder | None:
        """Read the object; return the holder of the lease, or None if the lease is free."""
        found = self._store.read(self._name, _RECORD_BYTES)
        version = found.version if found else None
        if version != self.version:
            self._changed = self.version is not None and version is not None
            self.version, self._since = version, self._clock()
        return Holder.of(found.data) if found else None

    def unchanged_s(self) -> float:
        """Return for how many seconds, by this host's clock, the object has not changed."""
        return self._clock() - self._since

    def is_alive(self, holder: Holder | None, expiry_s: float = EXPIRY_S) -> bool | None:
        """Whether `holder`, as returned by the last `look`, is alive; None while this is not yet known."""
        if holder is None or holder.is_known_dead() or self.unchanged_s() >= expiry_s:
            return False
        return True if self._changed else None


class Lease:
    """The lease with the object `name`, held for a `with` block or until `release`.

    Entering the block raises SpoolBusy, which names the holder, when another process holds the lease, and
    SpoolError when the store fails or has no conditional writes. Later failures are raised by `check`; the
    holder passes `check` to every operation that changes the store.

    `role` names the holder in messages ("a producer"). `clock` returns seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        role: str,
        *,
        renewal_s: float = RENEWAL_S,
        expiry_s: float = EXPIRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._name, self._role = store, name, role
        self._renewal_s, self._expiry_s, self._clock = renewal_s, expiry_s, clock
        self._valid_s = expiry_s - 2 * renewal_s
        """Validity after a change: shorter than what others wait, for requests that are under way at its end."""
        self._renewed = clock()
        """Time at which the last successful change was sent; no other process can have seen the change earlier."""
        self._token, self._beat = uuid.uuid4().hex, 0
        self._version: UpdateVersion | None = None
        self._report: dict[str, Any] = {}
        self._failure: SpoolError | None = None
        self._released = threading.Event()
        self._pid = 0
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Acquire the lease, after watching a holder that may be dead. Raises SpoolBusy and SpoolError."""
        watch = Watch(self._store, self._name, clock=self._clock)
        self._wait_for_end_of_holder(watch)
        self._version = watch.version
        self._renew(check=None)
        self._require_conditional_writes()
        self._released.clear()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def report(self, report: dict[str, Any]) -> None:
        """Set the status of the holder's work that the next change publishes."""
        self._report = report

    def check(self) -> None:
        """Raise SpoolBusy when another process has taken the lease, SpoolError when the store has failed.

        SpoolError is also raised when the lease was not renewed for so long that another process may soon
        take it.
        """
        unchanged_s = self._clock() - self._renewed
        if not self._failure and unchanged_s > self._valid_s:
            self._failure = SpoolError(
                f"{self._store}: the store did not answer for {unchanged_s:.0f} s, or this process was suspended, so another process may now be "
                f"{self._role}; check that the store can be reached (endpoint, network), and start again"
            )
        if self._failure:
            raise self._failure

    def release(self) -> None:
        """Release the lease; do nothing if it is not held, as in a forked child of the holder."""
        if self._thread is None or self._pid != os.getpid():
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        record = json.dumps({"token": self._token, "released": True}).encode()
        try:
            self._store.write_if(self._name, record, self._version, check=self.check)
        except SpoolError as error:
            if error is not self._failure:
                log.warning("%s; so the lease could not be released, and another process can start as %s only after %.0f s", error, self._role, self._expiry_s)  # fmt: skip

    def _wait_for_end_of_holder(self, watch: Watch) -> None:
        """Wait until the lease is free; raise SpoolBusy if its holder is alive."""
        warned = False
        while (alive := watch.is_alive(holder := watch.look(), self._expiry_s)) is not False:
            if alive:
                raise self._busy(holder)
            if not warned:
                warned = True
                log.warning(
                    "%s: waiting for up to %.0f s to see whether %s (%s) is still running",
                    *(self._store, self._expiry_s, self._role, holder),
                )
            if self._store.stop.wait(min(1.0, self._renewal_s / 2)):
                raise self._busy(holder)

    def _require_conditional_writes(self) -> None:
        """Raise SpoolError if the store accepts a write whose condition is not met."""
        stale = self._version
        self._renew(check=None)
        for version in (None, stale):
            if self._store.write_if(self._name, b"{}", version):
                self._store.delete(self._name)
                raise SpoolError(
                    message(str(self._store), "unsupported", "it ignores the conditions of writes")
                )

    def _keep(self) -> None:
        began = self._clock()
        # After a change that took long the next follows at once: its validity counts from when it was sent.
        while not self._released.wait(max(0.0, self._renewal_s - (self._clock() - began))):
            began = self._clock()
            try:
                self._renew(check=self.check)
                self.check()
            except SpoolError as error:
                self._failure = self._failure or error
                return

    def _renew(self, *, check: Callable[[], None] | None) -> None:
        """Change the object to renew the lease; raise SpoolBusy if another process has changed it."""
        sent = self._clock()
        self._beat += 1
        version = self._store.write_if(self._name, self._record(), self._version, check=check)
        if version is None:
            found = self._store.read(self._name, _RECORD_BYTES)
            raise self._busy(Holder.of(found.data) if found else None)
        self._version, self._renewed = version, sent

    def _busy(self, holder: Holder | None) -> SpoolBusy:
        return SpoolBusy(
            f"{self._store}: {self._role} is already running ({holder or 'unknown process'}); stop it or use another spool"
        )

    def _record(self) -> bytes:
        record = {
            "token": self._token,
            "beat": self._beat,
            "machine": this_machine(),
            **asdict(ProcessId.own()),
            "report": self._report,
        }
        return json.dumps(record, allow_nan=False).encode()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def this_machine() -> str:
    """Return a hash of boot and pid namespace, within which a pid is unique; empty if unknown.

    It is published in the lease, so the identity of the boot itself is not in it.
    """
    own = _boot_and_namespace()
    return hashlib.sha256(own.encode()).hexdigest()[:32] if own else ""


def _boot_and_namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""

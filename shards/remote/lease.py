"""Roles in a store, where no lock dies with its holder: an object that its holder keeps changing.

Whoever wants a role watches the object by a clock of its own: while its count goes on, the holder lives;
when it has stood still for long enough, the holder is gone. No time of one host is ever compared with
another's. The trade-off: after a crash on another host the role is free only a minute later. A holder
whose changes do not get through stops before that minute is over, even if it was only the store that hung.
What it had begun by then may still land: its claim gives way to the newer one, its shards are the same bytes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from darkprep.shards.errors import SpoolBusy, SpoolError
from darkprep.shards.process import ProcessId
from darkprep.shards.remote.object_store import ObjectStore

log = logging.getLogger(__name__)

EVERY_S = 5.0
"""Time between two changes by a living holder."""
SILENT_S = 60.0
"""A holder whose object stood still for so long is gone: dead, or stopped by its own clock (Lease.check)."""

_RECORD_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease's object says."""

    token: str
    """Drawn anew by each holder."""
    beat: int
    """Counts the changes."""
    term: int
    """Counts the holders that each took over from the one before: of two claims the higher one is newer."""
    process: ProcessId | None
    machine: str
    report: dict[str, Any] = field(default_factory=dict)
    """What the holder does, for people."""

    @classmethod
    def of(cls, data: bytes | None) -> Holder | None:
        """The holder that an object names; None where there is no object or it makes no sense."""
        try:
            record = json.loads(data or b"null")
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or type(record.get("beat")) is not int:
            return None
        report, term = record.get("report"), record.get("term")
        return cls(
            token=str(record.get("token", "")),
            beat=record["beat"],
            term=term if type(term) is int else 0,
            process=ProcessId.from_json(record),
            machine=str(record.get("machine", "")),
            report=report if isinstance(report, dict) else {},
        )

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its process number means something here: same kernel, since the same boot, same pid namespace."""
        return bool(self.machine) and self.machine == this_machine()

    def is_known_dead(self) -> bool:
        """Whether this machine knows that the holder has ended; of others only time can tell."""
        return self.is_of_this_machine and not (self.process and self.process.is_alive())

    def __str__(self) -> str:
        return str(self.process or "a process that has not told its name")


class Watch:
    """Looks at a lease's object now and then, and judges by this host's clock whether its holder lives."""

    def __init__(
        self, store: ObjectStore, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._name, self._clock = store, name, clock
        self._seen: tuple[str, int] | None = None
        self._since = clock()
        self._changed = False

    def look(self) -> Holder | None:
        """Who holds the lease by its object, None for nobody."""
        holder = Holder.of(self._store.read(self._name, _RECORD_BYTES))
        seen = (holder.token, holder.beat) if holder else None
        if seen != self._seen:
            self._changed = self._seen is not None and seen is not None
            self._seen, self._since = seen, self._clock()
        return holder

    def silent_s(self) -> float:
        """For how long nothing has changed between the looks, by this host's clock."""
        return self._clock() - self._since

    def lives(self, holder: Holder | None, silent_s: float = SILENT_S) -> bool | None:
        """Whether `holder`, just looked at, lives; None while that cannot be known yet."""
        if holder is None or holder.is_known_dead():
            return False
        if self.silent_s() >= silent_s:
            return False
        return True if self._changed else None


class Lease:
    """A role in a store, for the time of a `with` block or until `drop`. `name` is its object, `role` for people.

    Raises SpoolBusy on entry when a living process holds it, naming that process, and SpoolError when the
    store does not do its part. What goes wrong later is raised by `check`, which whoever works in the role
    hands on with all that it changes in the store.
    """

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        role: str,
        *,
        every_s: float = EVERY_S,
        silent_s: float = SILENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._name, self._role = store, name, role
        self._every_s, self._silent_s, self._clock = every_s, silent_s, clock
        self._held_s = silent_s - 2 * every_s
        """For so long a change of the object keeps the role ours; others wait longer, for what we had begun."""
        self._confirmed = clock()
        """When the newest change that got through in time was begun: no watcher has seen it earlier."""
        self._token = uuid.uuid4().hex
        self._beat = self._term = 0
        self._report: dict[str, Any] = {}
        self._trouble: SpoolError | None = None
        self._dropped = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the role, or raise as the class says; a holder that may be dead is watched first."""
        watch = Watch(self._store, self._name, clock=self._clock)
        holder = watch.look()
        self._begin(after=self._outwait(watch, holder) if holder else None)
        self._dropped.clear()
        self._thread = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._thread.start()

    def tell(self, report: dict[str, Any]) -> None:
        """What the next change of the object shall say of the holder's work."""
        self._report = report

    def check(self) -> None:
        """Raises SpoolBusy when somebody else holds the role by now, SpoolError when the store failed.

        That is also so when it has not answered for so long that somebody else may soon take the role.
        """
        self._trouble = self._trouble or self._lapse()
        if self._trouble:
            raise self._trouble

    def drop(self) -> None:
        """Give the role back; nothing happens when it is not held."""
        if self._thread is None:
            return
        self._dropped.set()
        self._thread.join()
        self._thread = None
        if self._lapse():
            return  # it may be another's by now
        try:
            holder = self._read()
            if holder and holder.token == self._token:
                self._store.delete(self._name, check=self._check_time)
        except SpoolError as error:
            log.warning("%s; the role of %s is free only after %.0f s", error, self._role, self._silent_s)  # fmt: skip

    def _outwait(self, watch: Watch, holder: Holder) -> Holder:
        """The last holder, once it is gone; raises SpoolBusy when it lives."""
        told = False
        while True:
            alive = watch.lives(holder, self._silent_s)
            if alive:
                raise self._busy(holder)
            if alive is False:
                return holder
            if not told:
                told = True
                log.warning(
                    "%s: waiting for up to %.0f s to see whether %s (%s) still runs",
                    *(self._store, self._silent_s, self._role, holder),
                )
            time.sleep(min(1.0, self._every_s / 2))
            newest = watch.look()
            if newest is None:
                return holder
            holder = newest

    def _begin(self, *, after: Holder | None) -> None:
        """Put our name into the object, and see that nobody was faster; raises SpoolBusy."""
        self._term = after.term + 1 if after else 0
        self._confirmed = self._clock()
        if after is None:
            if self._store.create(self._name, self._record()):
                return
            holder = self._read()
            if holder:
                raise self._busy(holder)
        self._store.write(self._name, self._record())
        # Another may have outwaited the same one.
        time.sleep(min(1.0, self._every_s / 2))
        holder = self._read()
        if holder is None or self._yields_to(holder):
            raise self._busy(holder)

    def _go_on(self) -> None:
        began = self._clock()
        # A change that took long is followed at once by the next: its time counts from its beginning.
        while not self._dropped.wait(max(0.0, self._every_s - (self._clock() - began))):
            began = self._clock()
            try:
                self._renew()
            except SpoolError as error:
                self._trouble = self._trouble or error
                return

    def _renew(self) -> None:
        """Change the object; raises SpoolBusy when it is another's, SpoolError when that was not done in time."""
        holder = self._read()
        if self._yields_to(holder):
            raise self._busy(holder)
        began = self._clock()
        self._beat += 1
        self._store.write(self._name, self._record(), check=self._check_time)
        self._check_time()  # one that came late may lie over a successor's
        self._confirmed = began

    def _yields_to(self, holder: Holder | None) -> bool:
        """Whether another's claim is in the object that is not older than ours; an older one landed late."""
        return holder is not None and holder.token != self._token and holder.term >= self._term

    def _lapse(self) -> SpoolError | None:
        """What to raise when our last change is so old that others may soon take us for dead."""
        silent_s = self._clock() - self._confirmed
        if silent_s <= self._held_s:
            return None
        return SpoolError(
            f"{self._store}: the store did not answer for {silent_s:.0f} s, or this process stood still, so another may be "
            f"{self._role} now; see whether the store can be reached (AWS_ENDPOINT_URL, network), and start again"
        )

    def _check_time(self) -> None:
        """Raises SpoolError when the role is no longer surely ours."""
        if lapse := self._lapse():
            raise lapse

    def _read(self) -> Holder | None:
        return Holder.of(self._store.read(self._name, _RECORD_BYTES))

    def _busy(self, holder: Holder | None) -> SpoolBusy:
        return SpoolBusy(
            f"{self._store}: {self._role} is already running ({holder or 'it has not told its name'}); stop it or use another spool"
        )

    def _record(self) -> bytes:
        record = {
            "token": self._token,
            "beat": self._beat,
            "term": self._term,
            "machine": this_machine(),
            **asdict(ProcessId.own()),
            "report": self._report,
        }
        return json.dumps(record, allow_nan=False).encode()

    def __enter__(self) -> Lease:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()


def this_machine() -> str:
    """Kernel, boot and pid namespace: where process numbers mean the same; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""

"""Find files that crash the decoder: some damaged files make LibRaw, which is C++, crash or run without end.

A worker records which file it is decoding and deletes the record afterwards, so that records of workers
that died remain. Most workers die for other reasons (memory, a signal). Therefore a file is tested, alone
in a separate process, only after two workers died while they decoded it. The trade-off: all
workers are replaced twice before an unusable file is found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkprep.pipeline.pairs.sources import open_source
from darkprep.pipeline.pairs.table import Skipped
from darkprep.pipeline.raw.guard import CRASHES_DECODER, DECODE_S, guarded
from darkprep.shards import DiskFull, RawError, Spool
from darkprep.shards.errors import MachineError
from darkprep.shards.files import read_json, remove, write_json
from darkprep.shards.machine import machine_errors
from darkprep.shards.process import ProcessId, is_descendant, signal_process

log = logging.getLogger(__name__)

_DEATHS_BEFORE_TEST = 2
"""Number of workers that must die while they decode a file before the file is tested."""
_MAX_PAUSE_S = 10.0
"""The most that the time between two looks at the workers counts."""


@dataclass(frozen=True, kw_only=True)
class DecodingRecord:
    """The file that a thread of a worker is decoding: `producers/decoding-PID.json` of the spool, or `decoding-PID-THREAD.json`."""

    path: str
    fingerprint: str
    """Of the file's content (pipeline/plan/plan.py)."""
    worker: ProcessId | None
    """None if the record does not state it."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        process = asdict(self.worker) if self.worker else {}
        return {"path": self.path, "print": self.fingerprint} | process

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> DecodingRecord | None:
        """Create a record from a JSON object; return None when it is damaged or names no file."""
        if record is None:
            return None
        path, fingerprint = record.get("path"), record.get("print")
        if not (isinstance(path, str) and path and isinstance(fingerprint, str) and fingerprint):
            return None
        return cls(path=path, fingerprint=fingerprint, worker=ProcessId.from_json(record))


@dataclass(frozen=True, kw_only=True)
class QuarantinedFiles:
    """Files that are never decoded again: `producers/crashing.json` of the spool."""

    fingerprints: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return the list as a JSON object."""
        return {"prints": sorted(self.fingerprints)}

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> QuarantinedFiles:
        """Create the list from a JSON object; entries that are not fingerprints are left out."""
        prints = (record or {}).get("prints")
        known = prints if isinstance(prints, list) else []
        return cls(fingerprints=frozenset(one for one in known if isinstance(one, str)))


@contextlib.contextmanager
def decoding_record(spool: Spool, path: Path, fingerprint: str) -> Iterator[None]:
    """Record during a `with` block that this thread is decoding the file. Raises DiskFull."""
    file = spool.producers / f"decoding-{_thread_name()}.json"
    record = DecodingRecord(path=str(path), fingerprint=fingerprint, worker=ProcessId.own())
    with machine_errors(str(file), "written"):
        write_json(file, record.to_json(), sync=False)
    try:
        yield
    finally:
        remove(file)


def _thread_name() -> str:
    """Return the pid, and in a thread other than the main one also its number."""
    if threading.current_thread() is threading.main_thread():
        return str(os.getpid())
    return f"{os.getpid()}-{threading.get_native_id()}"


class FileQuarantine:
    """Finds the files that crash the decoder. Only for the process that holds the spool's producer lock."""

    def __init__(
        self, spool: Spool, crash_test: Callable[[Path], bool], decode_timeout_s: float
    ) -> None:
        self._spool = spool
        self._crash_test = crash_test
        self._decode_timeout_s = decode_timeout_s
        self._deaths: Counter[tuple[str, str]] = Counter()
        """How many workers died while they decoded each file, given by path and fingerprint."""
        self._file = spool.producers / "crashing.json"
        self._watched_s: dict[tuple[str, int, int], float] = {}
        """Seconds for which each decoding record has been watched, by its name, inode and modification time."""
        self._looked = time.monotonic()
        self.decoding_at_death: tuple[str, ...] = ()
        """Files that were being decoded at the last death."""
        self.fingerprints: frozenset[str] = frozenset()
        """Fingerprints of the quarantined files."""

    def load(self) -> None:
        """Read the list of earlier producers, and delete the decoding records of their workers."""
        self.delete_decoding_records()
        self.fingerprints = QuarantinedFiles.from_json(read_json(self._file)).fingerprints

    def handle_worker_death(self) -> Skipped | None:
        """Test suspected files after workers died; return the file that is now quarantined, if any."""
        files = self._take_decoding_records()
        self.decoding_at_death = tuple(path for path, _ in files)
        self._deaths.update(files)
        for path, fingerprint in files:
            if self._deaths[path, fingerprint] >= _DEATHS_BEFORE_TEST and self._crashes(
                path, fingerprint
            ):
                return Skipped(path, CRASHES_DECODER)  # the other files were decoded beside it
        return None

    def kill_stuck_workers(self) -> None:
        """Kill this producer's workers that have been decoding a file for longer than the timeout, and suspect the file.

        The time is measured by this process from when it first sees a record, because the clock of a file
        server may be wrong. Time in which this process was suspended hardly counts, because its workers may
        have been suspended too.
        """
        now, files = time.monotonic(), list(self._record_files())
        elapsed, self._looked = min(now - self._looked, _MAX_PAUSE_S), now
        watched, self._watched_s = self._watched_s, {}
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                record_id = (file.name, status.st_ino, status.st_mtime_ns)
                seconds = watched[record_id] + elapsed if record_id in watched else 0.0
                self._watched_s[record_id] = seconds
                if seconds > self._decode_timeout_s:
                    self._kill_stuck_worker(DecodingRecord.from_json(read_json(file)))

    def _kill_stuck_worker(self, record: DecodingRecord | None) -> None:
        worker = record.worker if record else None
        if record is None or worker is None:
            return

        def is_own() -> bool:
            return worker.is_alive() and is_descendant(worker.pid)

        if is_own():
            self._deaths[record.path, record.fingerprint] = _DEATHS_BEFORE_TEST
            with contextlib.suppress(PermissionError):
                if signal_process(worker.pid, signal.SIGKILL, is_meant=is_own):
                    log.warning(
                        "%s: decoding takes more than %.0f s; the worker that decodes it is killed",
                        record.path,
                        self._decode_timeout_s,
                    )

    def delete_decoding_records(self) -> None:
        """Delete the decoding records of workers that were killed for other reasons."""
        self._take_decoding_records()

    def _record_files(self) -> Iterator[Path]:
        return self._spool.producers.glob("decoding-*.json")

    def _take_decoding_records(self) -> list[tuple[str, str]]:
        """Read and delete the records of dead workers; return path and fingerprint of each."""
        found = []
        for file in self._record_files():
            record = DecodingRecord.from_json(read_json(file))
            remove(file)
            if record:
                found.append((record.path, record.fingerprint))
        return found

    def _crashes(self, path: str, fingerprint: str) -> bool:
        """Run the crash test on a file, and quarantine the file if it crashes."""
        del self._deaths[path, fingerprint]
        if not Path(path).is_file() or not self._crash_test(Path(path)):
            return False
        log.warning("%s: crashes the decoder; its pairs are replaced by others", path)
        self.fingerprints |= {fingerprint}
        try:
            write_json(self._file, QuarantinedFiles(fingerprints=self.fingerprints).to_json())
        except DiskFull as error:
            log.warning(
                "the list of quarantined files could not be saved, so the next producer tests those files again: %s",
                error,
            )
        return True


def crashes_decoder(
    path: Path, stop: threading.Event | None = None, *, timeout_s: float = DECODE_S
) -> bool:
    """Return whether decoding and developing a file crashes or does not end, by trying it in a separate process.

    It may take `timeout_s` of computing. A failure of the machine says nothing about the file, so the result is
    then False. Setting `stop` in another thread ends the test with the result False.
    """
    try:
        guarded(_develop_quietly, path, seconds=timeout_s, stop=stop)
    except RawError:
        return True
    except MachineError:
        return False
    return False


def _develop_quietly(path: Path) -> None:
    with contextlib.suppress(Exception):  # only a crash counts
        open_source(path).develop()

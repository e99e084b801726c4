"""Files that kill their decoder: LibRaw is C++ and some damaged files crash it, or make it run for ever.

A worker says which file it decodes; what it said stays behind only when it dies of it. Most deaths have
other causes (no memory, a signal), so a file is tried again, alone, only when it was being decoded at
two deaths. The trade-off: a bad file costs two sets of workers before it is named.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from darkprep.pipeline.pairs.table import Skipped
from darkprep.shards import DiskFull, Spool
from darkprep.shards.files import read_json, write_json
from darkprep.shards.process import ProcessId

log = logging.getLogger(__name__)

_SUSPICIOUS = 2
"""Deaths at which a file must have been decoded before it is tried."""
WHY = "crashes the decoder; replace the file"


@contextlib.contextmanager
def decoding(spool: Spool, path: Path, file_print: str) -> Iterator[None]:
    """Say, for the time of a `with` block, which file this process decodes. Raises DiskFull."""
    crumb = spool.producers / f"decoding-{os.getpid()}.json"
    record = {"path": str(path), "print": file_print} | asdict(ProcessId.own())
    write_json(crumb, record, sync=False)
    try:
        yield
    finally:
        crumb.unlink(missing_ok=True)


class Quarantine:
    """What one producer knows of such files. For the holder of the producer's role alone."""

    def __init__(self, spool: Spool, crashes: Callable[[Path], bool], timeout_s: float) -> None:
        self._spool = spool
        self._crashes = crashes
        self._timeout_s = timeout_s
        self._seen: Counter[tuple[str, str]] = Counter()
        """Path and print of files, by the deaths at which they were being decoded."""
        self._file = spool.producers / "crashing.json"
        self.last: tuple[str, ...] = ()
        """What was being decoded at the last death."""
        self.prints: frozenset[str] = frozenset()
        """Prints of the files that are never decoded any more."""

    def load(self) -> None:
        """Take over what producers before us found out; forget what their workers were at."""
        self.forget_crumbs()
        known = (read_json(self._file) or {}).get("prints")
        self.prints = frozenset(map(str, known if isinstance(known, list) else []))

    def after_death(self) -> Skipped | None:
        """Look what the dead were decoding, and try a file that is suspicious; the culprit, if it is one."""
        crumbs = self._take_crumbs()
        self.last = tuple(path for path, _ in crumbs)
        self._seen.update(crumbs)
        for path, file_print in crumbs:
            if self._seen[path, file_print] >= _SUSPICIOUS and self._is_guilty(path, file_print):
                return Skipped(path, WHY)  # the others were only near
        return None

    def end_stuck(self) -> None:
        """Kill a worker whose decoder has been at one file for too long, and suspect that file."""
        for crumb in self._spool.producers.glob("decoding-*.json"):
            record = read_json(crumb) or {}
            worker = ProcessId.from_json(record)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                seconds = time.time() - crumb.stat().st_mtime
                if worker and worker.is_alive() and seconds > self._timeout_s:
                    log.warning("%s: decoding does not end; ending it", record.get("path"))
                    self._seen[str(record.get("path")), str(record.get("print"))] = _SUSPICIOUS
                    os.kill(worker.pid, signal.SIGKILL)

    def forget_crumbs(self) -> None:
        """Suspect nothing of what workers were at that were killed for other reasons."""
        self._take_crumbs()

    def _take_crumbs(self) -> list[tuple[str, str]]:
        """Path and print of what dead workers were decoding."""
        found = []
        for crumb in self._spool.producers.glob("decoding-*.json"):
            record = read_json(crumb) or {}
            crumb.unlink(missing_ok=True)
            if record.get("path") and record.get("print"):
                found.append((str(record["path"]), str(record["print"])))
        return found

    def _is_guilty(self, path: str, file_print: str) -> bool:
        """Decode a file in a process of its own; one that kills that too is never decoded any more."""
        del self._seen[path, file_print]
        if not Path(path).is_file() or not self._crashes(Path(path)):
            return False
        log.warning("%s: crashes the decoder; its pairs are replaced by others", path)
        self.prints |= {file_print}
        try:
            write_json(self._file, {"prints": sorted(self.prints)})
        except DiskFull as error:
            log.warning("the next producer will have to find that out again: %s", error)
        return True

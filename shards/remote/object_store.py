"""Objects in a store (S3, Google Cloud Storage, Azure) below one prefix: list, read, write, delete.

The trade-off: only whole objects and byte ranges, no files. A failed request is repeated only while this
may help: a network failure of a minute delays the caller, but wrong credentials are reported at once.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from darkprep.shards.errors import SpoolError
from darkprep.shards.files import disk_errors, open_for_writing, remove
from darkprep.shards.remote.connect import connector
from darkprep.shards.remote.failures import Kind, classify, message
from darkprep.shards.remote.url import StoreUrl

if TYPE_CHECKING:
    from obstore import UpdateVersion

    from darkprep.shards.remote.connect import Connect

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Check = Callable[[], None]
"""A function called before each attempt to change an object; if it raises, no further attempt is made."""

MAX_PUT_BYTES = 5 * 2**30 - 1
"""Largest object that can be published by one PUT (S3's own limit)."""
MOST_OBJECTS = 100_000
"""Objects below one folder at most; a listing of many more takes minutes, and a spool has some thousands."""
_PART_BYTES = 16 << 20
"""Bytes of one download request; a broken connection loses at most this much."""
_UPLOAD_S, _UPLOAD_BYTES_PER_S = 30, 1_000_000
"""Seconds after which an upload counts as failed."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and for how long a request that fails for a temporary reason is repeated."""

    attempts: int = 10
    first_s: float = 0.2
    max_s: float = 6.4

    def pause_s(self, failures: int) -> float:
        """Return the seconds to wait after this many failures: doubled after each, with a random change."""
        longest = min(self.max_s, self.first_s * (1 << (failures - 1)))
        return longest * (0.5 + random.random() / 2)  # noqa: S311 # no secret


@dataclass(frozen=True)
class StoredObject:
    """The content of an object, and the identifier of its version for conditional writes."""

    data: bytes
    version: UpdateVersion


class ObjectStore:
    """Objects addressed by names relative to a prefix. A change is atomic: readers see the old object or the new one.

    All methods raise SpoolError when the store fails; `label` is the URL of the prefix, for messages. When
    `stop` is set, a failed request is repeated at most once.
    """

    def __init__(
        self,
        connect: Connect,
        label: str,
        *,
        retry: RetryPolicy | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._connect, self._client = connect, connect(None)
        self._label = label
        self._retry = retry or RetryPolicy()
        self.stop = stop or threading.Event()

    @classmethod
    def open(
        cls,
        url: StoreUrl,
        *,
        retry: RetryPolicy | None = None,
        stop: threading.Event | None = None,
    ) -> ObjectStore:
        """Open the store at `url` and make one request to test it.

        Raises SpoolError, without many attempts, when address, bucket or credentials are wrong, and
        OptionError as `connector` does.
        """
        store = cls(connector(url), str(url), retry=retry, stop=stop)
        # Only the first page: there may be millions of objects beside the spool.
        store._request(lambda: next(store._client.list(), None), retry=RetryPolicy(attempts=3))
        return store

    def __str__(self) -> str:
        return self._label

    def sizes(self, folder: str) -> dict[str, int]:
        """Return names and sizes in bytes of the objects directly below `folder`; the listing may be out of date.

        Raises SpoolError for more than MOST_OBJECTS objects.
        """

        def list_objects() -> dict[str, int]:
            every = itertools.chain.from_iterable(self._client.list(folder, chunk_size=1000))
            return {
                one["path"].removeprefix(f"{folder}/"): one["size"]
                for one in itertools.islice(every, MOST_OBJECTS + 1)
            }

        found: dict[str, int] = self._request(list_objects)
        if len(found) > MOST_OBJECTS:
            raise SpoolError(
                f"{self._label}/{folder}: holds more than {MOST_OBJECTS:,} objects, too many for a spool; delete those that are not shards, or use another prefix"
            )
        return {name: size for name, size in found.items() if "/" not in name}

    def size(self, name: str) -> int | None:
        """Return the size in bytes of one object; None if it does not exist."""
        return self._request(lambda: self._client.head(name)["size"], unless={"missing"})

    def read(self, name: str, limit: int) -> StoredObject | None:
        """Return an object of 1 to `limit` bytes; None if it is missing, empty or longer."""

        def get() -> StoredObject:
            # In one request: if the size were asked first, an object that grows meanwhile would come cut.
            found = self._client.get(name, options={"range": (0, limit + 1)})
            return StoredObject(bytes(found.bytes()), _version(found.meta))

        found = self._request(get, unless={"missing", "range"})
        return found if found and len(found.data) <= limit else None

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        """Write an object, replacing an existing one."""
        self._request(lambda: self._client.put(name, data, use_multipart=False), check=check)

    def write_if(
        self, name: str, data: bytes, version: UpdateVersion | None, *, check: Check | None = None
    ) -> UpdateVersion | None:
        """Write an object only if its current version is `version`; if `version` is None, only if it does not exist.

        Returns the new version, or None when the condition is not met. Raises SpoolError when the store
        reports that it has no conditional writes.
        """
        mode: Any = version or "create"
        result = self._request(
            lambda: self._client.put(name, data, mode=mode), check=check, unless={"conflict"}
        )
        if result is not None:
            return _version(result)
        # It is ours all the same when the answer to an earlier attempt was lost.
        found = self.read(name, len(data))
        return found.version if found and found.data == data else None

    def upload(self, name: str, path: Path, *, check: Check | None = None) -> None:
        """Upload a whole file as an object. Raises FileNotFoundError when the file no longer exists."""
        data = path.read_bytes()
        if len(data) > MAX_PUT_BYTES:
            raise SpoolError(
                f"{self._label}/{name}: {len(data)} bytes are too many for one PUT; use fewer --samples-per-shard"
            )
        client = self._connect(_UPLOAD_S + len(data) / _UPLOAD_BYTES_PER_S)
        self._request(lambda: client.put(name, data, use_multipart=False), check=check)

    def download(self, name: str, path: Path, size: int) -> bool:
        """Write the first `size` bytes of an object to a new file; return whether it was written.

        Returns False, and leaves no file, when the object does not exist or is shorter, or `stop` was set.
        Raises DiskFull or SpoolError when the file cannot be written.
        """
        complete = False
        with disk_errors(path, size), open(path, "xb", opener=open_for_writing) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                starts = range(0, size, _PART_BYTES)
                complete = all(self._download_part(file, name, at, size) for at in starts)
            finally:
                if not complete:
                    remove(path)
        return complete

    def delete(self, name: str, *, check: Check | None = None) -> None:
        """Delete an object if it exists."""
        self._request(lambda: self._client.delete(name), check=check, unless={"missing"})

    def _download_part(self, file: BinaryIO, name: str, start: int, size: int) -> bool:
        end = min(size, start + _PART_BYTES)
        if self.stop.is_set():
            return False
        part = self._request(
            lambda: self._client.get_range(name, start=start, end=end),
            unless={"missing", "range"},
        )
        return file.write(part or b"") == end - start

    def _request(
        self,
        send: Callable[[], Result],
        *,
        retry: RetryPolicy | None = None,
        check: Check | None = None,
        unless: Collection[Kind] = (),
    ) -> Result | Any:
        """Call `send` and return its result; repeat it after failures that may pass. None for failures of a kind in `unless`."""
        retry, failures = retry or self._retry, 0
        while True:
            if check:
                check()
            try:
                return send()
            except Exception as error:
                failures += 1
                kind, detail = classify(error)
                if kind in unless:
                    return None
                last = failures >= (2 if self.stop.is_set() else retry.attempts)
                if kind != "transient" or last:
                    raise SpoolError(message(self._label, kind, detail, failures)) from error
            if failures == 2:
                log.warning("%s: %s; trying again", self._label, detail)
            self.stop.wait(retry.pause_s(failures))


def _version(meta: Any) -> UpdateVersion:
    """Return the part of an object's metadata that a conditional write needs, without missing values."""
    found = {name: meta.get(name) for name in ("e_tag", "version") if meta.get(name) is not None}
    return found  # type: ignore[return-value] # a part of the keys is enough

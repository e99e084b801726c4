"""Objects in a store (S3, Google Cloud Storage, Azure) below one prefix: list, read, write, delete.

The trade-off: whole objects and byte ranges only, no files. A request that fails is repeated as often as may
help, so a network that fails for a minute delays the caller, and a wrong key is reported at once.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from darkprep.shards.errors import SpoolError
from darkprep.shards.files import disk_errors
from darkprep.shards.remote.connect import connector
from darkprep.shards.remote.failures import Kind, classify, message
from darkprep.shards.remote.url import StoreUrl

if TYPE_CHECKING:
    from obstore import UpdateVersion

    from darkprep.shards.remote.connect import Connect

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Check = Callable[[], None]
"""Called before each attempt of a change; an exception ends the attempts."""

MAX_PUT_BYTES = 5 * 2**30 - 1
"""Largest object that can be published by one PUT (S3's own limit)."""
_PART_BYTES = 16 << 20
"""Bytes of one download request: the most that a broken connection loses."""
_UPLOAD_S, _UPLOAD_BYTES_PER_S = 30, 1_000_000
"""An upload that takes longer than this has failed."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long a request that fails for a transient reason is repeated."""

    attempts: int = 10
    first_s: float = 0.2
    max_s: float = 6.4

    def pause_s(self, failures: int) -> float:
        """Return the seconds to wait after so many failures: doubled each time, with jitter."""
        longest = min(self.max_s, self.first_s * (1 << (failures - 1)))
        return longest * (0.5 + random.random() / 2)  # noqa: S311 # no secret


@dataclass(frozen=True)
class StoredObject:
    """The content of an object, and what identifies this version of it in conditional writes."""

    data: bytes
    version: UpdateVersion


class ObjectStore:
    """Objects by names relative to a prefix. A change is atomic: readers see the old object or the new one.

    All methods raise SpoolError when the store fails; `label` is its URL in messages. When `stop` is set,
    a request that fails is repeated once at most.
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
        """Return the store at `url` after one successful request.

        Raise SpoolError soon when it cannot be used: address, bucket, credentials; OptionError as connector.
        """
        store = cls(connector(url), str(url), retry=retry, stop=stop)
        store._request(store._client.list_with_delimiter, retry=RetryPolicy(attempts=3))
        return store

    def __str__(self) -> str:
        return self._label

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the objects directly below `folder`, names without it, and their bytes; may be out of date."""
        listing = self._request(lambda: self._client.list_with_delimiter(folder))
        return {one["path"].rpartition("/")[2]: one["size"] for one in listing["objects"]}

    def size(self, name: str) -> int | None:
        """Return the bytes of one object, None where there is none."""
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
        """Put an object."""
        self._request(lambda: self._client.put(name, data, use_multipart=False), check=check)

    def write_if(
        self, name: str, data: bytes, version: UpdateVersion | None, *, check: Check | None = None
    ) -> UpdateVersion | None:
        """Put an object only while `version` is the current one, or, for None, while there is none.

        Return the new version, or None when the condition is not met. Raise SpoolError when the store
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
        """Put a whole file. Raise FileNotFoundError when the file is gone."""
        data = path.read_bytes()
        if len(data) > MAX_PUT_BYTES:
            raise SpoolError(f"{self._label}/{name}: {len(data)} bytes are too many for one PUT")
        client = self._connect(_UPLOAD_S + len(data) / _UPLOAD_BYTES_PER_S)
        self._request(lambda: client.put(name, data, use_multipart=False), check=check)

    def download(self, name: str, path: Path, size: int) -> bool:
        """Write the first `size` bytes of an object to a new file.

        Return False, and leave no file, when the object is gone or shorter, or `stop` was set. Raise DiskFull
        or SpoolError when the file cannot be written.
        """
        with disk_errors(path, size):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            complete = False
            try:
                os.posix_fallocate(descriptor, 0, size)
                starts = range(0, size, _PART_BYTES)
                complete = all(self._download_part(descriptor, name, at, size) for at in starts)
            finally:
                os.close(descriptor)
                if not complete:
                    path.unlink(missing_ok=True)
        return complete

    def delete(self, name: str, *, check: Check | None = None) -> None:
        """Delete an object if there is one."""
        self._request(lambda: self._client.delete(name), check=check, unless={"missing"})

    def _download_part(self, descriptor: int, name: str, start: int, size: int) -> bool:
        end, written = min(size, start + _PART_BYTES), 0
        if self.stop.is_set():
            return False
        part = self._request(
            lambda: self._client.get_range(name, start=start, end=end),
            unless={"missing", "range"},
        )
        with memoryview(part or b"") as view:
            while written < len(view):
                written += os.pwrite(descriptor, view[written:], start + written)
        return written == end - start

    def _request(
        self,
        send: Callable[[], Result],
        *,
        retry: RetryPolicy | None = None,
        check: Check | None = None,
        unless: Collection[Kind] = (),
    ) -> Result | Any:
        """Return what `send` returns, repeating it when that may help; None for failures of a kind in `unless`."""
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
    """Return what a conditional write needs of an object's metadata; absent values must be left out."""
    found = {name: meta.get(name) for name in ("e_tag", "version") if meta.get(name) is not None}
    return found  # type: ignore[return-value] # a part of the keys is enough

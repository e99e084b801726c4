"""An object store in this process's memory."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from darkprep.shards.remote.object_store import Check, ObjectStore, StoredObject

if TYPE_CHECKING:
    from obstore import UpdateVersion


class FakeStore(ObjectStore):
    """An ObjectStore in this process's memory, whose listings may be late."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.listing: dict[str, bytes] | None = None
        """What listings show, instead of what is there."""
        self.puts: list[str] = []
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return "memory://"

    def sizes(self, folder: str) -> dict[str, int]:
        shown = self.objects if self.listing is None else self.listing
        head = f"{folder}/"
        return {n[len(head) :]: len(d) for n, d in list(shown.items()) if n.startswith(head)}

    def size(self, name: str) -> int | None:
        data = self.objects.get(name)
        return None if data is None else len(data)

    def read(self, name: str, limit: int) -> StoredObject | None:
        data = self.objects.get(name)
        return StoredObject(data, _version(data)) if data and len(data) <= limit else None

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        if check:
            check()
        self.puts.append(name)
        self.objects[name] = data

    def write_if(
        self, name: str, data: bytes, version: UpdateVersion | None, *, check: Check | None = None
    ) -> UpdateVersion | None:
        with self._lock:
            current = self.objects.get(name)
            if (None if current is None else _version(current)) != version:
                return None
            self.write(name, data, check=check)
        return _version(data)

    def upload(self, name: str, path: Path, *, check: Check | None = None) -> None:
        self.write(name, path.read_bytes(), check=check)

    def download(self, name: str, path: Path, size: int) -> bool:
        data = self.objects.get(name)
        if data is None or len(data) < size:
            return False
        path.write_bytes(data[:size])
        return True

    def delete(self, name: str, *, check: Check | None = None) -> None:
        if check:
            check()
        self.objects.pop(name, None)


def _version(data: bytes) -> UpdateVersion:
    """As S3 does for an object that came in one PUT."""
    return {"e_tag": hashlib.md5(data, usedforsecurity=False).hexdigest()}

"""An object store in this process's memory."""

from __future__ import annotations

from pathlib import Path

from darkprep.shards.remote.object_store import Check


class FakeStore:
    """An ObjectStore in this process's memory, whose listings may be late."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.listing: dict[str, bytes] | None = None
        """What listings show, instead of what is there."""
        self.puts: list[str] = []

    def __str__(self) -> str:
        return "memory://"

    def sizes(self, folder: str) -> dict[str, int]:
        shown = self.objects if self.listing is None else self.listing
        head = f"{folder}/"
        return {n[len(head) :]: len(d) for n, d in list(shown.items()) if n.startswith(head)}

    def size(self, name: str) -> int | None:
        data = self.objects.get(name)
        return None if data is None else len(data)

    def read(self, name: str, limit: int) -> bytes | None:
        data = self.objects.get(name)
        return data if data and len(data) <= limit else None

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        if check:
            check()
        self.puts.append(name)
        self.objects[name] = data

    def create(self, name: str, data: bytes) -> bool:
        if name in self.objects:
            return False
        self.write(name, data)
        return True

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

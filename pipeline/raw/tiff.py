"""Read the directories of a TIFF structure, on which most RAW formats are based.

The trade-off: of a directory at most 1,000 entries are read, at once, and are kept; values are read one by one from
the open file. So a damaged file causes only a limited number of small reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 10: "ii", 13: "I"}
"""struct formats of the TIFF types BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL and IFD; others are skipped."""
_SIZES = {kind: struct.calcsize(f"={format}") for kind, format in FORMATS.items()}
"""Bytes of one value of each of these types."""
_ASCII, _RATIONALS = 2, (5, 10)
_MAX_ENTRIES = 1000
_ENTRY_BYTES = 12
_MAX_TEXT = 256
_MAX_NUMBERS = 1 << 16
_MAX_BYTES_READ = 4 << 20
_MAX_READS = 50_000
"""Far above the directories of any camera; they end a directory that refers to the same numbers many times."""
_MAX_DIRECTORIES = 32
_MAX_SUB_DIRECTORIES = 256
_SUB_DIRECTORIES = 0x014A
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of one value of each TIFF type."""
_SWAPPED_BYTES = {3: 2, 8: 2, 12: 8} | dict.fromkeys((4, 5, 9, 10, 11), 4)
"""Bytes of a number whose order depends on the file, for types of more than one byte."""

_Entry = tuple[int, int, int, int]
"""Code, type, count and value offset of one tag in a directory."""


class Tiff:
    """Reads the directories of a TIFF structure that begins at `start`.

    Raises struct.error at reads past its end, and after 4 MiB or 50,000 reads: then `is_excessive` is set, as
    it is by a directory of more than 256 subdirectories.
    """

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self._file = file
        self._start = start
        self._left_bytes, self._left_reads = _MAX_BYTES_READ, _MAX_READS
        self._known: dict[int, tuple[list[_Entry], bool]] = {}
        """By the offset of a directory: its entries that `_entries` returns, and whether the file ends before the last."""
        self.is_excessive = False
        """Whether more was to be read than any camera's directories hold."""
        self._order = "<" if self._bytes(0, 2) == b"II" else ">"

    def first_directory(self) -> int:
        """Return the offset of the first directory."""
        return self._unpack("I", 4)[0]

    def first_directory_end(self) -> int:
        """Return the offset at which the first directory ends; a lower bound if the file is truncated before it."""
        start = self.first_directory()
        try:
            (count,) = self._unpack("H", start)
        except struct.error:
            return start + 2
        return start + 2 + 12 * count

    def directories(self) -> Iterator[int]:
        """Yield the offset of every directory: the chain that begins at the first one, and the subdirectories of each.

        At most 32 are yielded, each once. Directories that lie past the end of the file are left out.
        """
        waiting, found = [self.first_directory()], set[int]()
        while waiting and len(found) < _MAX_DIRECTORIES:
            directory = waiting.pop(0)
            if not directory or directory in found:
                continue
            found.add(directory)
            try:
                (count,) = self._unpack("H", directory)
                below = self.numbers(directory, _SUB_DIRECTORIES, _MAX_SUB_DIRECTORIES + 1)
                self.is_excessive |= len(below) > _MAX_SUB_DIRECTORIES
                waiting += map(int, below[:_MAX_DIRECTORIES])
                yield directory
                waiting += self._unpack("I", directory + 2 + 12 * count)
            except struct.error:
                continue

    def values(self, directory: int) -> dict[int, float | str]:
        """Return the text or the first number of each tag of a directory, for tags whose type is in FORMATS."""
        found: dict[int, float | str] = {}
        for code, kind, length, offset in self._entries(directory):
            if kind == _ASCII:
                raw = self._bytes(offset, min(length, _MAX_TEXT))
                found[code] = raw.split(b"\x00")[0].decode("utf-8", "replace").strip()
            else:
                found[code] = self._numbers(offset, kind, 1)[0]
        return found

    def numbers(self, directory: int, wanted: int, most: int = _MAX_NUMBERS) -> list[float]:
        """Return the first `most` numbers of one tag of a directory; empty if it is missing or text."""
        for code, kind, length, offset in self._entries(directory):
            if code == wanted and kind != _ASCII:
                return self._numbers(offset, kind, min(length, most))
        return []

    def raw_values(self, directory: int, most_bytes: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield code, type, count and little-endian bytes of each tag of a directory whose value has at most `most_bytes` bytes."""
        (count,) = self._unpack("H", directory)
        for entry in range(directory + 2, directory + 2 + 12 * min(count, _MAX_ENTRIES), 12):
            code, kind, length = self._unpack("HHI", entry)
            size = VALUE_BYTES.get(kind, 0) * length
            if not 0 < size <= most_bytes:
                continue
            value = self._bytes(entry + 8 if size <= 4 else self._unpack("I", entry + 8)[0], size)
            if len(value) < size:
                raise struct.error("a value lies past the end of the file")
            unit = _SWAPPED_BYTES.get(kind, 1)
            if unit > 1 and self._order == ">":
                value = b"".join(value[at : at + unit][::-1] for at in range(0, size, unit))
            yield code, kind, length, value

    def _entries(self, directory: int) -> Iterator[_Entry]:
        """Yield each entry whose type is in FORMATS."""
        if directory not in self._known:
            self._known[directory] = self._read_entries(directory)
        entries, is_cut = self._known[directory]
        yield from entries
        if is_cut:
            raise struct.error("a directory lies past the end of the file")

    def _read_entries(self, directory: int) -> tuple[list[_Entry], bool]:
        (count,) = self._unpack("H", directory)
        size = _ENTRY_BYTES * min(count, _MAX_ENTRIES)
        data = self._bytes(directory + 2, size)
        whole = data[: len(data) // _ENTRY_BYTES * _ENTRY_BYTES]
        entries = []
        for number, entry in enumerate(struct.iter_unpack(f"{self._order}HHII", whole)):
            code, kind, length, value = entry
            if kind in FORMATS and length:
                inline = _SIZES[kind] * length <= 4
                own = directory + 2 + _ENTRY_BYTES * number + 8
                entries.append((code, kind, length, own if inline else value))
        return entries, len(data) < size

    def _numbers(self, offset: int, kind: int, count: int) -> list[float]:
        numbers = self._unpack(f"{count * len(FORMATS[kind])}{FORMATS[kind][0]}", offset)
        if kind in _RATIONALS:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            return [top / bottom if bottom else 0.0 for top, bottom in pairs]
        return list(map(float, numbers))

    def _unpack(self, format: str, offset: int) -> tuple[int, ...]:
        format = self._order + format
        return struct.unpack(format, self._bytes(offset, struct.calcsize(format)))

    def _bytes(self, offset: int, size: int) -> bytes:
        self._left_bytes -= size
        self._left_reads -= 1
        if min(self._left_bytes, self._left_reads) < 0:
            self.is_excessive = True
            raise struct.error("more than a camera's directories hold")
        self._file.seek(self._start + offset)
        return self._file.read(size)

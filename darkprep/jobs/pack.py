"""Pack the kept shards of a spool as a data set: tars, indexes and a README, for WebDataset and Megatron Energon.

The trade-off: every sample is copied, so that the tars have another size, splits and keys of their own, and
nothing of the spool's machine; the spool and the data set need their space together.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from darkprep.jobs.pack_files import (
    ENERGON_DIRECTORY,
    Tars,
    energon_files,
    index_file,
    readme_file,
)
from darkprep.jobs.pack_source import Figures, PackSource, find_source, survey
from darkprep.pipeline.pairs.table import SPLITS, Split
from darkprep.shards import DiskFull, OptionError, ShardLayout, Spool, SpoolError
from darkprep.shards.files import (
    disk_errors,
    ensure_directory,
    list_directory,
    remove,
    rename,
    sync_directory,
    write_bytes,
)
from darkprep.shards.locks import FileLock
from darkprep.shards.packed_tar import (
    PackedTar,
    PackedTarWriter,
    packed_sample_bytes,
    packed_tar_bytes,
)
from darkprep.view.numbers import format_bytes, format_count, format_duration

DEFAULT_TAR_BYTES = 10**9
_FEWEST_TARS = 8
"""Tars of a split unless the user chooses their size: readers that share whole tars want some for each worker."""
_SMALL_FILES_BYTES = 1 << 20
_LOCK = "lock"

Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """The options of `pack`. Raises OptionError, which names the invalid field."""

    spool: Path
    out: Path
    """The directory to create."""
    val: float = 0.0
    """Share of the scenes whose samples are in the split val; 0 for none."""
    test: float = 0.0
    tar_bytes: int | None = None
    """Largest size of a tar; None for DEFAULT_TAR_BYTES, and less where a split would have fewer than 8 tars."""
    incomplete: bool = False
    """Pack the shards that are there, though others of the plan are missing."""

    def __post_init__(self) -> None:
        for name in ("val", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(
                    f"{name} must be at least 0 and below 1, not {getattr(self, name):g}"
                )
        if self.tar_bytes is not None and self.tar_bytes < 1:
            raise OptionError(f"tar-size must be at least 1 byte, not {self.tar_bytes}")
        if os.path.lexists(self.out):
            raise OptionError(f"{self.out}: exists already; name a directory that does not")
        if not self.out.parent.is_dir():
            raise OptionError(
                f"{self.out.parent}: is not a directory; name a data set in an existing directory"
            )
        if self.out.resolve().is_relative_to(self.spool.resolve()):
            raise OptionError(
                f"{self.out}: is inside the spool, whose size has a limit; name a directory elsewhere"
            )


def pack(options: PackOptions, *, show: Show, stop: threading.Event) -> str:
    """Write the data set and return a line for the user; `show` is called with lines of progress.

    Raises OptionError, PlanError, SpoolError, DiskFull or MachineError, and KeyboardInterrupt when `stop` is
    set. Then there is no directory at `out`, and nothing is left beside it.
    """
    source = find_source(Spool(options.spool).open(), incomplete=options.incomplete)
    count = len(source.shards)

    def checked(shards: int) -> None:
        _check_stop(stop)
        show(f"checked {shards:,} of {format_count(count, 'shard')}")

    figures = survey(source, val=options.val, test=options.test, on_shard=checked)
    sizes = {split: _tar_sizes(figures.samples(split), source, options) for split in SPLITS}
    _check_space(options.out.parent, source.spool.stream.layout(), sizes)
    with _unfinished(options.out) as partial:
        tars = _copy(source, figures, sizes, partial, show=show, stop=stop)
        _write_small_files(partial, source, figures, tars)
        _publish(partial, options.out)
    return _summary(options, source, figures, tars)


def _tar_sizes(samples: int, source: PackSource, options: PackOptions) -> list[int]:
    """Return the number of samples of each tar of a split: as equal as possible, so that workers have equal work."""
    if not samples:
        return []
    largest = options.tar_bytes or DEFAULT_TAR_BYTES
    most = max(1, largest // packed_sample_bytes(source.spool.stream.layout()))
    fewest = min(samples, _FEWEST_TARS) if options.tar_bytes is None else 1
    tars = max(math.ceil(samples / most), fewest)
    each, more = divmod(samples, tars)
    return [each + (number < more) for number in range(tars)]


def _check_space(directory: Path, layout: ShardLayout, sizes: dict[Split, list[int]]) -> None:
    """Raise DiskFull unless the disk of `directory` has room for the data set."""
    needed = sum(packed_tar_bytes(layout, size) for split in SPLITS for size in sizes[split])
    free = shutil.disk_usage(directory).free
    if needed + _SMALL_FILES_BYTES > free:
        raise DiskFull(
            f"{directory}: the data set needs {format_bytes(needed)} and {format_bytes(free)} are free; free some space, or name a directory on another disk"
        )


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """Yield an empty directory beside `out` that no other process writes; it is removed if the block fails."""
    # Where the user's own link leads to, because nothing is deleted through a link.
    partial = out.parent.resolve() / f".{out.name}.partial"
    ensure_directory(partial)
    names = {entry.name for entry in list_directory(partial)}
    if names and _LOCK not in names:
        raise SpoolError(
            f"{partial}: exists and was not made by darkprep pack; move it away, or name another data set"
        )
    with FileLock(partial / _LOCK, "a pack", directory=out, remedy="name another data set"):
        for name in names - {_LOCK}:
            remove(partial / name)
        try:
            yield partial
        except BaseException:
            with contextlib.suppress(OSError, SpoolError):  # the first error is the one to report
                remove(partial)
            raise


class _SplitWriter:
    """Writes the samples of one split into tars of the given numbers of samples."""

    def __init__(self, directory: Path, split: Split, sizes: list[int], source: PackSource) -> None:
        self._directory = directory
        self._split = split
        self._sizes = sizes
        self._source = source
        self._writer: PackedTarWriter | None = None
        self.tars: list[PackedTar] = []

    def writer(self) -> PackedTarWriter:
        """Return the writer of the tar that takes the next sample."""
        if self._writer is None:
            path = self._directory / f"{self._split}-{len(self.tars):06d}.tar"
            spool = self._source.spool
            self._writer = PackedTarWriter(path, spool.stream.layout(), spool.digest)
        return self._writer

    def finish_if_full(self) -> None:
        """Finish the present tar if it has all its samples."""
        if self._writer and self._writer.samples == self._sizes[len(self.tars)]:
            tar, self._writer = self._writer.finish(), None
            self.tars.append(tar)
            write_bytes(self._directory / f"{tar.name}.idx", tar.index())

    def close(self) -> None:
        """Close the unfinished tar, if any."""
        if self._writer:
            self._writer.close()


def _copy(
    source: PackSource,
    figures: Figures,
    sizes: dict[Split, list[int]],
    directory: Path,
    *,
    show: Show,
    stop: threading.Event,
) -> Tars:
    """Copy all samples into tars, by shard and sample; return the tars of each split."""
    layout = source.spool.stream.layout()
    low, gt = np.empty(layout.low_shape, np.uint16), np.empty(layout.gt_shape, np.uint16)
    progress = _CopyProgress(figures.total, layout, show)
    with contextlib.ExitStack() as stack:
        writers = {split: _SplitWriter(directory, split, sizes[split], source) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.close)
        for number in source.shards:
            with source.shard(number) as opened:
                for index, meta in enumerate(opened.metas):
                    opened.read(index, low, gt)
                    writer = writers[figures.split_of[meta.pair]]
                    writer.writer().add(meta, low, gt)
                    writer.finish_if_full()
                    _check_stop(stop)
                    progress.advance()
        return {split: writer.tars for split, writer in writers.items()}


class _CopyProgress:
    """Shows how many samples are copied, how fast, and the time left."""

    def __init__(self, total: int, layout: ShardLayout, show: Show) -> None:
        self._total = total
        self._bytes = layout.sample_bytes
        self._show = show
        self._count = 0
        self._started = time.monotonic()

    def advance(self) -> None:
        """Count a sample."""
        self._count += 1
        seconds = max(time.monotonic() - self._started, 1e-9)
        left = seconds * (self._total / self._count - 1)
        self._show(
            f"packed {self._count:,} of {format_count(self._total, 'sample')}, {format_bytes(self._count * self._bytes / seconds)}/s, {format_duration(left)} left"
        )


def _write_small_files(directory: Path, source: PackSource, figures: Figures, tars: Tars) -> None:
    ensure_directory(directory / ENERGON_DIRECTORY)
    for name, content in energon_files(tars).items():
        write_bytes(directory / ENERGON_DIRECTORY / name, content)
    write_bytes(directory / "index.json", index_file(source, tars))
    write_bytes(directory / "README.md", readme_file(source, figures, tars))


def _publish(partial: Path, out: Path) -> None:
    """Give the finished directory its name. Raises SpoolError if something has that name by now."""
    remove(partial / _LOCK)
    sync_directory(partial)
    try:
        with disk_errors(out):
            if os.path.lexists(out):
                raise FileExistsError
            rename(partial, out)
    except (FileExistsError, NotADirectoryError) as error:
        raise SpoolError(
            f"{out}: was made by another process meanwhile; name another data set and start again"
        ) from error
    sync_directory(out.parent)


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise KeyboardInterrupt


def _summary(options: PackOptions, source: PackSource, figures: Figures, tars: Tars) -> str:
    every = [tar for split in SPLITS for tar in tars[split]]
    splits = ", ".join(f"{figures.samples(split):,} {split}" for split in figures.splits)
    size = format_bytes(sum(tar.size_bytes for tar in every))
    missing = (source.planned or 0) - len(source.shards)
    verb = "is" if missing == 1 else "are"
    left_out = (
        f"; {format_count(missing, 'shard')} of the plan {verb} missing" if missing > 0 else ""
    )
    return f"wrote {options.out}: {format_count(figures.total, 'sample')} ({splits}) in {format_count(len(every), 'tar')}, {size}{left_out}"

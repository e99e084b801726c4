"""The directory of a spool's frames: inside the spool, or on another disk with its own budget.

The trade-off: frames on another disk remain after the spool is removed and serve the next spool with the
same photographs. So frames of other plans are never deleted there, although they take space.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.pipeline.produce.budget import default_budget
from darkprep.pipeline.produce.frame_store import FrameStore
from darkprep.shards import OptionError, Spool
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.files import disk_errors
from darkprep.shards.locks import FileLock
from darkprep.shards.own_settings import are_own_settings
from darkprep.shards.plan_record import ProducerSettings

_FIXED_BYTES = 1 << 20
"""Directories, zarr's group metadata, locks."""


def is_inside(path: Path, directory: Path) -> bool:
    """Return whether `path` is `directory` or below it, after following symbolic links."""
    # Path.resolve raises RuntimeError for circular links.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


@dataclass(frozen=True, kw_only=True)
class FramesDirectory:
    """Where a spool's frames are stored."""

    path: Path
    budget_bytes: int | None = None
    """Maximum size in bytes of all files there, including frames of other plans; None if frames share the spool's budget."""

    @property
    def is_shared(self) -> bool:
        """Whether the directory is outside the spool, where other spools may use it too."""
        return self.budget_bytes is not None

    @classmethod
    def from_spool(cls, spool: Spool) -> FramesDirectory:
        """Return the directory with which a spool was built; the one in the spool if someone else chose another.

        Raises the errors of `Spool.open`.
        """
        settings = spool.settings
        if settings.frames_dir is None or not are_own_settings(spool.plan):
            return cls(path=spool.frames)
        return cls(path=Path(settings.frames_dir), budget_bytes=settings.frames_budget_bytes)

    @classmethod
    def from_options(
        cls, spool: Path, directory: Path | None, budget_bytes: int | None
    ) -> FramesDirectory:
        """Return the directory that the user chose for the frames of `spool`. Raises OptionError."""
        if directory is None:
            if budget_bytes is not None:
                raise OptionError("frames-budget can be used only together with --frames-dir")
            return cls(path=spool / "frames")
        if directory.exists() and not directory.is_dir():
            raise OptionError(f"frames-dir {directory}: is not a directory; choose another")
        if is_inside(directory, spool):
            raise OptionError(
                f"frames-dir {directory}: is inside the spool, where frames are stored by default; leave it out, or choose a directory on another disk"
            )
        budget = default_budget(directory) if budget_bytes is None else budget_bytes
        # Nothing is deleted through a link, so the one that the user chose is followed here, once.
        chosen = directory.resolve() if directory.is_symlink() else directory.absolute()
        return cls(path=chosen, budget_bytes=budget)

    def recorded_in(self, settings: ProducerSettings) -> ProducerSettings:
        """Return a spool's `settings` with this frames directory and its budget; with None if the frames are stored in the spool."""
        frames_dir = str(self.path) if self.is_shared else None
        return replace(settings, frames_dir=frames_dir, frames_budget_bytes=self.budget_bytes)

    def available_bytes(self, own: Collection[str]) -> int | None:
        """Return how many bytes the frames named in `own` may use beside frames of other plans.

        Returns None when frames share the spool's budget.
        """
        if self.budget_bytes is None:
            return None
        other = (name for name in FrameStore(self.path).names() if name not in own)
        used = sum(allocated_bytes(self.path / name) for name in other)
        return max(0, self.budget_bytes - _FIXED_BYTES - used)

    @contextlib.contextmanager
    def producer_lock(self) -> Iterator[None]:
        """Hold the right to be the only producer that stores frames here; in the spool, its own lock is enough.

        Raises SpoolBusy when another spool's producer holds the lock, DiskFull or SpoolError when the
        directory cannot be written.
        """
        if not self.is_shared:
            yield
            return
        directory = self.path / "producer"
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        with FileLock(
            directory / "lock",
            "a producer that stores frames",
            directory=self.path,
            remedy="give another --frames-dir",
        ):
            yield

"""Frames on another disk than their spool: where, how much may lie there, who may write.

The trade-off: they outlive the spool and serve the next one on the same photographs, so frames of other
plans are never deleted there; they only take room.
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
from darkprep.shards.plan_record import ProducerSettings

_FIXED_BYTES = 1 << 20
"""Folders, zarr's group metadata, locks."""


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or below it, links followed as far as they lead somewhere."""
    # Path.resolve raises RuntimeError where links go round in a circle.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


@dataclass(frozen=True, kw_only=True)
class FramesDirectory:
    """Where a spool's frames are kept."""

    path: Path
    budget_bytes: int | None = None
    """Most that may lie there, whatever it is of; None where frames share the spool and its budget."""

    @classmethod
    def of(cls, spool: Spool) -> FramesDirectory:
        """The place that a spool was built with; raises PlanError when its record is damaged."""
        settings = spool.settings
        if settings.frames_dir is None:
            return cls(path=spool.frames)
        return cls(path=Path(settings.frames_dir), budget_bytes=settings.frames_budget_bytes)

    @classmethod
    def chosen(cls, spool: Path, folder: Path | None, budget_bytes: int | None) -> FramesDirectory:
        """The place that a user chooses for the frames of `spool`; raises OptionError."""
        if folder is None:
            if budget_bytes is not None:
                raise OptionError("frames-budget goes with --frames-dir only")
            return cls(path=spool / "frames")
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"frames-dir {folder}: is not a directory; choose another")
        if lies_in(folder, spool):
            raise OptionError(
                f"frames-dir {folder}: lies in the spool, where frames are without it; leave it out, or choose a place on another disk"
            )
        budget = default_budget(folder) if budget_bytes is None else budget_bytes
        return cls(path=folder.absolute(), budget_bytes=budget)

    def recorded_in(self, settings: ProducerSettings) -> ProducerSettings:
        """Return the settings with this directory, or without one where the frames are in the spool."""
        frames_dir = None if self.budget_bytes is None else str(self.path)
        return replace(settings, frames_dir=frames_dir, frames_budget_bytes=self.budget_bytes)

    def room(self, own: Collection[str]) -> int | None:
        """Bytes that the frames named in `own` may occupy, those of other plans left where they are.

        None where frames share the spool's budget.
        """
        if self.budget_bytes is None:
            return None
        foreign = (name for name in FrameStore(self.path).names() if name not in own)
        taken = sum(allocated_bytes(self.path / name) for name in foreign)
        return max(0, self.budget_bytes - _FIXED_BYTES - taken)

    @contextlib.contextmanager
    def producing(self) -> Iterator[None]:
        """Be the one producer that stores frames here; for a place in the spool its own role does.

        Raises SpoolBusy when another spool's producer is at work here, DiskFull or SpoolError when the
        place cannot be written.
        """
        if self.budget_bytes is None:
            yield
            return
        folder = self.path / "producer"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(
            folder / "lock",
            "a producer that stores frames",
            directory=self.path,
            remedy="give another --frames-dir",
        ):
            yield

"""The origin of a command's pairs: a camera's data set, a table that the user wrote, or a layout of folders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.folders import LAYOUTS, find_layout
from darkprep.pipeline.pairs.pair_table import pairs_from_csv
from darkprep.pipeline.pairs.table import Frames, Pairs
from darkprep.shards.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PairOrigin:
    """Where pairs come from. Raises OptionError, which names the invalid field."""

    root: Path
    """Directory of the photographs; not used for a table whose photographs are beside it."""
    camera: str | None = None
    """Name of a camera in SID or ELD; with a table or a layout, any label."""
    table: Path | None = None
    """Path of a pair table."""
    layout: str | None = None
    """A layout of folders (LAYOUTS)."""

    def __post_init__(self) -> None:
        if self.table is not None and self.layout is not None:
            raise OptionError(
                "pairs come from a table or from a layout of folders, not from both; give only one of them"
            )
        if self.camera is None and self.is_data_set:
            raise OptionError(
                f"camera must be one of {', '.join(CAMERAS)} unless pairs come from a table or a layout"
            )
        if self.layout is not None and self.layout not in LAYOUTS:
            raise OptionError(f"layout must be one of {', '.join(LAYOUTS)}, not {self.layout!r}")

    @property
    def is_data_set(self) -> bool:
        """Whether the pairs are those of a camera in SID or ELD."""
        return self.table is None and self.layout is None

    @property
    def label(self) -> str:
        """The camera; without a camera, the name of the table or of the root directory."""
        if self.camera is not None:
            return self.camera
        return self.table.stem if self.table else self.root.resolve().name or "photographs"

    def find(self, *, frames: Frames = "first", exclude_misaligned: bool = False) -> Pairs:
        """Find and return the pairs; the arguments choose among a camera's pairs. Raises OptionError or DatasetError."""
        if self.is_data_set:
            camera = camera_named(self.label)
            return find_pairs(
                self.root, camera, frames=frames, exclude_misaligned=exclude_misaligned
            )
        if frames != "first" or exclude_misaligned:
            raise OptionError(
                "frames and exclude-misaligned can be used only with a camera of SID or ELD, not with a table or a layout; leave them out"
            )
        if self.layout is not None:
            return replace(find_layout(self.root, self.layout), label=self.label)
        assert self.table is not None, "checked in the constructor"
        return replace(pairs_from_csv(self.table, root=self.root), label=self.label)

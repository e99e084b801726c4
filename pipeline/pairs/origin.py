"""Where a command's pairs come from: a camera's data set, or a table of the user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from darkprep.pipeline.pairs.cameras import CAMERAS, camera_named
from darkprep.pipeline.pairs.find import find_pairs
from darkprep.pipeline.pairs.pair_table import pairs_from_csv
from darkprep.pipeline.pairs.table import Frames, Pairs
from darkprep.shards.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class PairOrigin:
    """Where pairs come from. Raises OptionError naming the field."""

    root: Path
    """Directory of the photographs; of a table's, unless they are beside the table."""
    camera: str | None = None
    """Name of a camera's data set; with a table a label of the user's choice."""
    table: Path | None = None
    """A pair table."""

    def __post_init__(self) -> None:
        if self.camera is None and self.table is None:
            raise OptionError(f"camera must be one of {', '.join(CAMERAS)} where there is no table")

    @property
    def label(self) -> str:
        """The camera, or without one the name of the table."""
        if self.camera is not None:
            return self.camera
        assert self.table is not None, "one of both is given"
        return self.table.stem

    def find(self, *, frames: Frames = "first", exclude_misaligned: bool = False) -> Pairs:
        """Return the pairs; the arguments choose among a camera's. Raises OptionError or DatasetError."""
        if self.table is None:
            camera = camera_named(self.label)
            return find_pairs(
                self.root, camera, frames=frames, exclude_misaligned=exclude_misaligned
            )
        if frames != "first" or exclude_misaligned:
            raise OptionError(
                "frames and exclude-misaligned choose among a camera's files; a table states its pairs itself"
            )
        return replace(pairs_from_csv(self.table, root=self.root), label=self.label)

"""The sets of pairs of SID's Sony on which papers report figures.

Figures of different sets are not comparable, though they have the same name in many tables ("SID Sony test"). So
each set has a name that every output states, with the number of its pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from darkprep.pipeline.pairs.groups import ELD_SID_SCENES
from darkprep.pipeline.pairs.origin import PairOrigin
from darkprep.pipeline.pairs.table import Frames, Pairs
from darkprep.shards.errors import DatasetError, OptionError

_CAMERA = "sony"


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """A set of pairs on which papers report figures, with the options of an evaluation that select it."""

    name: str
    description: str
    """Which pairs they are, and who reports them."""
    count: int
    """Number of pairs in the complete data set."""
    split: str = "test"
    frames: Frames = "first"
    exclude_misaligned: bool = False
    scenes: frozenset[str] | None = None
    """Only these scenes; None for all."""

    def find(self, origin: PairOrigin) -> Pairs:
        """Return the pairs of the set that are there. Raises OptionError for another camera, DatasetError for none."""
        if not origin.is_data_set or origin.label != _CAMERA:
            raise OptionError(
                f"set {self.name} consists of pairs of the camera {_CAMERA}, not of {origin.label}; leave out --set, or choose --camera {_CAMERA}"
            )
        found = origin.find(frames=self.frames, exclude_misaligned=self.exclude_misaligned)
        found = found.of_split(self.split)
        if self.scenes is None:
            return found
        pairs = tuple(pair for pair in found.pairs if pair.scene in self.scenes)
        if not pairs:
            raise DatasetError(
                f"{found.root}: holds no pair of the set {self.name}; choose another --set, or the --root that holds its scenes"
            )
        return replace(found, pairs=pairs)


PAIR_SETS: dict[str, PairSet] = {
    one.name: one
    for one in (
        PairSet(
            name="sid-93",
            description="first frames of the test scenes (Chen et al., CVPR 2018)",
            count=93,
        ),
        PairSet(
            name="sid-88",
            description="first frames of the test scenes without the misaligned ones",
            count=88,
            exclude_misaligned=True,
        ),
        PairSet(
            name="sid-562",
            description="all frames of the test scenes without the misaligned ones",
            count=562,
            frames="all",
            exclude_misaligned=True,
        ),
        PairSet(
            name="eld-15",
            description="first frames of fifteen indoor scenes (Wei et al., CVPR 2020)",
            count=45,
            split="val+test",
            scenes=ELD_SID_SCENES,
        ),
    )
}


def pair_set_named(name: str) -> PairSet:
    """Return the set with this name. Raises OptionError for an unknown name and lists the known ones."""
    if name not in PAIR_SETS:
        raise OptionError(f"unknown set {name!r}; choose from {', '.join(PAIR_SETS)}")
    return PAIR_SETS[name]

"""What `pack` reads: the shards of a spool, checked to be complete and kept, and figures of their samples."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from darkprep.pipeline.pairs.table import SPLITS, Split, draw_splits
from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import read_recipe
from darkprep.shards import OptionError, SampleMeta, ShardDamaged, ShardFile, Spool, SpoolError
from darkprep.shards.machine import raise_machine_error

_FIGURES = ("ISO", "exposure ratio", "amplification", "black level", "white level")


@dataclass(frozen=True, kw_only=True)
class PackSource:
    """The shards of a spool that are packed, in ascending order."""

    spool: Spool
    options: PlanOptions
    scene_of: Mapping[str, str]
    """The scene of each pair of the plan, by the pair's id."""
    shards: tuple[int, ...]
    planned: int | None
    """Number of shards that the plan has for this spool; None for a plan without end."""

    @contextlib.contextmanager
    def shard(self, number: int) -> Iterator[ShardFile]:
        """Open a shard for reading with checksums, in a `with` block.

        Raises SpoolError if the shard, or what is read in that block, is damaged or missing, MachineError if memory,
        disk or network fail.
        """
        spool, path = self.spool, self.spool.shard_path(number)
        try:
            with contextlib.closing(
                ShardFile(path, spool.stream.layout(), number, spool.digest)
            ) as opened:
                yield opened
        except FileNotFoundError as error:
            raise SpoolError(
                f"{path}: was deleted while the spool was packed; stop the training run on this spool and start again"
            ) from error
        except ShardDamaged as error:
            if isinstance(error.__cause__, OSError):
                raise_machine_error(str(path), error.__cause__)
            raise SpoolError(
                f"{error}; remove this file and run `darkprep build` with this spool again, which rebuilds it"
            ) from error


def find_source(spool: Spool, *, incomplete: bool) -> PackSource:
    """Return the shards of an open spool that can be packed; with `incomplete` some may be missing.

    Raises PlanError for an invalid plan, OptionError for a plan without end, SpoolError if shards are missing
    or a training run deletes them.
    """
    options, pairs = read_recipe(spool)
    ready, end = set(spool.ready_shards()), spool.stream.shards
    wanted = None if end is None else spool.shards_in_part(0, end)
    shards = sorted(ready if wanted is None else ready.intersection(wanted))
    if not shards:
        raise SpoolError(
            f"{spool.path}: holds no finished shards; make them with `darkprep build`, and pack them before a training run deletes them"
        )
    if not incomplete:
        _check_complete(spool, len(shards), None if wanted is None else len(wanted))
    if spool.oldest_needed() and spool.has_trainer():
        raise SpoolError(
            f"{spool.path}: a training run is deleting used shards there; stop it, and continue it only after packing (next time, pack before training)"
        )
    return PackSource(
        spool=spool,
        options=options,
        scene_of={one.pair.id: one.pair.scene for one in pairs},
        shards=tuple(shards),
        planned=None if wanted is None else len(wanted),
    )


def _check_complete(spool: Spool, found: int, planned: int | None) -> None:
    """Raise OptionError or SpoolError, with the remedy, unless all shards of the plan are there."""
    anyway = f"or add --incomplete to pack the {found:,} shards that are there"
    if planned is None:
        raise OptionError(
            f"{spool.path}: its plan has no end; build another spool with --epochs N, {anyway}"
        )
    if found == planned:
        return
    if spool.oldest_needed():
        remedy = "a training run has deleted used shards; build another spool and pack it before training, or train with --keep-shards"
    elif spool.has_producer():
        remedy = "a producer is still making them; wait until it has ended"
    else:
        remedy = "run `darkprep build` with this spool again to make them, with a larger --disk-budget if it was full"
    raise SpoolError(
        f"{spool.path}: {planned - found:,} of {planned:,} shards are missing: {remedy}, {anyway}"
    )


@dataclass
class Span:
    """The smallest and the largest of some numbers."""

    smallest: float = float("inf")
    largest: float = float("-inf")

    def add(self, *values: float) -> None:
        """Take numbers into account."""
        self.smallest = min(self.smallest, *values)
        self.largest = max(self.largest, *values)

    def __str__(self) -> str:
        """Return `800` or `800 to 3200`."""
        ends = dict.fromkeys((f"{self.smallest:g}", f"{self.largest:g}"))
        return " to ".join(ends)


@dataclass
class CameraFigures:
    """The number of samples of a camera, and the spans of what their metadata state."""

    samples: int = 0
    spans: dict[str, Span] = field(default_factory=lambda: {name: Span() for name in _FIGURES})

    def add(self, meta: SampleMeta) -> None:
        """Take a sample into account."""
        self.samples += 1
        values = (
            (meta.iso,),
            (meta.ratio,),
            (meta.amplification,),
            (*meta.black, *meta.gt_black),
            (meta.white, *((meta.gt_white,) if meta.gt_black else ())),
        )
        for span, numbers in zip(self.spans.values(), values, strict=True):
            span.add(*numbers)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of all samples of a source, and the split of each pair."""

    samples_of: Mapping[str, int]
    """Number of samples by pair id."""
    cameras: Mapping[str, CameraFigures]
    split_of: Mapping[str, Split]
    """The split of each pair by its id; the pairs of a scene are in the same one."""
    scene_of: Mapping[str, str]

    def samples(self, split: Split) -> int:
        """Return the number of samples of a split."""
        return sum(self.samples_of[pair] for pair in self.pairs(split))

    def pairs(self, split: Split) -> list[str]:
        """Return the ids of the pairs of a split."""
        return [pair for pair, found in self.split_of.items() if found == split]

    def scenes(self, split: Split) -> int:
        """Return the number of scenes of a split."""
        return len({self.scene_of[pair] for pair in self.pairs(split)})

    @property
    def splits(self) -> list[Split]:
        """The splits that have samples: train, val, test."""
        return [split for split in SPLITS if self.pairs(split)]

    @property
    def total(self) -> int:
        """Number of all samples."""
        return sum(self.samples_of.values())


def survey(
    source: PackSource, *, val: float, test: float, on_shard: Callable[[int], None]
) -> Figures:
    """Read the metadata of all samples, and draw the splits; `on_shard` is called with the number of shards read.

    Raises the errors of `PackSource.shard`, and OptionError if the shares leave no scene for training.
    """
    samples_of: Counter[str] = Counter()
    cameras: dict[str, CameraFigures] = {}
    for count, number in enumerate(source.shards, 1):
        with source.shard(number) as opened:
            for meta in opened.metas:
                if meta.pair not in source.scene_of:
                    raise ShardDamaged(f"{opened.path}: names a pair that is not in the plan")
                samples_of[meta.pair] += 1
                cameras.setdefault(meta.camera, CameraFigures()).add(meta)
        on_shard(count)
    scene_of = {pair: source.scene_of[pair] for pair in samples_of}
    drawn = draw_splits(scene_of.values(), val=val, test=test) if val or test else {}
    return Figures(
        samples_of=samples_of,
        cameras=cameras,
        split_of={pair: drawn.get(scene, "train") for pair, scene in scene_of.items()},
        scene_of=scene_of,
    )

"""What a disk costs that is too small for the frames: long exposures developed whole, or only where crops are cut.

One worker makes real shards, turn by turn in both ways; its processor time is what counts. "Whole" is what every frame
cost before windows were developed alone, and what X-Trans frames still cost.

The trade-off: synthetic uncompressed DNG, which are cheaper to unpack than cameras' files.

    python bench/bench_small_disk.py            five minutes
    python bench/bench_small_disk.py --quick    seconds
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import harness
from bench_produce import phase, setup_making
from harness import Figures, Measure
from photographs import SIZES, plan_of, write_photographs

from darkprep.pipeline.raw.source import DevelopedCrops, RawFile
from darkprep.shards import Spool
from darkprep.shards.cfa import Site

FRAMES = {"12 MP, Sony α7S II": (8, SIZES["sony"]), "45 MP, Nikon D850": (4, (5520, 8288))}
"""Photographed scenes, and the size of the frames."""
SHARES = (0.1, 0.5)
"""Shares of the frames' bytes for which the disk has room."""
_QUICK = (3, (576, 576))
_QUICK_CROP = 96


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=1)
    parser.add_argument("--frames", action="append", choices=FRAMES, help="both by default")
    parser.add_argument("--share", action="append", type=float, help="0.1 and 0.5 by default")
    options = parser.parse_args()
    machine = harness.machine()
    print(harness.machine_lines(machine), "\n")
    rows = []
    with harness.workplace(options.dir) as place:
        for name in options.frames or FRAMES:
            scenes, size = _QUICK if options.quick else FRAMES[name]
            write_photographs(place / name, "sony", scenes, size)
            crop = _QUICK_CROP if options.quick else None
            rows += [
                {"frames": name, "share": share, **figures}
                for share in options.share or SHARES
                for figures in [measured(place, name, share, crop, options.rounds)]
            ]
    print(table_of(rows))
    harness.report({"machine": machine, "rows": rows}, options.json)


def measured(place: Path, name: str, share: float, crop: int | None, rounds: int) -> Figures:
    """The processor time of a sample, in milliseconds, with whole frames and with windows."""
    spool = Spool(place / f"{name} {share}")
    plan = plan_of(place / name, "sony", crop=crop)
    plan.save(spool)
    visits = plan.options.samples_per_shard // plan.options.crops_per_visit
    epoch = -(-len(plan.pairs) // visits)
    with phase(name, setup_ways, str(spool.path), share) as station:
        station.measure(first=0, count=epoch, whole=False)  # stores the frames that fit
        found: dict[bool, list[Figures]] = {True: [], False: []}
        for shard in range(epoch, (1 + rounds) * epoch):
            for whole, figures in found.items():
                figures.append(station.measure(first=shard, count=1, whole=whole))
    return {"whole": mean(found[True]), "alone": mean(found[False])}


def mean(found: Sequence[Figures]) -> float:
    """The mean processor time of a sample: shards differ in how many of their frames are stored."""
    return sum(one["cpu_ms"] for one in found) / len(found)


def setup_ways(path: str, share: float) -> Measure:
    """Shards as a producer's worker makes them, with whole long exposures or with windows of them."""
    make = setup_making(path, share)

    def measure(*, first: int, count: int, whole: bool) -> Figures:
        if not whole:
            return make(first=first, count=count)
        with mock.patch.object(RawFile, "develop_crops", crops_of_whole):
            return make(first=first, count=count)

    return measure


def crops_of_whole(
    source: RawFile, origins: Sequence[Site], size: int, *, linear: bool = False
) -> DevelopedCrops:
    """What `RawFile.develop_crops` returns, from a development of the whole frame."""
    whole = source.develop(linear=linear)
    crops = [whole[:, y : y + size, x : x + size] for y, x in origins]
    return DevelopedCrops(height=whole.shape[1], width=whole.shape[2], crops=crops)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """One row for each size of frames and share."""
    head = [
        "frames",
        "fit",
        "whole: CPU ms/sample",
        "windows: CPU ms/sample",
        "samples per CPU second",
        "times",
    ]
    return harness.table(
        head,
        [
            [
                row["frames"],
                f"{row['share']:.0%}",
                f"{row['whole']:,.1f}",
                f"{row['alone']:,.1f}",
                f"{1e3 / row['alone']:,.1f}",
                f"{row['whole'] / row['alone']:.1f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()

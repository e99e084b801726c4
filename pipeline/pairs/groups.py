"""Groups of pairs for which papers report mean scores."""

from __future__ import annotations

from darkprep.pipeline.pairs.cameras import dataset_of
from darkprep.pipeline.pairs.eld import light_factor
from darkprep.pipeline.pairs.sid import MISALIGNED_SCENES, is_misaligned
from darkprep.pipeline.pairs.table import Pair

ELD_SID_SCENES = frozenset(
    "10185 10187 10191 10193 10198 10213 10217 10226 10227 10228 "
    "20188 20201 20208 20210 20211".split()
)
"""SID's indoor scenes that ELD's authors report, of test and of val (their SID_Sony_15_paired.txt)."""


def report_groups(pair: Pair) -> tuple[str, ...]:
    """Return the names of the groups to which a pair belongs.

    SID: the exposure ratio; "without misaligned scenes", for cameras that have misaligned scenes; and the
    fifteen indoor scenes of the ELD paper by ratio. ELD: the light factor. Others: the exposure ratio.
    """
    factor = light_factor(pair) if dataset_of(pair.camera) == "ELD" else None
    if factor is not None:
        return (f"x{factor}",)
    ratio = f"x{round(pair.ratio)}"
    groups = [ratio]
    if pair.camera in MISALIGNED_SCENES and not is_misaligned(pair):
        groups.append("without misaligned scenes")
    if pair.camera == "sony" and pair.scene in ELD_SID_SCENES:
        groups.append(f"ELD's indoor scenes {ratio}")
    return tuple(groups)

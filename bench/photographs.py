"""RAW files to measure production with: full-size DNG in SID's layout, made in a second each.

The trade-off: gradients with noise, not scenes; decoding and developing cost the same for both, and
rendering scenes of this size would take longer than measuring. The DNG are uncompressed, so unpacking
is a lower bound for cameras that compress.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import cpu_count

from darkprep.pipeline.plan.options import PlanOptions
from darkprep.pipeline.plan.plan import Plan
from darkprep.pipeline.plan.planner import make_plan
from darkprep.pipeline.produce.budget import frame_array_bytes
from darkprep.pipeline.raw.dng import BAYER, DngTags, write_dng
from darkprep.shards.cfa import CANONICAL
from darkprep.shards.format import U16

SIZES = {"sony": (2848, 4256), "fuji": (4032, 6032)}
"""Of the two SID cameras, 12 and 24 megapixels."""
_FOLDERS = {"sony": "Sony", "fuji": "Fuji"}
_CFA = {"sony": BAYER["RGGB"], "fuji": CANONICAL["xtrans"]}
_SHORT_S, _LONG_S = 0.1, 10.0
_NEUTRAL = (0.5, 1.0, 0.625)
_BLACK, _WHITE = 512, 16383


def write_photographs(root: Path, camera: str, scenes: int, size: tuple[int, int]) -> None:
    """Scenes 1 .. `scenes`, one short and one long exposure each; written by a thread per core."""
    shine = gradient(size)
    with ThreadPoolExecutor(cpu_count()) as threads:
        write = functools.partial(_write_scene, root, camera, shine)
        list(threads.map(write, range(1, scenes + 1)))


def _write_scene(root: Path, camera: str, shine: U16, number: int) -> None:
    for kind, seconds in (("short", _SHORT_S), ("long", _LONG_S)):
        full = _WHITE if kind == "long" else _WHITE * _SHORT_S / _LONG_S
        codes = _BLACK + np.roll(shine, 97 * number, axis=1) * (full / _WHITE)
        path = root / _FOLDERS[camera] / kind / f"{number:05d}_00_{seconds:g}s.dng"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = DngTags(
            cfa=_CFA[camera],
            black=(_BLACK,),
            white=_WHITE,
            as_shot_neutral=_NEUTRAL,
            exposure_s=seconds,
        )
        write_dng(path, codes.astype(np.uint16), tags)


def gradient(size: tuple[int, int]) -> U16:
    """Codes above black of a bright frame: a gradient with noise of a tenth of the light."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 1200, (512, size[1]), dtype=np.uint16)
    noise = np.tile(tile, (-(-size[0] // 512), 1))[: size[0]]
    light = np.linspace(400, 13000, size[1])[None, :] * np.linspace(0.3, 1, size[0])[:, None]
    return np.asarray(light + noise, np.uint16)


def plan_of(root: Path, camera: str, *, crop: int | None = None, **options: int) -> Plan:
    """A plan without end over a root; the defaults of `darkprep build` otherwise."""
    return make_plan(root, PlanOptions(camera=camera, crop=crop, epochs=None, **options))  # type: ignore[arg-type]


def frame_bytes(plan: Plan) -> int:
    """Bytes of all frames of a plan once decoded."""
    longs = {pair.long_fingerprint: frame_array_bytes(pair, "long", plan) for pair in plan.pairs}
    shorts = {pair.short_fingerprint: frame_array_bytes(pair, "short", plan) for pair in plan.pairs}
    return sum(longs.values()) + sum(shorts.values())

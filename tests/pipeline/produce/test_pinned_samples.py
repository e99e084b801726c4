"""The named cameras give the same samples of the target `srgb` as in every version before."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.raw.dng import DngTags, write_dng
from darkprep.pipeline.raw.libraw import libraw_version
from darkprep.shards import Spool
from darkprep.synth.layouts import plan_eld_scene, plan_sid_scene
from darkprep.synth.sensors import SENSORS, Sensor
from tests.support.builds import make_shards, planned

LIBRAW = "0.22.2"
"""The version that developed the arrays below; another one may develop a photograph differently."""
PINNED = {
    "sony": "17b78bc76288267f0a1825d488ff1186870717d1936baa2a18b58560c11c40a2",
    "fuji": "40fe3c2f4c402714a09cb62f8a4efa481e9098b2d09200430f05aebb388f49d7",
    "sonya7s2": "cdb33066f9bbf5b846d88a769cbbd7f4f6817f52600366692f6a85ae9bc69254",
    "nikond850": "45cc49a48b50a6ed7faa06a2c005485b3841568f81e49a98e14e7cf7331585ac",
    "canon70d": "2e084dc2ee2d17c0fc3b47c86488425870fdb0685b6acc8b7ae8d55fb641a8c6",
    "canon700d": "54c3ceb0193a87bace5674a07696d03ab420e7d2d25c87b670fac4873ed91809",
    "canon5d4": "0ef91b547dd2622d9a6c4d0ffc709e663cdd0fd5efb4273964f18665d41cda10",
}
"""SHA-256 of the arrays `low` and `gt` of the first shard of a small plan, in order."""


@pytest.mark.skipif(libraw_version() != LIBRAW, reason=f"pinned for LibRaw {LIBRAW}")
@pytest.mark.parametrize("camera", PINNED)
def test_a_named_camera_gives_the_samples_of_the_versions_before(camera: str, tmp_path: Path):
    sensor = SENSORS[camera]
    write_photographs(tmp_path / "data", sensor)
    is_sid = sensor.layout.dataset == "SID"
    spool = planned(
        tmp_path / "spool",
        tmp_path / "data",
        camera=camera,
        split="train" if is_sid else "test",
        crop=48,
        margin=12,
        frames="all",
    )

    make_shards(spool, [0], stored=False)

    assert arrays_sha256(spool) == PINNED[camera]


def write_photographs(root: Path, sensor: Sensor) -> None:
    """One scene: of SID a short exposure and a long one, of ELD sixteen images."""
    size = (516, 516) if sensor.period == 6 else (96, 128)
    if sensor.layout.dataset == "SID":
        plan = plan_sid_scene(sensor, 0, scenes=1, shorts=1, seed=0, size=size, isos=[200])
    else:
        plan = plan_eld_scene(sensor, 0, seed=0, size=size)
    y, x = np.indices(size)
    light = (x * 131 + y * y * 7) % 1021  # whole numbers, so that no library's rounding matters
    for exposure in plan.exposures:
        codes = sensor.black + light * (sensor.white - sensor.black) // 1021 // round(
            exposure.ratio
        )
        path = root / exposure.path
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = DngTags(
            cfa=sensor.cfa,
            black=(float(sensor.black),),
            white=sensor.white,
            color_matrix=tuple(sensor.matrix.ravel().tolist()),
            make=sensor.make,
            model=sensor.model,
            exposure_s=exposure.exposure_s,
            iso=exposure.iso,
        )
        write_dng(path, codes.astype(np.uint16), tags)


def arrays_sha256(spool: Spool) -> str:
    digest = hashlib.sha256()
    with tarfile.open(spool.shard_path(0)) as shard:
        for member in shard:
            if member.name.endswith(".npy"):
                file = shard.extractfile(member)
                assert file is not None
                digest.update(member.name.encode() + file.read())
    return digest.hexdigest()

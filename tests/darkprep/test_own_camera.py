"""The README's `Your own camera in five minutes`, on photographs of cameras that no table names."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from darkprep.shards import Sample, Spool
from darkprep.shards.shard_file import ShardFile
from darkprep.synth.dataset import synthesise
from tests.support.command_line import Call

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("DARKPREP_REAL_RAW", ROOT.parent / "shared/raw"))
SMALL = {
    "build": "--crop 192 --samples-per-shard 4 --crops-per-visit 2 --window 2 --jobs 1 --quiet",
    "stream-train": "--iterations 3 --batch-size 2 --device cpu --model redirt-2rdb --producers 0 --evaluate-every 0 --quiet",
    "evaluate": "--device cpu --json",
}
"""Options that make the README's commands small."""

pytestmark = pytest.mark.usefixtures("empty_directory")


def readme_commands() -> list[list[str]]:
    """The calls of darkprep in the README's section."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## Your own camera in five minutes.*?```bash\n(.*?)```", text, re.DOTALL)
    assert block is not None
    calls = [shlex.split(line)[1:] for line in block[1].splitlines()]
    return [[*call, *shlex.split(SMALL.get(call[0], ""))] for call in calls]


def scenes_of(photographs: dict[str, tuple[Path, Path]]) -> None:
    """Copy a short and a long exposure of each scene to ./mine, under the scene's name."""
    for name, paths in photographs.items():
        for kind, path in zip(("short", "long"), paths, strict=True):
            target = Path("mine", kind, f"{name}{path.suffix}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def run_readme(call: Call) -> tuple[dict[str, object], Sample]:
    """Run the section's commands; the figures that the last one prints, and a sample of the spool."""
    for words in readme_commands():
        result = call(*words)
        assert result.exit_code == 0, result.output
        if words[0] == "build":
            sample = first_sample()
            assert call("verify", "--spool", "mine/spool").exit_code == 0
    return json.loads(result.stdout), sample


def first_sample() -> Sample:
    spool = Spool("mine/spool").open()
    shard = spool.ready_shards()[0]
    opened = ShardFile(spool.shard_path(shard), spool.stream.layout(), shard, spool.digest)
    low, gt = (
        np.empty(shape, np.uint16)
        for shape in (spool.stream.layout().low_shape, spool.stream.layout().gt_shape)
    )
    opened.read(0, low, gt)
    opened.close()
    return Sample(low, gt, opened.metas[0])


def best_shift(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The shift of up to two pixels at which two pictures correlate most."""
    inner = (slice(2, -2), slice(2, -2))

    def correlation(shift: tuple[int, int]) -> float:
        moved = np.roll(other, shift, axis=(0, 1))[inner]
        return float(np.corrcoef(one[inner].ravel(), moved.ravel())[0, 1])

    return max(((y, x) for y in range(-2, 3) for x in range(-2, 3)), key=correlation)


def assert_aligned(sample: Sample) -> None:
    """The greens of the planes and of the truth lie upon each other."""
    greens = sample.low[1:3].mean(axis=0)
    truth = sample.gt[1].astype(np.float64)
    cells = truth.reshape(truth.shape[0] // 2, 2, truth.shape[1] // 2, 2).mean(axis=(1, 3))
    assert best_shift(greens, np.sqrt(cells)) == (0, 0)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no directory of real RAW files (DARKPREP_REAL_RAW)")
@pytest.mark.parametrize(
    ("name", "camera", "black", "white"),
    [
        ("nikon_d1.NEF", "NIKON D1", [0, 0, 0, 0], 4095),
        ("canon_s30.CRW", "Canon PowerShot S30", [31, 31, 31, 31], 1023),
    ],
)
def test_renamed_files_of_real_cameras(call: Call, name: str, camera: str, black, white: int):
    scenes_of({scene: (REAL / name, REAL / name) for scene in ("park", "street")})

    found, sample = run_readme(call)

    assert (found["camera"], found["pairs"]) == (camera, 1)
    assert (sample.meta.camera, sample.meta.cfa) == (camera, "bayer")
    assert ([int(level) for level in sample.meta.black], sample.meta.white) == (black, white)
    assert_aligned(sample)


@pytest.mark.slow
def test_renamed_synthetic_files(
    call: Call, tmp_path_factory: pytest.TempPathFactory, complaint: Callable[..., str]
):
    made = tmp_path_factory.mktemp("synthetic")
    synthesise(made, "sony", scenes=2, shorts=1, size=(256, 320), seed=0, jobs=1)
    shorts, longs = (sorted((made / "Sony" / kind).iterdir()) for kind in ("short", "long"))
    pairs = zip(shorts, longs, strict=True)
    scenes_of({f"DSC_{number}": files for number, files in enumerate(pairs)})

    found, sample = run_readme(call)

    assert found["pairs"] == 1
    assert sample.meta.ratio >= 100
    assert_aligned(sample)
    shutil.rmtree("mine/long")
    assert "holds no pairs in the layout short-long" in complaint(*readme_commands()[0])

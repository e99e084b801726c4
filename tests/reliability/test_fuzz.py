"""The fuzz targets keep working: a few hundred fixed inputs each, and the ones that once broke something."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz.raw import mutated, try_file

INPUTS = 300

FOUND = {
    "shard": (),
    "state": (
        b"\n" + b"\xa4" * 16,  # a heartbeat whose count is null broke `status`
        b"\n,db8\xb8715f5dcbqq\xff\xff\xff\xff\n9\x9b684\x115 "
        + bytes(7)
        + b"\xff" * 6,  # no pairs
    ),
    "frame": (b";\x8c\0\0\0\0\0)\0\0\x8c\x8c\x04",),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", FOUND)
def test_no_input_breaks_a_parser(target: str):
    try_input = importlib.import_module(f"fuzz.{target}").try_input
    rng = random.Random(1)

    for data in FOUND[target]:
        try_input(data)
    for _ in range(INPUTS):
        try_input(rng.randbytes(rng.randrange(120)))


def test_a_mutated_raw_file_is_decoded_or_refused_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """These are known to leave LibRaw alive; `python -m fuzz.raw` tries new ones in processes of their own."""
    told: Counter[str] = Counter()
    for number in range(120):
        path = tmp_path / "frame.dng"
        path.write_bytes(mutated(number))
        told[try_file(path)] += 1

    assert told.keys() == {"decoded", "refused"}, told
    assert told["refused"] > 30

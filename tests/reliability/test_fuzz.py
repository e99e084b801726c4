"""The fuzz targets keep working: a few hundred fixed inputs each, and the ones that once broke something."""

from __future__ import annotations

import importlib
import random

import pytest

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

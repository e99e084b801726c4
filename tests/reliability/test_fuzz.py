"""The fuzz targets work: a few hundred fixed inputs each, and the ones that once broke something."""

from __future__ import annotations

import importlib
import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz.raw import mutated, try_file
from fuzz.tally import ENOUGH, Tally

INPUTS = 300
FEWER = {"checkpoint": 100}
"""Of targets whose inputs take many milliseconds each."""

FOUND = {
    "shard": (),
    "state": (
        b"\x0c\xd8\xd1t\xc0\xe9\xf2q>\xa6M\x07e\x0f\t\xe2l",  # a heartbeat whose count is null
        b"5\x92\xed\xff\x93]@n\x8f\xdbr\xa3I\x80\xbed\xbd\xcd",  # a plan without pairs
    ),
    "frame": (
        b"\x03\xa3\xc3{\x18\x94\xdf8\xfc\x07\xd3\xa3/k\xa1\xed",  # facts that are null
        b"t\xddv\x87\xb6{\x08\x0c\xd4\x91\xcc\x12\xf5\xb3r\x04\xa74\xfa\x81qK.\x86@,T\x89\x9e\x12#\x90?-)\x04",
        # a shape of 10**30
    ),
    "checkpoint": (),
    "weights": (),
    "calibration": (
        # a map whose header numpy's parser cannot read
        b"\xffP\x15YbKLbe\xb2\xda\x83\xfcdp\xd8;60*\xed0R\x8bGy\xda\xbay+\x8b\xfel\xe2k\n\xd7C0\x86\xa0M1\xfb_\x92$\x17\x9ff\xd5",
    ),
    "pairs": (),
    "patches": (),
    "headers": (),
}
"""Inputs that once broke a parser."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", FOUND)
def test_no_input_breaks_a_parser(target: str):
    """Each part of a target accepts some inputs: else only the first check of its parser is tested."""
    if target == "patches":
        pytest.importorskip("lmdb")
    module = importlib.import_module(f"fuzz.{target}")
    tally = Tally(module.PARTS)
    rng = random.Random(1)

    for data in FOUND[target]:
        module.try_input(data)
    for _ in range(FEWER.get(target, INPUTS)):
        tally.add(*module.try_input(rng.randbytes(rng.randrange(120))))

    assert not tally.blind(), tally.lines()


def test_a_part_that_accepts_nothing_fails():
    tally = Tally(["plan", "cursor"])
    for _ in range(ENOUGH - 1):
        tally.add("plan", False)
    tally.add("cursor", True)

    assert tally.blind() == ["plan"]
    with pytest.raises(AssertionError, match="plan: none of"):
        tally.add("plan", False)


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

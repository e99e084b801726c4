"""What torchrun's variables may say; the ranks themselves are tested in tests/distributed."""

from __future__ import annotations

import pytest

from darkprep.shards import OptionError
from darkprep.trainer.distributed import SingleProcess, communicator_from

TWO = {"RANK": "0", "WORLD_SIZE": "2"}


def test_without_torchrun_a_training_is_alone():
    assert isinstance(communicator_from({}), SingleProcess)
    assert isinstance(communicator_from({"RANK": "0", "WORLD_SIZE": "1"}), SingleProcess)


@pytest.mark.parametrize("patience_s", [0, -1, 1e7, float("inf"), float("nan")])
def test_a_patience_that_no_clock_can_keep_is_refused(patience_s):
    with pytest.raises(OptionError, match="rank-timeout must be positive and at most 1,000,000"):
        communicator_from(TWO, patience_s)


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "one"}, {"LOCAL_RANK": "3"}])
def test_ranks_that_make_no_sense_are_refused(wrong):
    with pytest.raises(OptionError, match=r"makes no sense|must be numbers"):
        communicator_from(TWO | wrong)

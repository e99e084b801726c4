"""The variables of torchrun; the ranks themselves are tested in tests/distributed."""

from __future__ import annotations

import pytest

from darkprep.shards import OptionError
from darkprep.trainer.communicator import SingleProcess
from darkprep.trainer.distributed import communicator_from

TWO = {"RANK": "0", "WORLD_SIZE": "2"}


def test_without_torchrun_a_training_is_a_single_process():
    assert isinstance(communicator_from({}), SingleProcess)
    assert isinstance(communicator_from({"RANK": "0", "WORLD_SIZE": "1"}), SingleProcess)


@pytest.mark.parametrize("timeout_s", [0, -1, 1e7, float("inf"), float("nan")])
def test_an_invalid_timeout_is_refused(timeout_s):
    with pytest.raises(OptionError, match="rank-timeout must be positive and at most 1,000,000"):
        communicator_from(TWO, timeout_s)


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "one"}, {"LOCAL_RANK": "3"}])
def test_invalid_ranks_are_refused(wrong):
    with pytest.raises(OptionError, match=r"is invalid|must be numbers"):
        communicator_from(TWO | wrong)

"""Producers, workers and a consumer are killed at random moments, and the stream is what it would have been."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.storm import DISTURBANCES, Outcome, Storm


def check(outcome: Outcome) -> None:
    assert not outcome.faults
    assert not outcome.leftovers
    assert outcome.digest == outcome.undisturbed, f"after {outcome.batches} batches"
    assert outcome.peak_bytes <= outcome.budget_bytes
    assert outcome.peak_payload_bytes <= outcome.payload_bytes, outcome.heaviest
    assert outcome.is_good


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 10])
def test_a_short_storm_changes_nothing(kills: int, tmp_path: Path):
    outcome = Storm(tmp_path, kills=kills, seed=1, pause_s=(0.0, 0.5)).run()

    assert sum(outcome.kills.values()) == kills
    check(outcome)


@pytest.mark.slow
def test_a_storm_of_all_kinds_of_faults_changes_nothing(tmp_path: Path):
    """Kills, errors of disk and limits, signals, a forked bystander, deleted directories, a slow clock."""
    outcome = Storm(tmp_path, faults=len(DISTURBANCES), seed=1, pause_s=(0.0, 0.5)).run()

    assert sum(outcome.kills.values()) == len(DISTURBANCES)
    check(outcome)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [11, 12])
def test_a_long_storm_changes_nothing(seed: int, tmp_path: Path):
    outcome = Storm(tmp_path, kills=120, seed=seed).run()

    assert min(outcome.kills.values()) >= 20
    check(outcome)

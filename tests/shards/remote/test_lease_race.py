"""Two producers race for one bucket while holders are killed and stalled: never two at work, the budget is kept."""

from __future__ import annotations

import logging

import pytest

from tests.support.lease_race import Race

log = logging.getLogger(__name__)


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize(
    "rounds", [pytest.param(2, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.soak)]
)
def test_never_two_producers_at_work_while_holders_are_killed_and_stalled(
    server, url, tmp_path, rounds
):
    race = Race(server, url, tmp_path, seed=rounds)

    with race.running():
        race.wait_for_progress()
        for _ in range(rounds):
            race.disturb()

    overlaps = race.overlaps()
    log.info("%s", race.figures())
    assert overlaps == []
    assert race.holders > rounds / 4
    assert race.used >= rounds
    assert 0 < race.heaviest <= race.shards_bytes

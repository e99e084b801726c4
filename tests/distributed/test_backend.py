"""Which engine makes the shards, and what is said when it cannot."""

from __future__ import annotations

import importlib.util
from concurrent.futures import Future

import pytest

from darkprep.pipeline.produce.executors.backend import LOCAL, Backend
from darkprep.pipeline.produce.executors.cluster import _check_versions, _translated, _versions
from darkprep.pipeline.produce.executors.loky import LokyPool, WorkerDied
from darkprep.shards import DiskFull, OptionError
from darkprep.shards.plan_record import ProducerSettings


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_an_engine_that_is_not_installed_names_its_extra(backend, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(OptionError, match=rf"pip install 'darkprep\[{backend}\]'"):
        Backend(backend=backend).pool(1)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match="loky, dask, ray, not 'slurm'"):
        Backend(backend="slurm")


def test_an_address_needs_a_cluster():
    with pytest.raises(OptionError, match="address goes with"):
        Backend(address="host:1")


def test_a_spool_remembers_its_engine():
    engine = Backend(backend="dask", address="tcp://host:8786")

    settings = ProducerSettings(backend=engine.backend, address=engine.address)
    record = settings.to_json()
    assert record == {"backend": "dask", "address": "tcp://host:8786"}
    assert Backend.of_settings(ProducerSettings.from_json(record, "plan.json")) == engine
    assert ProducerSettings(backend=LOCAL.backend).to_json() == {}
    assert Backend.of_settings(ProducerSettings()) == LOCAL
    assert isinstance(LOCAL.pool(1), LokyPool)


def test_a_worker_of_another_version_is_named():
    theirs = _versions() | {"rawpy": "0.1"}

    with pytest.raises(OptionError, match=r"worker tcp://b has rawpy 0\.1, not .* would differ"):
        _check_versions({"tcp://a": _versions(), "tcp://b": theirs})


class KilledWorker(Exception):
    """Named as dask's."""


def test_an_engines_words_for_a_dead_worker_become_ours():
    futures: list[Future[int]] = [Future() for _ in range(4)]
    died, called_back, failed, made = futures
    died.set_exception(KilledWorker("task"))
    called_back.cancel()
    called_back.set_running_or_notify_cancel()
    failed.set_exception(DiskFull("full"))
    made.set_result(7)

    for future in (died, called_back):
        with pytest.raises(WorkerDied):
            _translated(future).result(0)
    with pytest.raises(DiskFull):
        _translated(failed).result(0)
    assert _translated(made).result(0) == 7

"""Which executor runs the workers, and the errors when it cannot."""

from __future__ import annotations

import importlib.util
from concurrent.futures import Future

import pytest

from darkprep.pipeline.produce.executors.cluster import (
    check_versions,
    package_versions,
    translate_errors,
)
from darkprep.pipeline.produce.executors.config import LOCAL, ExecutorConfig
from darkprep.pipeline.produce.executors.loky import LokyPool
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.shards import DiskFull, OptionError
from darkprep.shards.plan_record import ProducerSettings


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_backend_that_is_not_installed_names_its_extra(backend, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(OptionError, match=rf"pip install 'darkprep\[{backend}\]'"):
        ExecutorConfig(backend=backend).create_pool(1)


def test_an_unknown_backend_is_rejected_with_the_known_ones():
    with pytest.raises(OptionError, match="loky, dask, ray, not 'slurm'"):
        ExecutorConfig(backend="slurm")


def test_an_address_needs_a_cluster():
    with pytest.raises(OptionError, match="address can be used only with --backend dask or ray"):
        ExecutorConfig(address="host:1")


def test_the_executor_survives_its_record():
    executor = ExecutorConfig(backend="dask", address="tcp://host:8786")

    settings = ProducerSettings(backend=executor.backend, address=executor.address)
    record = settings.to_json()
    assert record == {"backend": "dask", "address": "tcp://host:8786"}
    assert ExecutorConfig.from_settings(ProducerSettings.from_json(record, "plan.json")) == executor
    assert ProducerSettings(backend=LOCAL.backend).to_json() == {}
    assert ExecutorConfig.from_settings(ProducerSettings()) == LOCAL
    assert isinstance(LOCAL.create_pool(1), LokyPool)


def test_a_worker_of_another_version_is_named():
    theirs = package_versions() | {"rawpy": "0.1"}

    with pytest.raises(OptionError, match=r"worker tcp://b has rawpy 0\.1, not .* would differ"):
        check_versions({"tcp://a": package_versions(), "tcp://b": theirs})


class KilledWorker(Exception):
    """Named as dask's."""


def test_a_clusters_errors_for_a_dead_worker_are_translated():
    futures: list[Future[int]] = [Future() for _ in range(4)]
    died, cancelled, failed, made = futures
    died.set_exception(KilledWorker("task"))
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    failed.set_exception(DiskFull("full"))
    made.set_result(7)

    for future in (died, cancelled):
        with pytest.raises(WorkerDied):
            translate_errors(future).result(0)
    with pytest.raises(DiskFull):
        translate_errors(failed).result(0)
    assert translate_errors(made).result(0) == 7

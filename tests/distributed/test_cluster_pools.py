"""The pools of dask and ray with libraries that run each task at once; `test_clusters.py` starts real clusters."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from darkprep.pipeline.produce.executors.cluster import package_versions, query_workers
from darkprep.pipeline.produce.executors.config import ExecutorConfig
from darkprep.pipeline.produce.executors.dask import DaskPool
from darkprep.pipeline.produce.executors.pool import WorkerDied
from darkprep.pipeline.produce.executors.ray import RayPool
from darkprep.shards import OptionError


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


class FakeLibrary(types.ModuleType):
    """What `distributed` and `ray` have in common here: they count what is open, and fail with `error`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.error: Exception | None = None
        self.versions = package_versions()
        self.opened: list[str] = []
        self.cancelled: list[Any] = []

    @contextlib.contextmanager
    def open(self, what: str) -> Iterator[str]:
        if self.error:
            raise self.error
        self.opened.append(what)
        yield what
        self.opened.remove(what)


def fake_dask() -> FakeLibrary:
    library = FakeLibrary("distributed")

    class Executor:
        def submit(self, run: Callable[..., Any], *arguments: Any) -> Future[Any]:
            if library.error:
                raise library.error
            return done(run(*arguments))

        def shutdown(self, *, wait: bool) -> None:
            library.cancelled.append(wait)

    class Client(contextlib.ExitStack):
        def __init__(self, address: str, timeout: float) -> None:
            super().__init__()
            self.enter_context(library.open(f"client of {address}"))

        def wait_for_workers(self, count: int, timeout: float) -> None:
            assert count == 1

        def run(self, function: Callable[[], Any]) -> dict[str, Any]:
            assert function is package_versions
            return {"worker 1": library.versions}

        def get_executor(self, **settings: Any) -> Executor:
            assert settings == {"pure": False, "retries": 0}, "each task runs, and once"
            return Executor()

    library.Client = Client  # type: ignore[attr-defined]
    library.LocalCluster = lambda n_workers, **settings: library.open(  # type: ignore[attr-defined]
        f"{n_workers} processes"
    )
    return library


def fake_ray() -> FakeLibrary:
    library, resources = FakeLibrary("ray"), contextlib.ExitStack()

    class Reference:
        def __init__(self, result: Any) -> None:
            self.result = result

        def future(self) -> Future[Any]:
            if self.result == "endless":
                return Future()
            return done(self.result)

    def remote(*functions: Callable[..., Any], **settings: Any) -> Any:
        def wrap(function: Callable[..., Any]) -> Any:
            return types.SimpleNamespace(remote=lambda *given: Reference(function(*given)))

        return wrap(*functions) if functions else wrap

    def init(address: str, **settings: Any) -> None:
        where = (
            f"{settings['num_cpus']} processes" if address == "local" else f"client of {address}"
        )
        resources.enter_context(library.open(where))

    for own in (remote, init):
        setattr(library, own.__name__, own)
    library.get = lambda reference: library.versions  # type: ignore[attr-defined]
    library.cancel = lambda reference, force: library.cancelled.append(force)  # type: ignore[attr-defined]
    library.shutdown = resources.close  # type: ignore[attr-defined]
    return library


POOLS = {"dask": DaskPool, "ray": RayPool}


@pytest.fixture(params=POOLS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    found = {"dask": fake_dask, "ray": fake_ray}[request.param]()
    monkeypatch.setitem(sys.modules, found.__name__, found)
    return found


def pool_of(library: FakeLibrary, address: str | None = None) -> Any:
    return POOLS["ray" if library.__name__ == "ray" else "dask"](3, address)


@pytest.mark.parametrize("address", [None, "auto"])
def test_tasks_run_and_everything_that_was_opened_is_closed(library: FakeLibrary, address):
    pool = pool_of(library, address)

    assert [pool.submit(abs, number).result(0) for number in (-1, -2)] == [1, 2]
    assert set(library.opened) >= {f"client of {address}" if address else "3 processes"}
    pool.close()
    pool.close()

    assert not library.opened


def test_a_task_that_runs_is_cancelled(library: FakeLibrary):
    pool = pool_of(library)
    pool.submit(str, "endless")

    pool.close()

    assert len(library.cancelled) == 1


def test_a_cluster_that_does_not_answer_is_one_line(library: FakeLibrary):
    library.error = ConnectionError("refused\nand more")

    with pytest.raises(OptionError, match=r"started on this machine: no .* \(refused\)"):
        pool_of(library).submit(abs, 1)


def test_workers_with_other_versions_make_nothing(library: FakeLibrary):
    library.versions = library.versions | {"numpy": "1.0"}
    pool = pool_of(library)

    with pytest.raises(OptionError, match=r"has numpy 1\.0, not .*so its shards would differ"):
        pool.submit(abs, 1)
    pool.close()


def test_a_scheduler_that_ends_is_a_worker_that_died(monkeypatch: pytest.MonkeyPatch):
    library = fake_dask()
    monkeypatch.setitem(sys.modules, "distributed", library)
    pool = DaskPool(1, None)
    pool.submit(abs, 1)

    library.error = RuntimeError("cannot schedule new futures")
    with pytest.raises(WorkerDied, match=r"the dask scheduler has ended .*start it and run the"):
        pool.submit(abs, 1)
    pool.close()
    assert not library.opened


def test_an_address_at_which_nothing_listens_is_found_before_ray_retries_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "ray", fake_ray())

    with pytest.raises(OptionError, match=r"address 127.0.0.1:1: no ray cluster answers"):
        RayPool(1, "127.0.0.1:1").submit(abs, 1)


@pytest.mark.parametrize(("backend", "pool"), POOLS.items())
def test_a_backend_has_its_pool(monkeypatch: pytest.MonkeyPatch, backend: str, pool: type):
    monkeypatch.setattr(ExecutorConfig, "check_installed", lambda self: None)

    assert isinstance(ExecutorConfig(backend=backend, address="host:1").create_pool(2), pool)


def test_a_worker_without_darkprep_is_named_and_an_error_of_the_network_is_not_hidden():
    def fail(error: Exception) -> Callable[[], None]:
        def query() -> None:
            raise error

        return query

    with pytest.raises(OptionError, match=r"a worker cannot run darkprep \(No module named 'd'\)"):
        query_workers(fail(ModuleNotFoundError("No module named 'd'")))
    with pytest.raises(ConnectionResetError):
        query_workers(fail(ConnectionResetError("reset")))

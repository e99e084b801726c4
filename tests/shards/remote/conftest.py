"""A real S3 server, in a process of its own on loopback, and a proxy before it that makes the weather."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from darkprep.shards import Spool
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.object_store import ObjectStore
from darkprep.shards.remote.url import StoreUrl
from tests.support.fake_store import FakeStore
from tests.support.s3_server import SECRETS, Server, quick_store, running_server
from tests.support.weather import Weather, weather_before


@pytest.fixture(autouse=True)
def _in_an_empty_directory(empty_directory: None) -> None:
    pass


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("moto", reason="pip install 'darkprep[test]'")
    pytest.importorskip("obstore", reason="pip install 'darkprep[remote]'")
    with running_server(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def weather(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Weather]:
    """The weather between everything under test and the server; credentials that must never be seen."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with weather_before(host, int(port)) as (url, weather):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield weather


@pytest.fixture
def url(server: Server, weather: Weather) -> StoreUrl:
    """A prefix in a bucket of its own."""
    return StoreUrl("s3", server.bucket(), "runs/one")


@pytest.fixture
def store(url: StoreUrl) -> ObjectStore:
    """The prefix, with little patience."""
    return quick_store(url)


@pytest.fixture
def bucket(url: StoreUrl, store: ObjectStore) -> Bucket:
    return Bucket(store, str(url))


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture
def publish(server: Server, url: StoreUrl, bucket: Bucket) -> Callable[[Path], None]:
    """Puts a finished spool of a directory into the bucket, as a build would have."""

    def put(path: Path) -> None:
        spool = Spool(path).open()
        settings = replace(spool.settings, budget_bytes=60_000_000, staging_bytes=15_000_000)
        bucket.publish(replace(spool.plan, settings=settings))
        for shard in spool.ready_shards():
            file = spool.shard_path(shard)
            server.put(url, f"ready/{file.name}", file.read_bytes())

    return put


@pytest.fixture
def small_there(_small_spool: Path, publish: Callable[[Path], None]) -> Path:
    """The finished plan of three small shards is in the bucket; the directory that it is from."""
    publish(_small_spool)
    return _small_spool


@pytest.fixture
def large_there(_large_spool: Path, publish: Callable[[Path], None]) -> Path:
    """The finished plan of two shards of four samples is in the bucket."""
    publish(_large_spool)
    return _large_spool

"""A real S3 server, in a process of its own on loopback, and a proxy before it that makes the weather."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from darkprep.shards import Spool
from darkprep.shards.plan_record import plan_record
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.object_store import (
    Check,
    FsspecStore,
    RetryPolicy,
    StoreUrl,
    open_store,
)
from tests.darkprep.conftest import (  # noqa: F401 # fixtures
    _large_spool,
    _small_spool,
    alone,
    call,
    complaint,
    large_data,
    small_data,
    small_spool,
    start,
)
from tests.support.weather import Weather, weather_before

PATIENT_S = 60
QUICK = RetryPolicy(tries=6, first_s=0.01, most_s=0.05)

SECRETS = ("AKIATESTKEYID", "verySecretAccessKey")


class Server:
    """The S3 server: seen from behind, past the proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        boto3 = importlib.import_module("boto3")
        self._client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self._buckets = 0

    def bucket(self) -> str:
        """A fresh bucket."""
        self._buckets += 1
        name = f"test-{os.getpid()}-{self._buckets}"
        self._client.create_bucket(Bucket=name)
        return name

    def sizes(self, url: StoreUrl) -> dict[str, int]:
        """All objects below a URL, names without its prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=url.bucket, Prefix=f"{url.prefix}/"
        )
        found = [one for page in pages for one in page.get("Contents", [])]
        return {one["Key"][len(url.prefix) + 1 :]: one["Size"] for one in found}

    def ready(self, url: StoreUrl) -> list[str]:
        return sorted(name for name in self.sizes(url) if name.startswith("ready/"))

    def get(self, url: StoreUrl, name: str) -> bytes:
        answer = self._client.get_object(Bucket=url.bucket, Key=f"{url.prefix}/{name}")
        data: bytes = answer["Body"].read()
        return data

    def put(self, url: StoreUrl, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=url.bucket, Key=f"{url.prefix}/{name}", Body=data)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("moto", reason="pip install 'darkprep[test]'")
    pytest.importorskip("s3fs", reason="pip install 'darkprep[s3]'")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path_factory.mktemp("moto"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url)
        yield Server(url)
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)
        else:
            return


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
def store(url: StoreUrl) -> FsspecStore:
    """The prefix, with little patience."""
    return quick_store(url)


def quick_store(url: StoreUrl, **changes: Any) -> FsspecStore:
    patient = open_store(url)
    return FsspecStore(
        patient._fs, f"{url.bucket}/{url.prefix}", str(url), patience=QUICK, **changes
    )


@pytest.fixture
def bucket(url: StoreUrl, store: FsspecStore) -> Bucket:
    return Bucket(store, str(url))


class FakeStore:
    """An ObjectStore in this process's memory, whose listings may be late."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.listing: dict[str, bytes] | None = None
        """What listings show, instead of what is there."""
        self.puts: list[str] = []

    def __str__(self) -> str:
        return "memory://"

    def sizes(self, folder: str) -> dict[str, int]:
        shown = self.objects if self.listing is None else self.listing
        head = f"{folder}/"
        return {n[len(head) :]: len(d) for n, d in list(shown.items()) if n.startswith(head)}

    def size(self, name: str) -> int | None:
        data = self.objects.get(name)
        return None if data is None else len(data)

    def read(self, name: str, limit: int) -> bytes | None:
        data = self.objects.get(name)
        return data if data and len(data) <= limit else None

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        if check:
            check()
        self.puts.append(name)
        self.objects[name] = data

    def create(self, name: str, data: bytes) -> bool:
        if name in self.objects:
            return False
        self.write(name, data)
        return True

    def upload(self, name: str, path: Path, *, check: Check | None = None) -> None:
        self.write(name, path.read_bytes(), check=check)

    def download(self, name: str, path: Path, size: int) -> bool:
        data = self.objects.get(name)
        if data is None or len(data) < size:
            return False
        path.write_bytes(data[:size])
        return True

    def delete(self, name: str, *, check: Check | None = None) -> None:
        if check:
            check()
        self.objects.pop(name, None)


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


def wait_until(true: Any, seconds: float = PATIENT_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


@pytest.fixture
def publish(server: Server, url: StoreUrl, bucket: Bucket) -> Callable[[Path], None]:
    """Puts a finished spool of a directory into the bucket, as a build would have."""

    def put(path: Path) -> None:
        spool = Spool(path).open()
        place = {**spool.place, "budget_bytes": 60_000_000, "staging_bytes": 15_000_000}
        bucket.publish(plan_record(spool.stream, spool.recipe, place))
        for shard in spool.ready_shards():
            file = spool.shard_path(shard)
            server.put(url, f"ready/{file.name}", file.read_bytes())

    return put


@pytest.fixture
def small_there(_small_spool: Path, publish: Callable[[Path], None]) -> Path:  # noqa: F811
    """The finished plan of three small shards is in the bucket; the directory that it is from."""
    publish(_small_spool)
    return _small_spool


@pytest.fixture
def large_there(_large_spool: Path, publish: Callable[[Path], None]) -> Path:  # noqa: F811
    """The finished plan of two shards of four samples is in the bucket."""
    publish(_large_spool)
    return _large_spool

"""A real S3 server in a process of its own on loopback, and stores that reach it with little patience."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from darkprep.shards.remote.object_store import ObjectStore, RetryPolicy
from darkprep.shards.remote.url import StoreUrl
from tests.support.processes import free_port

PATIENT_S = 60
QUICK = RetryPolicy(attempts=6, first_s=0.01, max_s=0.05)

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


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """The server, which writes below `folder`, until the end of the block."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
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


def quick_store(url: StoreUrl, **changes: Any) -> ObjectStore:
    return ObjectStore.open(url, retry=QUICK, **changes)

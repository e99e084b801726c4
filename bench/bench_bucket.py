"""What object storage costs: shards uploaded, downloaded, verified and read, against reading a directory.

The server is moto's, a Python process on this machine, so the MB/s are its own and the loopback's; the
processor time per sample is ours (TLS, which a real store has, comes on top).

The trade-off: uploader, downloader and reader share a process here, so that one clock counts them.

    python bench/bench_bucket.py                a minute; needs the extra [test]
    python bench/bench_bucket.py --quick        seconds
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import harness
from harness import Figures
from samples import PER_SHARD, SAMPLE_BYTES, fill_spool

from darkprep.shards import Spool, SpoolReader
from darkprep.shards.remote.bucket import Bucket
from darkprep.shards.remote.downloader import Downloader, DownloaderConfig
from darkprep.shards.remote.object_store import StoreUrl
from darkprep.shards.remote.uploader import Uploader

_MAX_SHARDS = 8
_BATCH = 8
_START_S = 60


def main() -> None:
    """Measures, prints, and writes JSON when asked."""
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--shards", type=int, default=8, help="shards of 68 MB each time")
    options = parser.parse_args()
    if options.quick:
        options.shards, options.rounds = 5, 1
    machine = harness.machine("obstore", "moto")
    print(harness.machine_lines(machine), "\n")
    with harness.workplace(options.dir) as place, server(place):
        rounds = [measure(place, options.shards, number) for number in range(options.rounds)]
    found = {name: [one[name] for one in rounds] for name in rounds[0]}
    rows = [
        [
            name,
            harness.spread(each, "samples_per_s"),
            harness.spread(each, "mb_per_s"),
            f"{harness.median(each, 'cpu_ms'):.2f}",
        ]
        for name, each in found.items()
    ]
    print(harness.table(["", "samples/s", "MB/s", "CPU ms a sample"], rows))
    harness.report({"machine": machine, "ways": found}, options.json)


@contextlib.contextmanager
def server(place: Path) -> Iterator[None]:
    """An S3 server on loopback with one bucket, and the environment that leads there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        importlib.import_module("boto3").client("s3").create_bucket(Bucket="bench")
        yield
    finally:
        process.kill()
        process.wait()


def measure(place: Path, shards: int, number: int) -> dict[str, Figures]:
    """Read a directory; put its shards into a bucket; read them from there."""
    made, staging = place / "made", place / "staging"
    spool = fill_spool(made, shards)
    bucket = Bucket.at(StoreUrl("s3", "bench", f"round-{number}"))
    bucket.publish(spool.plan)
    os.sync()
    found = {"directory, read": timed(shards, lambda: read(spool, keep=True))}
    found["bucket, uploaded"] = timed(shards, lambda: upload(spool, bucket))
    using = Spool(staging)
    using.create(spool.plan)
    found["bucket, downloaded, verified, read and deleted"] = timed(
        shards, lambda: download(using, bucket)
    )
    shutil.rmtree(made)
    shutil.rmtree(staging)
    return found


def timed(shards: int, work: object) -> Figures:
    """What `work` on so many shards takes."""
    assert callable(work)
    began, used = time.perf_counter(), time.process_time()
    work()
    elapsed, cpu = time.perf_counter() - began, time.process_time() - used
    samples = shards * PER_SHARD
    return {
        "samples_per_s": samples / elapsed,
        "mb_per_s": samples * SAMPLE_BYTES / elapsed / harness.MB,
        "cpu_ms": cpu / samples * 1e3,
    }


def read(spool: Spool, *, keep: bool) -> None:
    """Read all shards as a training run that takes no time."""
    shards = spool.stream.shards
    last = shards * spool.stream.samples // _BATCH if shards else None
    with SpoolReader(
        spool, batch_size=_BATCH, shards=shards, keep=keep, stop_after=last
    ) as batches:
        for _ in batches:
            pass


def upload(spool: Spool, bucket: Bucket) -> None:
    """Upload all shards."""
    with Uploader(spool, bucket, list_every_s=0.1).session() as uploader:
        while not uploader.all_delivered():
            time.sleep(0.01)


def download(spool: Spool, bucket: Bucket) -> None:
    """Download all shards, and read and delete them."""
    stop = threading.Event()
    config = DownloaderConfig(max_shards=_MAX_SHARDS, until=spool.stream.shards, list_every_s=0.1)
    downloader = Downloader(spool, bucket, config, stop=stop)
    thread = threading.Thread(target=downloader.run)
    shards = spool.stream.shards
    with SpoolReader(spool, batch_size=_BATCH, shards=shards) as batches:
        thread.start()
        for _ in batches:
            pass
    stop.set()
    thread.join()


if __name__ == "__main__":
    main()

"""The commands on a spool in object storage: as on a directory, and one clear line where it cannot be."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from darkprep.jobs.remote_spool import staging_directory
from darkprep.jobs.remote_training import spool_to_train_on
from darkprep.shards import OptionError, Spool
from darkprep.shards.disk_usage import allocated_bytes
from darkprep.shards.process import ProcessId
from darkprep.shards.remote.bucket import Bucket, shard_name
from darkprep.shards.remote.lease import this_machine
from darkprep.shards.remote.url import StoreUrl
from darkprep.trainer.communicator import SingleProcess
from tests.support.command_line import LARGE, SMALL
from tests.support.processes import free_port, wait_until
from tests.support.s3_server import PATIENT_S, SECRETS, Server

pytestmark = pytest.mark.usefixtures("quick_networks")

ROOMY = ("--disk-budget", "60MB")


@pytest.fixture(autouse=True)
def nothing_secret(tmp_path: Path, server: Server, url: StoreUrl) -> Iterator[None]:
    """Whatever a test did: no key is in any file or object afterwards."""
    yield
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    written += [server.get(url, name) for name in server.sizes(url)]
    assert not [data for data in written for secret in SECRETS if secret.encode() in data]


@pytest.fixture
def build(call: Callable[..., Any], small_data: Path, url: StoreUrl) -> Callable[..., Any]:
    """Builds the small plan of three shards into the bucket."""

    def run(*more: object) -> Any:
        words = ("build", "--camera", "sony", "--root", small_data, "--spool", url, *SMALL, *ROOMY)
        return call(*words, *more)

    return run


# -- one after the other ------------------------------------------------------------------------------


def test_a_build_leaves_the_shards_of_a_directory_and_its_plan_in_the_bucket_and_frames_here(
    build, small_spool, server, url
):
    result = build()

    assert result.exit_code == 0, result.output
    assert "done: 3 shards made" in result.output
    shards = [shard_name(n) for n in range(3)]
    assert sorted(server.sizes(url)) == ["plan.json", "producers/lease.json", *shards]
    here = Spool(staging_directory(url, None, "build")).open()
    assert here.ready_shards() == []
    assert list(here.frames.glob("long-*"))
    for path in sorted((small_spool / "ready").iterdir()):
        assert server.get(url, f"ready/{path.name}") == path.read_bytes()


@pytest.mark.usefixtures("small_there")
def test_a_build_of_what_is_there_makes_nothing_again(build, weather):
    assert "done: 0 shards made" in build().output
    assert weather.count(lambda seen: seen.method == "PUT" and "/ready/" in seen.key) == 0


def test_a_build_goes_on_through_refusals_cuts_and_late_listings(build, weather, server, url):
    weather.refuse(lambda seen: seen.method == "PUT", 2)
    weather.refuse(lambda seen: seen.is_listing, 2, "TooManyRequests", 429)
    weather.cut(lambda seen: seen.method == "PUT" and "/ready/" in seen.key, 2)
    weather.lose(lambda seen: seen.method == "PUT" and "/ready/" in seen.key, 1)
    weather.listing_lag = 3

    result = build()

    assert result.exit_code == 0, result.output
    assert len(server.ready(url)) == 3


@pytest.mark.usefixtures("small_there")
def test_status_says_what_is_there_and_verify_checks_it(call, url):
    said = call("status", "--spool", url).stdout
    assert f"spool      {url} (sony" in said
    assert "shards     3 ready, 3 planned" in said
    assert "objects" in said
    record = json.loads(call("status", "--spool", url, "--json").stdout)
    assert (record["shards_ready"], record["budget_bytes"]) == (3, 60_000_000)
    assert record["limiting_side"] == "no producer and no trainer is running"
    checked = call("verify", "--spool", url)
    assert (checked.exit_code, checked.stdout) == (0, "3 shards checked, 0 damaged\n")
    assert not list(Path("staging").glob("verify-*"))


@pytest.mark.usefixtures("small_there")
def test_verify_names_damaged_objects(call, server, url):
    good = server.get(url, shard_name(1))
    server.put(url, shard_name(1), good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    server.put(url, shard_name(2), good[:-1])

    result = call("verify", "--spool", url)

    assert result.exit_code == 1
    assert f"damaged {url} shard 1: sample 0: the checksum of gt is wrong" in result.stdout
    assert (
        f"damaged {url} shard 2: {len(good) - 1} bytes, but shards of the plan have"
        in result.stdout
    )
    assert "3 shards checked, 2 damaged" in result.stdout


def test_a_producer_in_the_background_is_seen_and_stopped(start, call, small_data, url, server):
    words = ("build", "--camera", "sony", "--root", small_data, "--spool", url, *SMALL)
    told = start(*words, "--epochs", "inf", "--disk-budget", "12MB", "--background")
    assert told.wait(PATIENT_S) == 0
    here = Spool(staging_directory(url, None, "build"))
    try:
        wait_until(lambda: server.ready(url))
        record = json.loads(call("status", "--spool", url, "--json").stdout)
        assert record["producers"][0]["alive"]
        assert f"pid {record['producers'][0]['pid']} on" in str(here.producer_process())
    finally:
        said = call("stop", "--spool", url).stdout

    assert said.startswith("stopped pid ")
    assert not here.has_producer()
    assert Bucket.at(url).watch_producer().look() is None
    assert call("stop", "--spool", url).stdout == "no producer is running here\n"


@pytest.mark.usefixtures("small_there")
def test_stop_names_a_producer_on_another_host(call, server, url):
    far = {"token": "x", "beat": 1, "machine": "m", "host": "far", "pid": 7, "started": 1}
    server.put(url, "producers/lease.json", json.dumps(far).encode())

    assert "was pid 7 on far: stop it there" in call("stop", "--spool", url).stdout


# -- what cannot be -----------------------------------------------------------------------------------


def train(*more: object) -> tuple[object, ...]:
    words = ("stream-train", "--device", "cpu", "--iterations", "2", "--batch-size", "2")
    return (*words, "--evaluate-every", "0", "--log-every", "1", *more)


def test_a_url_with_a_password_is_refused_and_not_repeated(complaint):
    for command in ("status", "verify", "stop"):
        said = complaint(command, "--spool", f"s3://me:{SECRETS[1]}@bucket/x")
        assert "credentials come from the environment" in said
        assert SECRETS[1] not in said
    assert not Path("staging").exists()


@pytest.mark.parametrize("command", ["status", "verify", "stop", "stream-train"])
def test_a_prefix_without_a_spool_is_one_line(complaint, url, command):
    said = complaint(command, "--spool", url)

    assert said.startswith(f"{url}: no spool there; make one with `darkprep build --camera NAME")


def test_an_endpoint_where_nobody_listens_is_one_line(complaint, url, monkeypatch, small_data):
    endpoint = f"http://{SECRETS[0]}:{SECRETS[1]}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)

    said = complaint("build", "--camera", "sony", "--root", small_data, "--spool", url)

    assert said.startswith(f"{url}: the store does not answer after 3 tries")
    assert not any(secret in said for secret in SECRETS)


def test_a_missing_bucket_and_wrong_or_no_credentials_are_one_line(
    complaint, weather, monkeypatch, small_data, url
):
    words = ("build", "--camera", "sony", "--root", small_data, "--spool")
    assert "there is no such bucket" in complaint(*words, "s3://nobody-made-this-one/x")
    weather.refuse(lambda seen: True, 4, "InvalidAccessKeyId", 403)
    assert "access is denied (403 InvalidAccessKeyId)" in complaint(*words, url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    weather.clear()
    assert "access is denied (no credentials found)" in complaint(*words, url)


def test_a_clock_that_the_store_refuses_is_one_line(complaint, weather, url):
    weather.refuse(lambda seen: True, float("inf"), "RequestTimeTooSkewed", 403)

    assert "this host's clock is too far from the store's" in complaint("status", "--spool", url)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_extra_that_is_not_installed_is_named(complaint, monkeypatch, scheme):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    said = complaint("status", "--spool", f"{scheme}://bucket/x")

    assert said.endswith("install it with pip install 'darkprep[remote]'")


@pytest.mark.usefixtures("small_there")
def test_a_prefix_that_holds_another_plan_is_refused_and_left_alone(
    complaint, server, url, small_data
):
    before = server.get(url, "plan.json")

    words = ("build", "--camera", "sony", "--root", small_data, "--spool", url, *SMALL, *ROOMY)
    said = complaint(*words, "--seed", "7")

    assert said == f"{url}: holds another plan (seed 0 in the spool, 7 requested); use another --spool, or remove this one"  # fmt: skip
    assert server.get(url, "plan.json") == before


def test_a_damaged_plan_is_one_line(complaint, server, url):
    server.put(url, "plan.json", b'{"format": 1}')

    assert "plan.json: is damaged" in complaint("status", "--spool", url)


def test_a_budget_too_small_for_the_way_there_is_said_with_the_smallest(
    complaint, call, url, small_data
):
    words = ("build", "--camera", "sony", "--root", small_data, "--spool", url, *SMALL)

    said = complaint(*words, "--disk-budget", "1MB")

    assert "2 being uploaded and the trainer's" in said
    least = said.split("need ")[1].split(";")[0]
    assert call(*words, "--disk-budget", least).exit_code == 0
    assert "staging-budget 1.0 MB is too small" in complaint(*words, "--staging-budget", "1MB")


def test_staging_options_on_a_directory_are_refused(complaint, small_data):
    words = ("build", "--camera", "sony", "--root", small_data, *SMALL)
    assert "staging can be used only with a --spool in object" in complaint(
        *words, "--staging", "x"
    )
    assert "staging-budget can be used only with" in complaint(*words, "--staging-budget", "1GB")
    assert "staging can be used only with" in complaint("stop", "--staging", "x")
    assert "staging can be used only with" in complaint(*train("--staging", "x"))


@pytest.mark.usefixtures("small_there")
def test_what_a_training_on_a_bucket_cannot_do_is_refused(complaint, url):
    assert "keep-shards can be used only with a spool in a directory" in complaint(
        *train("--spool", url, "--keep-shards")
    )
    assert f"run `darkprep build --spool {url}`" in complaint(
        *train("--spool", url, "--producers", "2")
    )
    assert "is more than the" in complaint(*train("--spool", url, "--staging-budget", "50MB"))
    assert not Path("runs").exists()


class Communicator(SingleProcess):
    """Two ranks on each of two hosts."""

    world, local_world = 4, 2


@pytest.mark.usefixtures("small_there")
def test_ranks_of_several_hosts_on_one_prefix_are_refused(url):
    with pytest.raises(
        OptionError, match=r"can feed only one host; for N hosts build N spools \(--part 0/N"
    ):
        spool_to_train_on(
            url, staging=None, staging_budget=None, ranks=Communicator(), stop=threading.Event()
        )


def test_ranks_of_several_hosts_have_a_part_and_a_prefix_each(build, server, url):
    assert build("--part", "1/2").exit_code == 0

    assert server.ready(url) == [shard_name(1)]
    spool, using = spool_to_train_on(
        url, staging=None, staging_budget=None, ranks=Communicator(), stop=threading.Event()
    )
    assert using is not None
    assert spool.part == (1, 2)


@pytest.mark.usefixtures("small_there")
def test_the_share_of_the_disk_that_a_plan_of_someone_else_reserves_is_bounded(
    server, url, monkeypatch
):
    def opened(staging_budget: int | None) -> int | None:
        spool, _ = spool_to_train_on(
            url, staging=None, staging_budget=staging_budget, ranks=SingleProcess(), stop=threading.Event()
        )  # fmt: skip
        return spool.settings.budget_bytes

    plan = json.loads(server.get(url, "plan.json"))
    plan["place"] |= {"staging_bytes": 10**17, "budget_bytes": 2 * 10**17}
    server.put(url, "plan.json", json.dumps(plan).encode())
    monkeypatch.setattr("darkprep.jobs.remote_training.default_budget", lambda _: 20_000_000)

    assert opened(None) == 20_000_000
    assert opened(30_000_000) == 30_000_000
    assert opened(None) == 30_000_000, "as this user chose last"


def far(beat: int) -> bytes:
    """What a holder on another machine writes."""
    record = {"token": "theirs", "machine": "another", "host": "far", "pid": 7, "started": 1}
    return json.dumps({**record, "beat": beat}).encode()


@pytest.mark.parametrize("role", ["producers", "cursors"])
@pytest.mark.usefixtures("large_there")
def test_who_lives_elsewhere_keeps_a_second_one_out(call, server, url, role, large_data):
    there = ("--epochs", "2", "--spool", url)
    words = ("build", "--camera", "sony", "--root", large_data, *LARGE, *ROOMY, *there)
    done = threading.Event()

    def live() -> None:
        beat = 0
        while not done.wait(0.1):
            beat += 1
            server.put(url, f"{role}/lease.json", far(beat))

    server.put(url, f"{role}/lease.json", far(0))
    thread = threading.Thread(target=live)
    thread.start()
    try:
        result = call(*(words if role == "producers" else train("--spool", url)))
    finally:
        done.set()
        thread.join()

    who = "a producer" if role == "producers" else "a trainer"
    assert result.exit_code == 1
    waiting, refused = result.stderr.splitlines()[-2:]
    assert f"to see whether {who} (pid 7 on far) is still running" in waiting
    assert f"{url}: {who} is already running (pid 7 on far)" in refused
    assert not Path("runs").exists()


@pytest.mark.usefixtures("small_there")
def test_a_dead_holder_on_this_machine_is_not_waited_for(build, server, url):
    dead = {"token": "x", "beat": 1, "machine": this_machine(), "host": ProcessId.own().host}
    server.put(
        url, "producers/lease.json", json.dumps({**dead, "pid": 4_194_304, "started": 1}).encode()
    )
    began = time.monotonic()

    assert build().exit_code == 0
    assert time.monotonic() - began < 50


# -- both at once -------------------------------------------------------------------------------------


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


class Scale(threading.Thread):
    """Weighs, from behind, the objects and all directories together, as often as it can."""

    def __init__(self, server: Server, url: StoreUrl, staging: Path) -> None:
        super().__init__()
        self._server, self._url, self._staging = server, url, staging
        self._done = threading.Event()
        self.heaviest = self.looks = 0

    def run(self) -> None:
        while not self._done.is_set():
            objects = sum(self._server.sizes(self._url).values())
            self.heaviest = max(self.heaviest, objects + allocated_bytes(self._staging))
            self.looks += 1
            time.sleep(0.01)

    def __enter__(self) -> Scale:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


TRAIN = ("--batch-size", "2", "--device", "cpu", "--evaluate-every", "0", "--log-every", "1")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same rounding each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_build_and_a_training_share_nothing_but_the_bucket(
    start, call, large_data, url, server, weather, tmp_path
):
    """Two processes, a budget that cannot hold the plan, bad weather: the training of a directory, bit for bit."""
    words = ("build", "--camera", "sony", "--root", large_data, *LARGE, "--epochs", "4")
    call(*words, "--quiet")
    there = (*words, "--spool", url, "--disk-budget", "20MB")
    weather.listing_lag = 2
    weather.refuse(lambda seen: seen.method == "PUT", 3)
    weather.cut(lambda seen: "/ready/" in seen.key and seen.method in ("PUT", "GET"), 4)
    plain = call(*train("--run", "plain", "--producers", "0", "--iterations", "8"))
    assert plain.exit_code == 0, plain.output

    with Scale(server, url, tmp_path / "staging") as scale:
        maker = start(*there, "--staging", "staging/maker")
        wait_until(lambda: server.ready(url) or maker.poll())
        assert maker.poll() in (None, 0), maker.communicate()
        user = call(
            *train("--run", "far", "--iterations", "8"),
            *("--spool", url, "--staging", "staging/user", "--log-format", "json"),
        )
        assert user.exit_code == 0, user.output
        _, trouble = maker.communicate(timeout=10 * PATIENT_S)
        assert maker.returncode == 0, trouble

    far, near = (load_file(f"{run}/weights.safetensors") for run in ("far", "plain"))
    assert all(torch.equal(far[name], near[name]) for name in near)
    assert losses(Path("far")) == losses(Path("plain"))
    leases = ["cursors/lease.json", "producers/lease.json"]
    assert sorted(server.sizes(url)) == sorted(["cursors/rank-0.json", "plan.json", *leases])
    assert all(b"released" in server.get(url, name) for name in leases)
    assert scale.looks > 20
    assert 2_000_000 < scale.heaviest <= 20_000_000
    puts = [seen.key for seen in weather.seen if seen.method == "PUT" and "/ready/" in seen.key]
    assert len(set(puts)) == 4
    assert json.loads(user.stdout.splitlines()[-1])["shards_deleted"] == 4


@pytest.mark.slow
def test_killed_producers_and_trainers_change_no_loss(
    start, call, large_data, url, server, tmp_path
):
    words = ("build", "--camera", "sony", "--root", large_data, *LARGE, "--epochs", "6")
    call(*words, "--quiet")
    plain = start(*train("--run", "plain", "--producers", "0", "--iterations", "12"))
    assert plain.wait(10 * PATIENT_S) == 0
    there = (*words, "--spool", url, "--disk-budget", "20MB", "--staging", "staging/maker")
    user = ("--run", "far", "--iterations", "12", "--spool", url, "--staging", "staging/user")

    maker = start(*there)
    wait_until(lambda: server.ready(url))
    os.kill(maker.pid, signal.SIGKILL)
    maker = start(*there)
    trainer = start(*train(*user, "--checkpoint-every", "2"))
    checkpoints = Path("far/checkpoints")
    wait_until(lambda: trainer.poll() or list(checkpoints.glob("*2.pt")), 10 * PATIENT_S)
    assert trainer.poll() is None, trainer.communicate()
    os.kill(trainer.pid, signal.SIGKILL)
    trainer = start(*train(*user, "--resume"))
    told = trainer.communicate(timeout=10 * PATIENT_S)
    assert trainer.returncode == 0, told
    assert maker.wait(10 * PATIENT_S) == 0

    assert losses(Path("far")) == losses(Path("plain"))
    assert server.ready(url) == []


@pytest.mark.slow
@pytest.mark.usefixtures("published_networks")  # the ranks are other processes
def test_two_ranks_of_one_host_share_a_download(start, call, large_data, url, server, tmp_path):
    words = ("build", "--camera", "sony", "--root", large_data, *LARGE, "--epochs", "6", "--quiet")
    call(*words)
    call(*train("--run", "plain", "--producers", "0", "--iterations", "12"))
    assert call(*words, "--spool", url, "--disk-budget", "40MB").exit_code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", str(free_port()), "-m", "darkprep"]
    more = train("--run-dir", "far", "--iterations", "12", "--spool", url)

    done = subprocess.run(
        [*torchrun, *map(str, more)], capture_output=True, text=True, timeout=10 * PATIENT_S
    )

    assert done.returncode == 0, done.stderr
    assert losses(Path("far")) == pytest.approx(losses(Path("plain")), abs=1e-5)
    assert server.ready(url) == []


@pytest.mark.slow
def test_a_stream_without_producers_ends_with_a_checkpoint_and_one_line(
    start, url, large_data, call
):
    words = ("build", "--camera", "sony", "--root", large_data, *LARGE, "--epochs", "6", "--quiet")
    assert call(*words, "--spool", url, "--disk-budget", "40MB").exit_code == 0
    client = Bucket.at(url)
    for shard in (4, 5):
        client.delete(shard)
    trainer = start(*train("--run", "far", "--iterations", "12", "--spool", url))
    _, told = trainer.communicate(timeout=10 * PATIENT_S)

    assert trainer.returncode == 1
    assert "no producer is running; run `darkprep build" in told.splitlines()[-1]
    assert list(Path("far/checkpoints").iterdir())

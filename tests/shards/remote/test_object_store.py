"""Objects in a store: what passes is tried again, what does not is one clear line, and nothing secret is said."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from darkprep.shards import DiskFull, OptionError, SpoolBusy, SpoolError
from darkprep.shards.remote.failures import scrubbed
from darkprep.shards.remote.object_store import ObjectStore, RetryPolicy
from darkprep.shards.remote.url import StoreUrl
from tests.support.any_text import any_text
from tests.support.processes import free_port
from tests.support.s3_server import SECRETS, quick_store


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in SECRETS)
    return text


def content(store: ObjectStore, name: str) -> bytes | None:
    found = store.read(name, 100)
    return found.data if found else None


# -- URLs ---------------------------------------------------------------------------------------------


def test_a_url_is_taken_apart_and_written_the_same():
    url = StoreUrl.parse("s3://bucket/runs/one/")

    assert url == StoreUrl("s3", "bucket", "runs/one")
    assert str(url) == "s3://bucket/runs/one"
    assert str(StoreUrl.parse("gs://bucket")) == "gs://bucket"
    assert StoreUrl.parse("az://container/x") == StoreUrl("az", "container", "x")


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///prefix", "s3://b/../x", "s3://b/a//c", "s3://b/a\nb", "s3://-b/x"]
)
def test_what_is_no_place_in_object_storage_is_refused(text):
    with pytest.raises(OptionError, match="is not a valid URL"):
        StoreUrl.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIATESTKEYID:verySecretAccessKey@bucket/x",
        "s3://b/x?X-Amz-Signature=verySecretAccessKey",
        "https://user:verySecretAccessKey@host/bucket",
        "gs://b/x#verySecretAccessKey",
    ],
)
def test_a_url_with_something_secret_is_refused_and_not_repeated(text):
    with pytest.raises(OptionError) as caught:
        StoreUrl.parse(text)

    one_line(caught)


@given(any_text())
@settings(max_examples=50)
def test_any_text_is_a_url_or_refused_in_one_line(text):
    try:
        url = StoreUrl.parse(f"s3://{text}")
    except OptionError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert StoreUrl.parse(str(url)) == url
        assert not {"@", "?", "#", "\n"} & set(str(url))


def test_foreign_messages_lose_user_names_queries_and_further_lines():
    said = scrubbed('Could not connect to "http://me:pw@host:1/b?prefix=x&sig=s"\nsecond')

    assert said == 'Could not connect to "http://host:1/b"'


# -- objects ------------------------------------------------------------------------------------------


def test_an_object_is_put_listed_read_and_deleted(store):
    assert store.sizes("ready") == {}
    assert store.size("ready/a") is None
    assert store.read("ready/a", 100) is None

    store.write("ready/a", b"first")
    store.write("ready/a", b"second")
    store.write("ready/deeper/b", b"not listed")

    assert store.sizes("ready") == {"a": 6}
    assert content(store, "ready/a") == b"second"
    assert store.read("ready/a", 5) is None, "longer than the limit"
    store.delete("ready/a")
    store.delete("ready/a")
    assert store.size("ready/a") is None


def test_an_object_that_is_replaced_while_it_is_read_comes_whole(store):
    """A cursor that came cut would count as none, and all shards from the first on be made again."""
    store.write("cursor", b"short")
    client = store._client

    class ReplacedFirst:
        def get(self, *where: Any, **options: Any) -> Any:
            store._client = client
            store.write("cursor", b"much longer")
            return client.get(*where, **options)

    store._client = ReplacedFirst()
    assert content(store, "cursor") == b"much longer"


def test_an_empty_object_reads_as_none(store):
    store.write("cursor", b"")

    assert store.read("cursor", 100) is None


def test_an_object_is_created_once(store):
    assert store.write_if("plan.json", b"one", None)
    assert not store.write_if("plan.json", b"two", None)
    assert content(store, "plan.json") == b"one"


def test_an_object_is_replaced_only_while_its_version_is_the_current_one(store):
    first = store.write_if("lease", b"one", None)
    second = store.write_if("lease", b"two", first)

    assert store.read("lease", 10).version == second
    assert store.write_if("lease", b"three", first) is None
    assert content(store, "lease") == b"two"
    store.delete("lease")
    assert store.write_if("lease", b"four", second) is None
    assert content(store, "lease") is None


@pytest.mark.parametrize("existing", [False, True])
def test_a_conditional_write_whose_answer_was_lost_is_known_as_ours(store, weather, existing):
    version = store.write_if("plan.json", b"zero", None) if existing else None
    before = weather.count(lambda seen: seen.method == "PUT")
    weather.lose(lambda seen: seen.method == "PUT", 1)

    assert store.write_if("plan.json", b"one", version)
    assert weather.count(lambda seen: seen.method == "PUT") == before + 2


def test_a_store_without_conditional_writes_is_refused(store, weather):
    weather.refuse(lambda seen: seen.method == "PUT", 1, "NotImplemented", 501)

    with pytest.raises(
        SpoolError, match=r"has no conditional writes \(501 NotImpl.* use S3"
    ) as why:
        store.write_if("plan.json", b"one", None)

    one_line(why)


def test_concurrent_conditional_writes_that_the_store_cannot_order_are_sent_again(store, weather):
    weather.refuse(lambda seen: seen.method == "PUT", 2, "ConditionalRequestConflict", 409)

    assert store.write_if("lease", b"one", None)


def test_a_file_is_one_put_and_comes_back_in_parts(store, weather, tmp_path, monkeypatch):
    monkeypatch.setattr("darkprep.shards.remote.object_store._PART_BYTES", 1 << 20)
    data = bytes(range(256)) * 10_000
    (tmp_path / "up").write_bytes(data)

    store.upload("ready/big", tmp_path / "up")
    assert store.download("ready/big", tmp_path / "down", len(data))

    assert (tmp_path / "down").read_bytes() == data
    puts = [seen for seen in weather.seen if seen.method in ("PUT", "POST")]
    assert [seen.key.rpartition("/")[2] for seen in puts] == ["big"]
    assert weather.count(lambda seen: seen.method == "GET" and "big" in seen.path) == 3


@pytest.mark.parametrize("size", [11, 1 << 20])
def test_an_object_that_is_shorter_than_it_should_be_leaves_no_file(store, tmp_path, size):
    store.write("ready/a", b"ten bytes.")

    assert not store.download("ready/a", tmp_path / "down", size)
    assert not store.download("ready/b", tmp_path / "down", size)
    assert not (tmp_path / "down").exists()


def test_no_more_is_fetched_than_was_agreed(store, tmp_path):
    store.write("ready/a", b"ten bytes.")

    assert store.download("ready/a", tmp_path / "down", 3)
    assert (tmp_path / "down").read_bytes() == b"ten"


def test_a_place_that_cannot_be_written_is_said_before_anything_is_asked(store, weather, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    asked = len(weather.seen)

    with pytest.raises((SpoolError, DiskFull, NotADirectoryError)):
        store.download("ready/a", tmp_path / "file" / "down", 10)

    assert len(weather.seen) == asked


# -- weather ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("TooManyRequests", 429), ("InternalError", 500), ("RequestTimeout", 400)],
)
def test_a_throttled_request_is_sent_again(store, weather, tmp_path, code, status):
    weather.refuse(lambda seen: True, 4, code, status)

    store.write("a", b"here")

    assert content(store, "a") == b"here"
    assert weather.count(lambda seen: seen.method == "PUT") == 5


def test_cut_connections_cost_only_what_was_cut(store, weather, tmp_path, monkeypatch):
    monkeypatch.setattr("darkprep.shards.remote.object_store._PART_BYTES", 1 << 16)
    data = bytes(range(256)) * 1000
    (tmp_path / "up").write_bytes(data)
    weather.cut(lambda seen: seen.method == "PUT", 2)

    store.upload("a", tmp_path / "up")
    weather.cut(lambda seen: seen.method == "GET" and seen.key.endswith("/a"), 3)
    assert store.download("a", tmp_path / "down", len(data))

    assert (tmp_path / "down").read_bytes() == data
    assert weather.count(lambda seen: seen.method == "PUT") == 3
    assert weather.count(lambda seen: seen.method == "GET" and seen.key.endswith("/a")) == 4 + 3


def test_tries_end_and_the_last_trouble_is_said_in_one_line(store, weather, caplog):
    weather.refuse(lambda seen: True, float("inf"))

    with pytest.raises(
        SpoolError, match=r"does not answer after 6 tries \(503 SlowDown\)"
    ) as caught:
        store.write("a", b"here")

    assert one_line(caught).startswith("s3://")
    assert weather.count(lambda seen: seen.method == "PUT") == 6
    assert caplog.text.count("trying again") == 1


@pytest.mark.parametrize("change", ["write", "upload", "delete"])
def test_a_change_is_not_tried_again_once_its_check_raises(store, weather, tmp_path, change):
    (tmp_path / "up").write_bytes(b"here")
    arguments = {"write": ("a", b"here"), "upload": ("a", tmp_path / "up"), "delete": ("a",)}
    weather.refuse(lambda seen: True, float("inf"))
    checks: list[int] = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise SpoolBusy("it is another's now")

    with pytest.raises(SpoolBusy, match="another's now"):
        getattr(store, change)(*arguments[change], check=check)

    method = "DELETE" if change == "delete" else "PUT"
    assert weather.count(lambda seen: seen.method == method) == 2


def test_pauses_grow_and_are_spread_and_end_within_a_minute():
    policy = RetryPolicy()
    longest = [max(policy.pause_s(n) for _ in range(200)) for n in range(1, policy.attempts)]
    shortest = [min(policy.pause_s(n) for _ in range(200)) for n in range(1, policy.attempts)]

    assert longest[:5] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2], rel=0.1)
    assert shortest[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6], rel=0.1)
    assert sum(longest) < 60


def test_nothing_is_waited_for_once_the_end_is_asked_for(url, weather):
    stop = threading.Event()
    stop.set()
    store = quick_store(url, stop=stop)
    weather.refuse(lambda seen: True, float("inf"))
    began = time.monotonic()

    with pytest.raises(SpoolError, match="after 2 tries"):
        store.write("a", b"here")

    assert time.monotonic() - began < 5


# -- what cannot pass ---------------------------------------------------------------------------------


def test_an_endpoint_where_nobody_listens_is_one_line_within_seconds(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://me:{SECRETS[1]}@127.0.0.1:{free_port()}")
    began = time.monotonic()

    with pytest.raises(
        SpoolError, match=r"does not answer after 3 tries .*AWS_ENDPOINT_URL"
    ) as why:
        ObjectStore.open(url)

    one_line(why)
    assert time.monotonic() - began < 10


def test_an_endpoint_that_is_no_url_is_one_line(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "not a url")

    with pytest.raises(SpoolError) as caught:
        ObjectStore.open(url)

    one_line(caught)


def test_a_missing_bucket_is_one_line(server, weather):
    with pytest.raises(SpoolError, match="there is no such bucket; create it") as caught:
        ObjectStore.open(StoreUrl("s3", "nobody-made-this-one", "x"))

    one_line(caught)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InvalidAccessKeyId", 403),
        ("SignatureDoesNotMatch", 403),
        ("AccessDenied", 403),
        ("ExpiredToken", 400),
    ],
)
def test_wrong_credentials_are_one_line_at_once(url, weather, code, status):
    weather.refuse(lambda seen: True, float("inf"), code, status)

    with pytest.raises(SpoolError, match=rf"access is denied \({status} {code}\)") as caught:
        ObjectStore.open(url)

    one_line(caught)
    assert len(weather.seen) <= 2


def test_no_credentials_are_one_line(url, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SpoolError, match=r"access is denied \(no credentials found\)"):
        ObjectStore.open(url)


def test_credentials_region_and_endpoint_of_s3_come_from_a_profile(
    url, weather, tmp_path, monkeypatch
):
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    for name in ("ENDPOINT_URL_S3", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f"[profile lab]\nregion = eu-west-1\nendpoint_url = {endpoint}\n"
    )
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        f"[lab]\naws_access_key_id = {SECRETS[0]}\naws_secret_access_key = {SECRETS[1]}\n"
    )

    ObjectStore.open(url).write("a", b"here")

    assert weather.count(lambda seen: seen.method == "PUT") == 1


def test_a_profile_that_is_not_there_is_one_line(url, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobodys")

    with pytest.raises(SpoolError, match=r"access is denied .*nobodys.*AWS_PROFILE") as caught:
        ObjectStore.open(url)

    one_line(caught)


def test_a_bucket_in_another_region_is_one_line(url, weather):
    weather.refuse(lambda seen: True, float("inf"), "AuthorizationHeaderMalformed", 400)

    with pytest.raises(SpoolError, match=r"is in another region .* set AWS_DEFAULT_REGION") as why:
        ObjectStore.open(url)

    one_line(why)


def test_missing_credentials_of_other_providers_are_one_line(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/not/there.json")
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)

    with pytest.raises(SpoolError, match=r"access is denied .*there.json.*GOOGLE_APPL") as google:
        ObjectStore.open(StoreUrl("gs", "bucket", "x"))
    with pytest.raises(SpoolError, match=r"access is denied .*AZURE_STORAGE_ACCOUNT_NAME") as azure:
        ObjectStore.open(StoreUrl("az", "container", "x"))

    one_line(google)
    one_line(azure)


def test_a_clock_that_is_too_far_from_the_stores_is_one_line(url, weather):
    weather.refuse(lambda seen: True, float("inf"), "RequestTimeTooSkewed", 403)

    with pytest.raises(SpoolError, match="this host's clock is too far from the store's") as caught:
        ObjectStore.open(url)

    one_line(caught)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(scheme, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(OptionError, match=r"pip install 'darkprep\[remote\]'"):
        ObjectStore.open(StoreUrl(scheme, "bucket", ""))


def test_something_else_that_a_store_refuses_is_told(store, weather):
    weather.refuse(lambda seen: True, float("inf"), "MalformedXML", 400)

    with pytest.raises(SpoolError, match=r"the store refuses \(400 MalformedXML\)"):
        store.write("a", b"here")


def test_too_large_an_object_is_refused_before_it_is_sent(store, monkeypatch, tmp_path):
    monkeypatch.setattr("darkprep.shards.remote.object_store.MAX_PUT_BYTES", 10)
    Path(tmp_path / "up").write_bytes(bytes(11))

    with pytest.raises(SpoolError, match="too many for one PUT"):
        store.upload("a", tmp_path / "up")

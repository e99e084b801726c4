"""Connect to object storage: create obstore's clients, and find S3's credentials.

The trade-off: obstore finds all credentials of Google Cloud and Azure, but of S3 only those in the
environment and of the machine's role; botocore also reads ~/.aws with its profiles and single sign-on.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from darkprep.shards.errors import OptionError, SpoolError
from darkprep.shards.remote.failures import message, reason, scrubbed
from darkprep.shards.remote.url import StoreUrl

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

    Client = S3Store | GCSStore | AzureStore
    Connect = Callable[[float | None], Client]
    """Creates a client; the argument is the maximum time of a request in seconds, None for no limit while data arrives every 30 s."""

_CONNECT_S, _SILENT_S = 10, 30
_HTTP_URL = re.compile(
    r"https?://([!-~]+@)?([\w.-]+|\[[\da-fA-F:.]+\])(:([0-5]?\d{1,4}|6[0-5]\d{3}))?(/[!-~]*)?",
    re.ASCII,
)
"""Valid endpoints: for other texts obstore panics and ends the thread instead of raising an exception."""
_CREDENTIALS_S = 300
"""How long keys are used before botocore is asked again; it renews them 10 minutes before they expire."""


def connector(url: StoreUrl) -> Connect:
    """Return a function that creates clients for a store; the clients never repeat a request by themselves.

    Raises OptionError, which names the extra to install, when a library is missing, and SpoolError for
    invalid settings.
    """
    for module in ("obstore", "botocore"):
        if importlib.util.find_spec(module) is None:
            raise OptionError(
                f"spool {url}: {module} is not installed; install it with pip install 'darkprep[remote]'"
            )
    from obstore.store import AzureStore, GCSStore, S3Store  # here: a directory needs none of it

    store: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[url.scheme]
    settings = _aws_settings(str(url)) if url.scheme == "s3" else {}
    settings |= {"prefix": url.prefix or None, "retry_config": {"max_retries": 0}}

    def connect(limit_s: float | None) -> Client:
        times: dict[str, Any] = {"connect_timeout": timedelta(seconds=_CONNECT_S)}
        if limit_s is None:
            times["read_timeout"] = timedelta(seconds=_SILENT_S)
        times["timeout"] = timedelta(seconds=limit_s or 3600)
        try:
            client: Client = store(url.bucket, client_options={"allow_http": True, **times}, **settings)  # fmt: skip
        except Exception as error:  # whatever is wrong with the environment's settings
            raise SpoolError(message(str(url), "denied", reason(str(error)))) from error
        return client

    return functools.cache(connect)


def _aws_settings(label: str) -> dict[str, Any]:
    """Return credentials, region and endpoint from the sources that AWS's own tools use. Raises SpoolError."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        session = botocore.session.Session()
        found, region = session.get_credentials(), session.get_config_variable("region")
        endpoint = session.get_scoped_config().get("endpoint_url", "")
        if found:
            found.get_frozen_credentials()
    except BotoCoreError as error:
        raise SpoolError(message(label, "denied", scrubbed(str(error)))) from error
    if not found:
        raise SpoolError(message(label, "denied", "no credentials found"))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        endpoint = os.environ.get(name) or endpoint
    if endpoint and not _HTTP_URL.fullmatch(endpoint):
        raise SpoolError(
            f"{label}: AWS_ENDPOINT_URL is not a valid URL; write http://HOST:PORT or https://HOST"
        )

    def credentials() -> dict[str, Any]:
        keys = found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_CREDENTIALS_S),
        }

    settings = {
        "credential_provider": credentials,
        "region": region or "us-east-1",
        "disable_bulk_delete": True,  # not every store that is compatible with S3 has it
        "unsigned_payload": not endpoint.startswith("http:"),  # TLS protects it already
    }
    return settings | ({"endpoint": endpoint} if endpoint else {})

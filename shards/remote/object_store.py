"""Objects in a store (S3, Google Cloud Storage) below one prefix: list, read, write, delete. The one importer of fsspec.

The trade-off: whole objects and byte ranges only, no files. What the libraries raise becomes a SpoolError
here, after as many tries as may help; so a network that fails for a minute delays, and a wrong key says so
at once. Nothing that could be a secret gets into a message: URLs lose user names and queries.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from darkprep.shards.errors import OptionError, SpoolError
from darkprep.shards.files import disk_errors

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Check = Callable[[], None]
"""Called before each try of a change; what it raises ends the trying."""

MOST_PUT_BYTES = 5 * 2**30 - 1
"""An object that is published by one PUT cannot be larger (S3's own limit)."""

_EXTRAS = {"s3": ("s3", "s3fs"), "gs": ("gs", "gcsfs")}
"""Per scheme the extra to install and the module that it brings."""
_PART_BYTES = 16 << 20
"""A download asks for so much at a time: what a broken connection costs at most."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.'()=+,~ -]+")
_SHOWN = 200
"""Characters of a foreign message that are told."""


@dataclass(frozen=True)
class StoreUrl:
    """`s3://bucket/prefix` or `gs://bucket/prefix`: where a spool's objects are. Holds no secret."""

    scheme: str
    bucket: str
    prefix: str
    """Segments joined by slashes; empty for the whole bucket."""

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """The place that `text` names; raises OptionError, which does not repeat what may be a secret."""
        scheme, _, rest = text.partition("://")
        if scheme not in _EXTRAS:
            raise OptionError(f"spool {scheme}://...: object storage is s3://... or gs://...")
        if any(mark in rest for mark in "@?#"):
            raise OptionError(
                f"spool {scheme}://...: a user name, a query or a fragment does not belong there; credentials come "
                "from the environment (AWS_PROFILE, AWS_ACCESS_KEY_ID ..., GOOGLE_APPLICATION_CREDENTIALS)"
            )
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        segments = prefix.split("/") if prefix else []
        bad = [part for part in segments if not _SEGMENT.fullmatch(part) or part in (".", "..")]
        if not _BUCKET.fullmatch(bucket) or bad:
            raise OptionError(
                f"spool {text!r}: is no place in object storage; write {scheme}://BUCKET/PREFIX, of letters, digits and ._-"
            )
        return cls(scheme, bucket, prefix)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


class ObjectStore(Protocol):
    """Objects by names relative to a prefix. All methods raise SpoolError when the store does not do its part."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The objects directly below `folder`, names without it, and their bytes; possibly somewhat out of date."""

    def size(self, name: str) -> int | None:
        """Bytes of one object, None where there is none."""

    def read(self, name: str, limit: int) -> bytes | None:
        """A small object; None where there is none or it is longer than `limit` bytes."""

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        """Put an object in one step; readers see the old or the new."""

    def create(self, name: str, data: bytes) -> bool:
        """Put an object where there is none; whether it was put. A store that cannot tell puts it."""

    def upload(self, name: str, path: Path, *, check: Check | None = None) -> None:
        """Put a whole file in one step. Raises FileNotFoundError when the file is gone."""

    def download(self, name: str, path: Path, size: int) -> bool:
        """Write the `size` bytes of an object to a new file; False, and no file, when it is gone, shorter, or no longer wanted."""

    def delete(self, name: str, *, check: Check | None = None) -> None:
        """Delete an object if there is one."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how long an operation that fails for a passing reason is tried again."""

    tries: int = 10
    first_s: float = 0.2
    most_s: float = 6.4

    def pause_s(self, failures: int) -> float:
        """How long to wait after so many failures: doubled each time, and spread, lest all come back together."""
        longest = min(self.most_s, self.first_s * (1 << (failures - 1)))
        return longest * (0.5 + random.random() / 2)  # noqa: S311 # no secret


_FIRST = {"s3": RetryPolicy(tries=3), "gs": RetryPolicy(tries=1)}
"""For the first contact: an address that is wrong stays wrong."""
_PATIENCE = {"s3": RetryPolicy(), "gs": RetryPolicy(tries=3)}
"""gcsfs tries six times itself, for some twenty seconds, and lets nobody choose."""


class FsspecStore:
    """An ObjectStore on any fsspec file system, below `base` (`bucket/prefix`).

    `label` is how messages name the place. When `stop` is set, nothing is waited for any more.
    """

    def __init__(
        self,
        filesystem: Any,
        base: str,
        label: str,
        *,
        patience: RetryPolicy | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._fs = filesystem
        self._base = base.rstrip("/")
        self._label = label
        self._patience = patience or RetryPolicy()
        self._stop = stop or threading.Event()

    def __str__(self) -> str:
        return self._label

    def reach(self, patience: RetryPolicy) -> None:
        """Raises SpoolError soon when the store cannot be used at all: address, bucket, credentials."""
        self._do(lambda: self._fs.ls(self._base, detail=True), (), patience)

    def sizes(self, folder: str) -> dict[str, int]:
        """See ObjectStore."""
        entries = self._do(lambda: self._fs.ls(self._path(folder), detail=True), ())
        files = [entry for entry in entries if entry.get("type") == "file"]
        return {str(one["name"]).rpartition("/")[2]: int(one["size"] or 0) for one in files}

    def size(self, name: str) -> int | None:
        """See ObjectStore."""
        found: dict[str, Any] | None = self._do(lambda: self._fs.info(self._path(name)), None)
        return int(found["size"]) if found and found.get("type") == "file" else None

    def read(self, name: str, limit: int) -> bytes | None:
        """See ObjectStore."""
        # In one request: asked for its size first, an object that grows meanwhile would come cut.
        data = self._asked(name, 0, limit + 1)
        return data if data and len(data) <= limit else None

    def write(self, name: str, data: bytes, *, check: Check | None = None) -> None:
        """See ObjectStore."""
        self._put(name, data, check=check)

    def create(self, name: str, data: bytes) -> bool:
        """See ObjectStore."""
        if self.size(name) is not None:
            return False
        try:
            self._put(name, data, mode="create")
        except _Unsupported:
            self._put(name, data)
        except _Exists:
            # Ours all the same, when the answer to an earlier try was lost.
            return self.read(name, len(data)) == data
        return True

    def upload(self, name: str, path: Path, *, check: Check | None = None) -> None:
        """See ObjectStore."""
        self._put(name, path.read_bytes(), check=check)

    def download(self, name: str, path: Path, size: int) -> bool:
        """See ObjectStore; a SpoolError or DiskFull when the file cannot be written."""
        with disk_errors(path, size):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            whole = False
            try:
                os.posix_fallocate(descriptor, 0, size)
                whole = self._fill(descriptor, name, size)
            finally:
                os.close(descriptor)
                if not whole:
                    path.unlink(missing_ok=True)
        return whole

    def delete(self, name: str, *, check: Check | None = None) -> None:
        """See ObjectStore."""
        self._do(lambda: self._fs.rm_file(self._path(name)), None, check=check)

    def _fill(self, descriptor: int, name: str, size: int) -> bool:
        """Write an object's first `size` bytes, part by part; False when it is gone, shorter, or no longer wanted."""
        for start in range(0, size, _PART_BYTES):
            if self._stop.is_set():
                return False
            data = self._part(name, start, min(size, start + _PART_BYTES))
            if data is None:
                return False
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        return True

    def _part(self, name: str, start: int, stop: int) -> bytes | None:
        """Bytes `start` to `stop - 1`; None when the object is gone or ends before."""
        data = self._asked(name, start, stop)
        # A connection that broke is an error; an answer that is whole and short is all there is.
        return data if data and len(data) == stop - start else None

    def _asked(self, name: str, start: int, stop: int) -> bytes | None:
        """What an object has of bytes `start` to `stop - 1`; None when it is gone. Cut answers are asked for again."""

        def get() -> bytes:
            data = bytes(self._fs.cat_file(self._path(name), start=start, end=stop))
            if len(data) > stop - start:
                raise EOFError(f"{len(data)} bytes came instead of {stop - start}")
            return data

        try:
            found: bytes | None = self._do(get, None)
        except _NoSuchRange:
            return None
        return found

    def _put(
        self, name: str, data: bytes, *, mode: str = "overwrite", check: Check | None = None
    ) -> None:
        if len(data) > MOST_PUT_BYTES:
            raise SpoolError(f"{self._label}/{name}: {len(data)} bytes are too many for one PUT")
        # The chunk is as large as can be: an object of several parts would be several requests.
        extra = {"chunksize": MOST_PUT_BYTES + 1} if len(data) > _PART_BYTES else {}
        path = self._path(name)
        self._do(lambda: self._fs.pipe_file(path, data, mode=mode, **extra), _NEVER, check=check)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _do(
        self,
        work: Callable[[], Result],
        missing: Any,
        patience: RetryPolicy | None = None,
        *,
        check: Check | None = None,
    ) -> Result | Any:
        """Do `work`, again if need be; `missing` is the result when what it asks for is not there."""
        patience = patience or self._patience
        failures = 0
        while True:
            if check:
                check()
            try:
                return work()
            except Exception as error:  # the stores' libraries have no common base
                fault = _StoreFault.of(error)
                if fault.kind == "missing" and missing is not _NEVER:
                    return missing
                failures += 1
                if fault.kind != "passing" or self._is_over(failures, patience):
                    raise fault.translated(self._label, failures) from error
            if failures == 2:
                log.warning("%s: %s; trying again", self._label, fault.text)
            self._stop.wait(patience.pause_s(failures))

    def _is_over(self, failures: int, patience: RetryPolicy) -> bool:
        return failures >= (2 if self._stop.is_set() else patience.tries)


_NEVER: Any = object()
"""Stands for work that cannot find something missing."""


class _Exists(SpoolError):
    """An object was to be put only where there is none, and there is one."""


class _Unsupported(SpoolError):
    """A store does not know a condition that it was given."""


class _NoSuchRange(SpoolError):
    """An object ends before the bytes that were asked for."""


_THROTTLED = re.compile(r"SlowDown|Throttl|TooManyRequests|RequestLimit|rateLimit", re.IGNORECASE)
_PASSING_CODES = frozenset({"RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted", "IncompleteBody", "ConditionalRequestConflict"})  # fmt: skip
_DENIED_CODES = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed"})  # fmt: skip
_SKEWED_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
    | {"TokenRetrievalError", "SSOTokenLoadError", "DefaultCredentialsError", "RefreshError"}
)
"""Names of what botocore and google-auth raise before they ask the store; their modules are not loaded here."""
_BROKEN = frozenset(
    {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError"}
    | {"IncompleteRead", "IncompleteReadError", "ResponseParserError", "ResponseStreamingError"}
    | {"FSTimeoutError", "TransportError", "ServerDisconnectedError", "ClientOSError", "EOFError"}
)
"""Names of classes that broken connections are told by, in botocore, aiohttp, google-auth and fsspec."""


@dataclass(frozen=True)
class _StoreFault:
    """What is wrong, found out from whatever a library raised."""

    kind: str
    """`missing`, `exists`, `range`, `unsupported`, `bucket`, `denied`, `clock`, `passing` or `other`."""
    text: str
    """For people, without secrets."""

    @classmethod
    def of(cls, error: BaseException) -> _StoreFault:
        chain = _chain(error)
        code, status = _answer(chain)
        names = {base.__name__ for one in chain for base in type(one).__mro__}
        said = f"{status} {code}".strip() if code or status else scrubbed(str(chain[-1]))
        return cls(_kind(error, code, status, names), said or type(error).__name__)

    def translated(self, label: str, tries: int) -> SpoolError:
        """The error to raise."""
        if self.kind == "exists":
            return _Exists(f"{label}: is there already")
        if self.kind == "unsupported":
            return _Unsupported(f"{label}: the store cannot do that ({self.text})")
        if self.kind == "range":
            return _NoSuchRange(f"{label}: is shorter")
        after = f" after {tries} tries" if tries > 1 else ""
        remedy = {
            "bucket": "there is no such bucket; create it, or look at the name and AWS_ENDPOINT_URL",
            "denied": f"access is denied ({self.text}); see that the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID ..., "
            "GOOGLE_APPLICATION_CREDENTIALS) are right and may list, get, put and delete there",
            "clock": f"this host's clock is too far from the store's ({self.text}); set it",
            "passing": f"the store does not answer{after} ({self.text}); see whether it can be reached "
            "(AWS_ENDPOINT_URL, network), and start again",
        }
        return SpoolError(f"{label}: {remedy.get(self.kind, f'the store refuses ({self.text})')}")


def _kind(error: BaseException, code: str, status: int, names: set[str]) -> str:
    if code == "NoSuchBucket":
        return "bucket"
    if code in _SKEWED_CODES:
        return "clock"
    if code == "NotImplemented" or status == 501:
        return "unsupported"
    if isinstance(error, FileExistsError) or status == 412:
        return "exists"
    if status == 416 or code == "InvalidRange":
        return "range"
    if _THROTTLED.search(code) or code in _PASSING_CODES or status == 429 or status >= 500:
        return "passing"
    if code in _DENIED_CODES or status in (401, 403) or names & _NO_CREDENTIALS:
        return "denied"
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError):
        return "denied"
    broken = isinstance(error, ConnectionError | TimeoutError) or names & _BROKEN
    return "passing" if broken else "other"


def _answer(chain: list[BaseException]) -> tuple[str, int]:
    """The store's error code and HTTP status, where there was an answer: botocore's, or gcsfs's."""
    for error in chain:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            code = str(answer.get("Error", {}).get("Code", ""))
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return ("" if code.isdigit() else code), int(status or 0)
        status = getattr(error, "code", None)
        if isinstance(status, int):
            bucket = "bucket does not exist" in str(error)
            return ("NoSuchBucket" if bucket else ""), status
    return "", 0


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it, outermost first."""
    chain = [error]
    while len(chain) < 10 and (cause := chain[-1].__cause__):
        chain.append(cause)
    return chain


def scrubbed(text: str) -> str:
    """A foreign message's first line, short, and without user names, passwords and queries of URLs."""
    line = (text.splitlines() or [""])[0]
    line = re.sub(r"//[^/\s\"'@]*@", "//", line)
    line = re.sub(r"\?[^\s\"']*", "", line)
    return line[:_SHOWN].rstrip(".")


def open_store(url: StoreUrl, *, stop: threading.Event | None = None) -> FsspecStore:
    """The store at `url`, reached once. Raises OptionError, naming the extra, when its library is not installed; SpoolError."""
    extra, module = _EXTRAS[url.scheme]
    if importlib.util.find_spec(module) is None:
        raise OptionError(
            f"spool {url}: {module} is not installed; install it with pip install 'darkprep[{extra}]'"
        )
    base = f"{url.bucket}/{url.prefix}".rstrip("/")
    patience = _PATIENCE[url.scheme]
    store = FsspecStore(_filesystem(url), base, str(url), patience=patience, stop=stop)
    store.reach(_FIRST[url.scheme])
    return store


def _filesystem(url: StoreUrl) -> Any:
    """The file system, with nothing remembered of listings and nothing tried twice behind our back."""
    import fsspec  # here, for a spool in a directory needs none of it

    settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    # It logs each failure with its trace, which is told in one line here.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    if url.scheme == "s3":
        settings["config_kwargs"] = {
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 10,
            "read_timeout": 30,
            # Shards have checksums of their own; those of S3 cost a tenth more time, and not every
            # store that speaks S3 knows them.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filesystem = fsspec.filesystem(url.scheme, **settings)
    except Exception as error:  # whatever a library finds wrong with its settings
        raise _StoreFault.of(error).translated(str(url), 1) from error
    filesystem.retries = 1
    return filesystem

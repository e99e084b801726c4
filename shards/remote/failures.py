"""Classify failures of a store, and write the message for each kind, in one line and without secrets.

The trade-off: obstore has exceptions for the common kinds only; for the others, status and error code are
read from the exception's text.
"""

from __future__ import annotations

import re
from typing import Literal

from darkprep.shards.remote.url import CREDENTIALS

Kind = Literal[
    "bucket", "name", "clock", "region", "denied", "unsupported", "conflict", "range", "missing", "transient", "other"
]  # fmt: skip

_LENGTH = 200
"""Maximum number of characters that are quoted from a library's message."""

_SIGNS: dict[Kind, str] = {
    "bucket": "NoSuchBucket|ContainerNotFound",
    "name": "InvalidPathError",
    "clock": "RequestTimeTooSkewed|RequestExpired",
    "region": "AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraintException|301",
    "denied": "AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed"
    "|PermissionDeniedError|UnauthenticatedError|401|403",
    "unsupported": "NotImplemented|NotSupportedError|501",
    "conflict": "AlreadyExistsError|PreconditionError",
    "range": "416",
    "missing": "FileNotFoundError",
    "transient": ".*(SlowDown|Throttl|TooManyRequests|RequestLimit|rateLimit).*|ServerBusy|RequestTimeout|InternalError"
    r"|ServiceUnavailable|OperationAborted|IncompleteBody|ConditionalRequestConflict|408|429|5\d\d",
}
"""The stores' error codes, obstore's exceptions and HTTP statuses of each kind."""
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


def classify(error: Exception) -> tuple[Kind, str]:
    """Return the kind of failure of an obstore `error`, and a detail for the message."""
    text = str(error)
    code = "".join(re.findall(r"<Code>(\w+)</Code>", text)[:1])
    status = "".join(re.findall(r"status code: (\d{3})", text)[:1])
    detail = f"{status} {code}".strip() if status else reason(text)
    for sign in (code, type(error).__name__, status):
        for kind, signs in _SIGNS.items():
            if re.fullmatch(signs, sign):
                return kind, detail
    return "transient" if "HTTP error" in text else "other", detail


def reason(text: str) -> str:
    """Return why the store did not answer: the innermost message of obstore's error, or its first line."""
    innermost = re.findall(r'message: "([^"]+)"', text) if "HTTP error" in text else []
    line = text.partition("\n")[0].rpartition(" - ")[2]
    return scrubbed(innermost[-1] if innermost else re.sub(r"^Generic \w+ error: ", "", line))


def scrubbed(text: str) -> str:
    """Return the first line of a library's message, shortened, without user names, passwords and queries of URLs."""
    line = (text.splitlines() or [""])[0]
    line = re.sub(r"//[^/\s\"'@]*@", "//", line)
    line = re.sub(r"\?[^\s\"']*", "", line)
    return line[:_LENGTH].rstrip(".")


def message(label: str, kind: Kind, detail: str, attempts: int = 1) -> str:
    """Return the message for a failure of the spool with URL `label`: what is wrong and what to do."""
    scheme = label.partition("://")[0]
    endpoint = _ENDPOINT.get(scheme, "the address")
    after = f" after {attempts} tries" if attempts > 1 else ""
    no_bucket = f"there is no such bucket; create it, or check its name and {endpoint}"
    remedies: dict[Kind, str] = {
        "bucket": no_bucket,
        "missing": no_bucket,
        "name": f"an object has a name that cannot be used ({detail}); delete it, or use another prefix",
        "denied": f"access is denied ({detail}); check that the credentials ({CREDENTIALS.get(scheme)}) are right and may list, get, put and delete there",
        "clock": f"this host's clock is too far from the store's ({detail}); set it",
        "region": f"the bucket is in another region ({detail}); set AWS_DEFAULT_REGION",
        "transient": f"the store does not answer{after} ({detail}); check that it can be reached ({endpoint}, network), and start again",
        "unsupported": f"the store has no conditional writes ({detail}), which keep two producers apart; use S3, Google Cloud Storage, Azure, R2 or MinIO",
    }
    return f"{label}: {remedies.get(kind, f'the store refuses ({detail})')}"

"""What went wrong at a store: kinds of failure, and the message for each, in one line and without secrets.

The trade-off: obstore has an exception for the common kinds only; status and error code of the others are
read from its text.
"""

from __future__ import annotations

import re
from typing import Literal

from darkprep.shards.remote.url import CREDENTIALS

Kind = Literal[
    "missing", "conflict", "range", "bucket", "denied", "clock", "region", "transient", "unsupported", "other"
]  # fmt: skip

_LENGTH = 200
"""Characters of a library's message that are repeated."""

_CODES: dict[Kind, str] = {
    "bucket": "NoSuchBucket|ContainerNotFound",
    "clock": "RequestTimeTooSkewed|RequestExpired",
    "region": "AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraintException",
    "denied": "AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthenticationFailed",
    "transient": ".*(SlowDown|Throttl|TooManyRequests|RequestLimit|rateLimit).*|ServerBusy|RequestTimeout|InternalError"
    "|ServiceUnavailable|OperationAborted|IncompleteBody|ConditionalRequestConflict",
    "unsupported": "NotImplemented",
}
_EXCEPTIONS: dict[str, Kind] = {
    "AlreadyExistsError": "conflict",
    "PreconditionError": "conflict",
    "NotSupportedError": "unsupported",
    "PermissionDeniedError": "denied",
    "UnauthenticatedError": "denied",
    "FileNotFoundError": "missing",
}
_STATUSES: dict[int, Kind] = {
    301: "region",
    401: "denied",
    403: "denied",
    408: "transient",
    416: "range",
    429: "transient",
    501: "unsupported",
}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


def classify(error: Exception) -> tuple[Kind, str]:
    """Return the kind of failure that an exception of obstore stands for, and a detail for the message."""
    text, name = str(error), type(error).__name__
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    found = re.search(r"<Code>(\w+)</Code>", text)
    code = found[1] if found else ""
    detail = f"{status} {code}".strip() if status else reason(text)
    for kind, codes in _CODES.items():
        if re.fullmatch(codes, code):
            return kind, detail
    if name in _EXCEPTIONS:
        return _EXCEPTIONS[name], detail
    if status in _STATUSES:
        return _STATUSES[status], detail
    return "transient" if status >= 500 or "HTTP error" in text else "other", detail


def reason(text: str) -> str:
    """Return why there was no answer: the innermost message of obstore's report, or its first line."""
    innermost = re.findall(r'message: "([^"]+)"', text) if "HTTP error" in text else []
    line = text.partition("\n")[0].rpartition(" - ")[2]
    return scrubbed(innermost[-1] if innermost else re.sub(r"^Generic \w+ error: ", "", line))


def scrubbed(text: str) -> str:
    """Return the first line of a library's message, short, and without user names, passwords and queries of URLs."""
    line = (text.splitlines() or [""])[0]
    line = re.sub(r"//[^/\s\"'@]*@", "//", line)
    line = re.sub(r"\?[^\s\"']*", "", line)
    return line[:_LENGTH].rstrip(".")


def message(label: str, kind: Kind, detail: str, attempts: int = 1) -> str:
    """Return what is wrong at the spool with URL `label`, and what to do."""
    scheme = label.partition("://")[0]
    endpoint = _ENDPOINT.get(scheme, "the address")
    after = f" after {attempts} tries" if attempts > 1 else ""
    remedies: dict[Kind, str] = {
        "bucket": f"there is no such bucket; create it, or check its name and {endpoint}",
        "denied": f"access is denied ({detail}); check that the credentials ({CREDENTIALS.get(scheme)}) are right and may list, get, put and delete there",
        "clock": f"this host's clock is too far from the store's ({detail}); set it",
        "region": f"the bucket is in another region ({detail}); set AWS_DEFAULT_REGION",
        "transient": f"the store does not answer{after} ({detail}); check that it can be reached ({endpoint}, network), and start again",
        "unsupported": f"the store has no conditional writes ({detail}), which keep two producers apart; use S3, Google Cloud Storage, Azure, R2 or MinIO",
    }
    return f"{label}: {remedies.get(kind, f'the store refuses ({detail})')}"

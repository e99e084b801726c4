"""URLs of spools in object storage; they never contain a secret."""

from __future__ import annotations

import re
from dataclasses import dataclass

from darkprep.shards.errors import OptionError

CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID ...",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY ...",
}
"""Per scheme the environment variables that messages name."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.'()=+,~ -]+")


@dataclass(frozen=True)
class StoreUrl:
    """The URL of a spool: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`."""

    scheme: str
    bucket: str
    prefix: str
    """Segments joined by slashes; empty for the whole bucket."""

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Parse a URL. Raises OptionError; its message does not repeat parts of `text` that may be secret."""
        scheme, _, rest = text.partition("://")
        if scheme not in CREDENTIALS:
            raise OptionError(
                f"spool {scheme}://...: is not a known kind of object storage; use s3://..., gs://... or az://..."
            )
        if any(mark in rest for mark in "@?#"):
            raise OptionError(
                f"spool {scheme}://...: must not contain a user name, a query or a fragment; credentials come "
                f"from the environment ({CREDENTIALS[scheme]})"
            )
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        segments = prefix.split("/") if prefix else []
        bad = [part for part in segments if not _SEGMENT.fullmatch(part) or part in (".", "..")]
        if not _BUCKET.fullmatch(bucket) or bad:
            raise OptionError(
                f"spool {text!r}: is not a valid URL; write {scheme}://BUCKET/PREFIX with letters, digits, dots, underscores and hyphens"
            )
        return cls(scheme, bucket, prefix)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

"""Open the source of one side of a pair; only this module decides what kind of file it is."""

from __future__ import annotations

import os
from pathlib import Path

from darkprep.pipeline.pairs.lmdb import LMDB_SUFFIX, LmdbPatch
from darkprep.pipeline.raw.source import RawFile, Source


def is_patch(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the address of a patch in an LMDB file, such as `NAME.db/00000012`."""
    return Path(path).parent.suffix == LMDB_SUFFIX


def source_of_fingerprint(path: str | os.PathLike[str], fingerprint: str) -> Source | None:
    """Return the source at `path` in the edition whose fingerprint is `fingerprint`; None if the file has changed.

    Raises RawError if the file cannot be read.
    """
    newest = open_source(path)
    older = [] if is_patch(path) else [RawFile(Path(path), edition=1)]
    return next((one for one in (newest, *older) if one.fingerprint() == fingerprint), None)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Return the source at `path`: a patch for `NAME.db/00000012`, else a RAW file.

    Nothing is read yet, so this raises no error.
    """
    path = Path(path)
    return LmdbPatch(path) if is_patch(path) else RawFile(path)

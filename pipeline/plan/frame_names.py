"""Names of stored frames: derived from a file's content, so that several plans can share one store."""

from __future__ import annotations

from typing import Literal

from darkprep.pipeline.raw.libraw import libraw_version

FrameKind = Literal["short", "long"]
"""Packed codes of a short exposure, or the development of a long one."""


def frame_name(kind: FrameKind, fingerprint: str) -> str:
    """Return the name under which a frame is stored; `fingerprint` is that of the file.

    LibRaw's version is part of it, since another version may decode or develop differently.
    """
    return f"{kind}-{libraw_version()}-{fingerprint}"

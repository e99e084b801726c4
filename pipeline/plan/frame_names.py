"""Names of stored frames: derived from the content of a file, so that several plans can share one store."""

from __future__ import annotations

from typing import Literal

from darkprep.pipeline.raw.libraw import libraw_version

FrameKind = Literal["short", "long"]
"""Packed codes of an exposure, or the development of a long one."""


def frame_name(kind: FrameKind, fingerprint: str) -> str:
    """Return the name under which a frame is stored; `fingerprint` is the fingerprint of its RAW file.

    The name contains LibRaw's version, because another version may decode or develop differently.
    """
    return f"{kind}-{libraw_version()}-{fingerprint}"

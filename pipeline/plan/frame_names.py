"""Names of stored frames: they follow from a file's content, so that one store serves several plans."""

from __future__ import annotations

from typing import Literal

from darkprep.pipeline.raw.libraw import libraw_version

FrameKind = Literal["short", "long"]
"""Packed codes of a short exposure, or the development of a long one."""


def frame_name(kind: FrameKind, fingerprint: str) -> str:
    """The name under which the frame of a RAW file is stored; `fingerprint` is that of the file's content.

    LibRaw's version is part of it, for another version may decode or develop otherwise.
    """
    return f"{kind}-{libraw_version()}-{fingerprint}"

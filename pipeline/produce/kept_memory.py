"""Let a worker process use freed memory again instead of returning it to the kernel.

A decoded file is a few blocks of tens of megabytes. By default the C library returns each one when it is freed,
and the kernel clears 4 KiB pages again, one fault each, for the next file: half of the time of decoding an
uncompressed Bayer file. The trade-off: a process keeps the memory of its largest file until it ends.
"""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt (malloc.h)."""
_LARGEST_KEPT_BYTES = 128 << 20
"""Larger blocks, those of developing more than 16 megapixels, are still returned."""
_TRIM_ABOVE_BYTES = 512 << 20


@functools.cache
def keep_freed_memory() -> None:
    """Keep freed blocks of up to 128 MiB in this process. Does nothing where the C library has no mallopt."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        set_option(_M_TRIM_THRESHOLD, _TRIM_ABOVE_BYTES)

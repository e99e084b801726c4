"""What rawpy lacks: facts from a header alone, the number of OpenMP threads, and silence on stderr.

The trade-off: C functions of LibRaw and OpenMP are called through ctypes, which a build of rawpy may lack.
Then the facts are None, and the number of threads is not changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import rawpy
import rawpy._rawpy

Indices = npt.NDArray[np.intp]
"""Colour index of each filter: positions in rawpy's `color_desc`."""

SAMPLED = 12
"""Rows and columns of filters that are read: two periods of X-Trans, so that a longer period shows."""


_BEFORE_MAKE, _TEXT_BYTES = 4, 64
"""Layout of LibRaw's libraw_iparams_t: four bytes, then make and model of 64 bytes each."""
_UNSUPPORTED_FORMAT = 1 << 14
"""Flag of LibRaw's decoders that stand for a compression that was left out of the build."""
_LIBRAW_MESSAGE = re.compile(
    rb"^.*: (?:Unexpected end of file|data corrupted at -?\d+)\n?"
    rb"|^(?:Corrupt JPEG data|Premature end of JPEG file|Unsupported marker type|Bogus).*\n?",
    re.MULTILINE,
)


def libraw_version() -> str:
    """Return the version of the LibRaw that is used here, such as `0.22.2`."""
    return ".".join(map(str, rawpy.libraw_version))


@dataclass(frozen=True, eq=False, kw_only=True)
class HeaderFacts:
    """What LibRaw reads from a file's header, and rawpy returns only after it has decoded all pixels."""

    indices: Indices
    """Colour index of each filter at the top left of the visible area, `(12, 12)`."""
    iso: float
    """ISO, also from maker notes; 0 if unknown."""
    exposure_s: float
    """Exposure time in seconds; 0 if unknown."""
    make: str
    model: str
    white_balance: tuple[float, float, float, float]
    """As-shot multipliers of R, G1, B, G2; 0 if unknown."""
    is_decodable: bool
    """Whether this build of LibRaw can decode the file's compression."""


def header_facts(path: str) -> HeaderFacts | None:
    """Return what LibRaw reads from a file's header.

    Returns None if LibRaw's C functions are not available or LibRaw cannot open the file.
    """
    library = _c_library()
    if library is None or not (handle := ctypes.c_void_p(library.libraw_init(0))):
        return None
    try:
        with without_libraw_messages():
            if library.libraw_open_file(handle, os.fsencode(path)):
                return None
        colour, other = library.libraw_COLOR, library.libraw_get_imgother(handle)
        decoder = _DecoderInfo()
        library.libraw_get_decoder_info(handle, ctypes.byref(decoder))
        start = ctypes.addressof(library.libraw_get_iparams(handle).contents) + _BEFORE_MAKE
        texts = (ctypes.string_at(start + at, _TEXT_BYTES) for at in (0, _TEXT_BYTES))
        make, model = (text.split(b"\0")[0].decode("utf-8", "replace").strip() for text in texts)
        return HeaderFacts(
            indices=np.array(
                [[colour(handle, y, x) for x in range(SAMPLED)] for y in range(SAMPLED)]
            ),
            iso=max(0.0, other[0]),
            exposure_s=max(0.0, other[1]),
            make=make,
            model=model,
            white_balance=tuple(library.libraw_get_cam_mul(handle, at) for at in range(4)),
            is_decodable=not decoder.flags & _UNSUPPORTED_FORMAT,
        )
    finally:
        library.libraw_close(handle)


class _DecoderInfo(ctypes.Structure):
    """LibRaw's libraw_decoder_info_t."""

    _fields_ = (("name", ctypes.c_char_p), ("flags", ctypes.c_uint))


@cache
def _c_library() -> ctypes.CDLL | None:
    """Return LibRaw's C functions, found through the libraries to which rawpy's extension module is linked."""
    library = ctypes.CDLL(rawpy._rawpy.__file__)
    try:
        library.libraw_init.restype = ctypes.c_void_p
        library.libraw_get_imgother.restype = ctypes.POINTER(ctypes.c_float)
        library.libraw_get_iparams.restype = ctypes.POINTER(ctypes.c_char)
        library.libraw_get_cam_mul.restype = ctypes.c_float
        needed = (
            library.libraw_open_file, library.libraw_COLOR, library.libraw_close,
            library.libraw_get_decoder_info,
        )  # fmt: skip
    except AttributeError:
        return None
    return library if all(needed) else None


@contextlib.contextmanager
def without_libraw_messages() -> Iterator[None]:
    """Discard what LibRaw prints on stderr within a `with` block; its errors are raised as well.

    What other code of this process prints meanwhile appears afterwards. Costs some microseconds.
    """
    _capture.begin()
    try:
        yield
    finally:
        _capture.end()


class _StderrCapture:
    """Keeps what is written to descriptor 2 while any thread uses LibRaw, and drops LibRaw's lines from it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._descriptors: tuple[int, int] | None = None
        """The real stderr, and the file in memory that takes its place."""

    def begin(self) -> None:
        """Redirect stderr unless another thread has done so."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                # Without stderr, or without a free descriptor, the messages stay where they are.
                with contextlib.suppress(OSError):
                    before = os.dup(2)
                    self._descriptors = before, os.memfd_create("stderr")
                    os.dup2(self._descriptors[1], 2)

    def end(self) -> None:
        """Restore stderr if no other thread uses LibRaw, and write there what is not LibRaw's."""
        with self._lock:
            self._users -= 1
            if self._users or self._descriptors is None:
                return
            before, captured = self._descriptors
            self._descriptors = None
            os.dup2(before, 2)
            os.close(before)
            with os.fdopen(captured, "rb") as file:
                file.seek(0)
                others = _LIBRAW_MESSAGE.sub(b"", file.read())
            with contextlib.suppress(OSError):
                os.write(2, others)


_capture = _StderrCapture()


@contextlib.contextmanager
def single_openmp_thread() -> Iterator[None]:
    """Make LibRaw use one OpenMP thread during a block, in the calling thread, and then restore the number.

    LibRaw's X-Trans demosaic writes tiles in place while other threads read their borders, so with two
    threads its result differs from run to run (LibRaw issue #845).
    """
    before = [get_threads() for get_threads, _ in _openmp()]
    for _, set_threads in _openmp():
        set_threads(1)
    try:
        yield
    finally:
        for (_, set_threads), count in zip(_openmp(), before, strict=True):
            set_threads(count)


@cache
def _openmp() -> tuple[tuple[Callable[[], int], Callable[[int], None]], ...]:
    """Return the functions that get and set the number of threads, for every OpenMP runtime that LibRaw may call.

    They are looked up through rawpy's extension module, which finds the runtime bundled in its wheel, and
    in the global scope, where another library (torch) may have loaded its own runtime first. Returns
    nothing if LibRaw was built without OpenMP.
    """
    found = {}
    for name in (rawpy._rawpy.__file__, None):
        library = ctypes.CDLL(name)
        with contextlib.suppress(AttributeError):
            get_threads, set_threads = library.omp_get_max_threads, library.omp_set_num_threads
            address = ctypes.cast(set_threads, ctypes.c_void_p).value
            found[address] = (get_threads, set_threads)
    return tuple(found.values())

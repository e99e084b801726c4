"""Functions of LibRaw that rawpy lacks: filter colours from a header alone, and the number of OpenMP threads.

The trade-off: both call C functions of LibRaw and OpenMP through ctypes, which a build of rawpy may lack.
Then the filter colours are None, and the number of threads is not changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
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


def libraw_version() -> str:
    """Return the version of the LibRaw that is used here, such as `0.22.2`."""
    return ".".join(map(str, rawpy.libraw_version))


def header_indices(path: str) -> Indices | None:
    """Return the colour index of each filter at the top left of the visible area, `(12, 12)`, from a file's header.

    Returns None if LibRaw's C functions are not available or LibRaw cannot open the file. rawpy itself
    would first unpack all pixels.
    """
    library = _c_library()
    if library is None or not (handle := ctypes.c_void_p(library.libraw_init(0))):
        return None
    try:
        if library.libraw_open_file(handle, os.fsencode(path)):
            return None
        colour = library.libraw_COLOR
        return np.array([[colour(handle, y, x) for x in range(SAMPLED)] for y in range(SAMPLED)])
    finally:
        library.libraw_close(handle)


def header_exposure(path: str) -> tuple[float, float]:
    """Return ISO and exposure time in seconds as LibRaw reads them, also from maker notes; 0 if unknown.

    Returns zeros if LibRaw's C functions are not available or LibRaw cannot open the file.
    """
    library = _c_library()
    if library is None or not (handle := ctypes.c_void_p(library.libraw_init(0))):
        return 0.0, 0.0
    try:
        if library.libraw_open_file(handle, os.fsencode(path)):
            return 0.0, 0.0
        library.libraw_get_imgother.restype = ctypes.POINTER(ctypes.c_float)
        other = library.libraw_get_imgother(handle)
        return other[0], other[1]
    finally:
        library.libraw_close(handle)


def header_camera(path: str) -> tuple[str, str]:
    """Return maker and model as LibRaw reads them, from any container; "" if unknown.

    Returns "" if LibRaw's C functions are not available or LibRaw cannot open the file.
    """
    library = _c_library()
    if library is None or not (handle := ctypes.c_void_p(library.libraw_init(0))):
        return "", ""
    try:
        if library.libraw_open_file(handle, os.fsencode(path)):
            return "", ""
        library.libraw_get_iparams.restype = ctypes.POINTER(ctypes.c_char)
        start = ctypes.addressof(library.libraw_get_iparams(handle).contents) + _BEFORE_MAKE
        texts = (ctypes.string_at(start + at, _TEXT_BYTES) for at in (0, _TEXT_BYTES))
        make, model = (text.split(b"\0")[0].decode("utf-8", "replace") for text in texts)
        return make.strip(), model.strip()
    finally:
        library.libraw_close(handle)


@cache
def _c_library() -> ctypes.CDLL | None:
    """Return LibRaw's C functions, found through the libraries to which rawpy's extension module is linked."""
    library = ctypes.CDLL(rawpy._rawpy.__file__)
    try:
        library.libraw_init.restype = ctypes.c_void_p
        needed = (
            library.libraw_open_file, library.libraw_COLOR, library.libraw_close,
            library.libraw_get_imgother, library.libraw_get_iparams,
        )  # fmt: skip
    except AttributeError:
        return None
    return library if all(needed) else None


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

"""Read plain values and numeric arrays from a pickle without executing anything in it.

The trade-off: an interpreter in Python is slow, but no name in the pickle is ever imported: the few names
that numpy arrays need are replaced by functions here, and any other name is an error.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from darkprep.shards.errors import RawError


def read_inert_pickle(data: bytes, name: str) -> Any:
    """Return the content of a pickle of plain values and numpy arrays; use `floats_of` to convert its arrays.

    Raises RawError with `name` for a pickle with other content.
    """
    try:
        return _InertUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        # Arbitrary bytes can make an interpreter raise any exception there is.
        raise RawError(
            name, f"is not a pickle of plain values and arrays ({error}); download it again"
        ) from error


def floats_of(value: Any) -> npt.NDArray[np.float64]:
    """Convert a value that `read_inert_pickle` returned, an array of floats or numbers, to a float64 array.

    Raises ValueError or TypeError for other values.
    """
    if not isinstance(value, _Array):
        return np.asarray(value, np.float64)
    _, shape, dtype, fortran, data = value.state
    if not isinstance(dtype, _Dtype) or dtype.name not in ("f4", "f8"):
        raise ValueError("not an array of floats")
    flat = np.frombuffer(data, f"{dtype.order if dtype.order in '<>' else '<'}{dtype.name}")
    return flat.reshape(shape, order="F" if fortran else "C").astype(np.float64)


class _Array:
    """The pickled state of a numpy array, kept as data."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Dtype:
    """The pickled name of a dtype, such as `f4`; its state holds the byte order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _latin1(text: str, _encoding: str) -> bytes:
    """Replace `_codecs.encode`, which old pickle protocols use to store bytes."""
    return text.encode("latin-1")


def _from_buffer(data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.state = (1, shape, dtype, order == "F", data)
    return array


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")
_STAND_INS: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): lambda *_: _Array() for module in _ARRAY_MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _BUFFER_MODULES},
    ("numpy", "dtype"): lambda name, *_: _Dtype(str(name)),
    ("numpy", "ndarray"): None,
    ("numpy", "uint16"): "uint16",
    ("_codecs", "encode"): _latin1,
}


class _InertUnpickler(pickle._Unpickler):
    """A pickle interpreter that accepts the names in _STAND_INS and no others.

    It uses the interpreter written in Python, because the one in C allocates as much memory as a file
    requests.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not allowed")
        return _STAND_INS[module, name]

"""Read plain values and numeric arrays from a pickle without executing anything in it.

The trade-off: an interpreter in Python is slow, but no name in the pickle is ever imported: the few names
that numpy arrays need are replaced by functions here, and any other name is an error.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

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
        _check_numbers(value, 2)
        return np.asarray(value, np.float64)
    _, shape, dtype, fortran, data = value.state
    if not isinstance(dtype, _Dtype) or dtype.name not in ("f4", "f8"):
        raise ValueError("not an array of floats")
    flat = np.frombuffer(data, f"{dtype.order if dtype.order in '<>' else '<'}{dtype.name}")
    return flat.reshape(shape, order="F" if fortran else "C").astype(np.float64)


def _check_numbers(value: Any, depth: int) -> None:
    """Raise ValueError unless `value` is a number, or nested lists of at most 64 items whose items are numbers.

    Depth and length are limited because a small pickle can hold the same list many times in a list.
    """
    if isinstance(value, list | tuple) and depth and len(value) <= 64:
        for item in value:
            _check_numbers(item, depth - 1)
    elif not isinstance(value, int | float):
        raise ValueError("not numbers")


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
        self.order = _text(state[1])


def _text(value: object) -> str:
    """Return a string that the pickle holds. Other values are refused, because their text may be very long."""
    if not isinstance(value, str | None):
        raise pickle.UnpicklingError("the name of a dtype is not text")
    return str(value)


def _latin1(text: str, _encoding: str) -> bytes:
    """Replace `_codecs.encode`, which old pickle protocols use to store bytes."""
    if len(text) > _LONGEST_BYTES:
        raise pickle.UnpicklingError(
            f"it holds an array of more than {_LONGEST_BYTES} bytes that is stored as text"
        )
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
    ("numpy", "dtype"): lambda name, *_: _Dtype(_text(name)),
    ("numpy", "ndarray"): None,
    ("numpy", "uint16"): "uint16",
    ("_codecs", "encode"): _latin1,
}


def _check_key(key: object) -> None:
    if not isinstance(key, str | bytes | int | float | None):
        raise pickle.UnpicklingError(f"a key of a dictionary is a {type(key).__name__}")


_HANDLERS: dict[int, Any] = getattr(pickle._Unpickler, "dispatch")  # noqa: B009 # not in its stubs
_LONGEST_BYTES = 4096
"""Far more than a colour matrix has."""


class _InertUnpickler(pickle._Unpickler):
    """A pickle interpreter that accepts the names in _STAND_INS and no others.

    It uses the interpreter written in Python, because the one in C allocates as much memory as a file
    requests. Keys of dictionaries are numbers and strings only, because the hash of nested tuples may take
    hours to compute.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_HANDLERS)
    stack: list[Any]

    def load_setitem(self) -> None:
        """Store one item in a dictionary."""
        _check_key(self.stack[-2])
        _HANDLERS[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        """Store several items in a dictionary; they stand on the stack as keys and values in turn."""
        for key in self.stack[::2]:
            _check_key(key)
        _HANDLERS[pickle.SETITEMS[0]](self)

    def load_dict(self) -> None:
        """Create a dictionary from keys and values in turn."""
        for key in self.stack[::2]:
            _check_key(key)
        _HANDLERS[pickle.DICT[0]](self)

    def refuse(self) -> None:
        """Refuse sets, whose items are hashed too."""
        raise pickle.UnpicklingError("it holds a set")

    def load_bytearray(self) -> None:
        """Read bytes; the interpreter's own function allocates the stated size before it reads."""
        _HANDLERS[pickle.BINBYTES8[0]](self)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[_code[0]] = refuse
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not allowed")
        return _STAND_INS[module, name]

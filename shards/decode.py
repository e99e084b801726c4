"""Decode dataclasses from JSON objects: each field must have the type of its annotation, and numbers must be finite.

Plans, calibrations, configurations and logs may come from anyone, so nothing else turns their JSON into
objects that code relies on. The trade-off: only the types that these records have are known here: numbers,
strings, Literals, tuples, dataclasses, unions of them, and mappings, whose content is checked unless it is Any.
"""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

_SMALLEST, _LARGEST = 1e-100, 1e18
"""Numbers outside, except 0, are not valid: their squares and sums would not be finite."""
_LARGEST_INTEGER = 2**63 - 1
_MOST_ITEMS = 500_000
"""Items of a list at most: as many as a pair table has lines."""

Record = TypeVar("Record")


def decode(kind: type[Record], record: object, *, strict: bool = False) -> Record:
    """Create a dataclass from a JSON object; unknown keys are ignored, or refused if `strict`.

    Lists become tuples, and objects the dataclasses that the annotations name. Raises ValueError, which names the
    field that is missing, unknown or invalid, and the errors of the dataclass for a value out of range.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"is not a JSON object, but {short_repr(record)}")  # noqa: TRY004 # a file's, not a caller's
    kinds = _kinds(kind)  # type: ignore[arg-type] # a class is hashable
    if strict and (unknown := [name for name in record if name not in kinds]):
        raise ValueError(f"the field {short_repr(unknown[0])} is unknown")
    values = {}
    for one in dataclasses.fields(kind):  # type: ignore[arg-type] # any dataclass
        if one.name in record:
            values[one.name] = _decoded(one.name, record[one.name], kinds[one.name], strict)
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise ValueError(f"{one.name} is missing")
    return kind(**values)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a number that `decode` accepts for a field of type float."""
    return _is_valid(value, float)


def short_repr(value: object) -> str:
    """Return a value of a file as short text for a message."""
    return reprlib.repr(value)


@functools.cache
def _kinds(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _decoded(name: str, value: Any, kind: Any, strict: bool) -> Any:
    """Return a JSON value as the annotated type. Raises ValueError, which names the field."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _of_union(name, value, get_args(kind), strict)
    if origin is Mapping and isinstance(value, Mapping) and (item := get_args(kind)[1]) is not Any:
        return {
            key: _decoded(f"{name}[{short_repr(key)}]", one, item, strict)
            for key, one in value.items()
        }
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(name, value, get_args(kind), strict)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        try:
            return decode(kind, value, strict=strict)  # type: ignore[arg-type] # a class, as an annotation is
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if not _is_valid(value, kind):
        raise ValueError(f"{name} is not valid: {short_repr(value)}")
    return value


def _of_union(name: str, value: Any, kinds: tuple[Any, ...], strict: bool) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not types.NoneType)
    for kind in others:
        try:
            return _decoded(name, value, kind, strict)
        except ValueError:
            continue
    return _decoded(name, value, last, strict)


def _tuple(name: str, items: Any, kinds: tuple[Any, ...], strict: bool) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        if len(items) > _MOST_ITEMS:
            raise ValueError(f"{name} has more than {_MOST_ITEMS:,} items")
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise ValueError(f"{name} must have {len(kinds)} items, not {len(items)}")
    return tuple(
        _decoded(f"{name}[{number}]", item, kind, strict)
        for number, (item, kind) in enumerate(zip(items, kinds, strict=True))
    )


def _is_valid(value: object, kind: Any) -> bool:
    """Whether a JSON value has the annotated type; numbers must be finite and not absurdly large or small."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(kind))
    if kind is int:
        return type(value) is int and abs(value) <= _LARGEST_INTEGER
    if kind is float:
        return type(value) in (int, float) and (value == 0 or _SMALLEST < abs(value) < _LARGEST)  # type: ignore[arg-type]
    return isinstance(value, get_origin(kind) or kind)

"""Compare what a checkpoint holds with what it is loaded into, before anything is loaded.

Fused Adam reads and writes as many numbers as its parameter has, whatever the size of its state: a state of
another shape would corrupt the process's memory. The trade-off: the state of an optimiser other than Adam is
checked less closely, because its names of tensors are not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Values = Mapping[str, Any]
_LARGEST_STEP = 2.0**53
_MOST_ITEMS = 10_000


class UnfitState(Exception):
    """A value of a checkpoint does not fit what it would replace; the message names the value."""


def check_network(stored: Values, network: torch.nn.Module) -> None:
    """Raise UnfitState unless each tensor has the name, shape, dtype and layout of the one that it replaces."""
    wanted = network.state_dict()
    _check_names("network", stored, set(wanted))
    for name, tensor in wanted.items():
        _check_tensor(f"network {name}", stored[name], tensor)


def check_optimiser(stored: Values, optimiser: torch.optim.Optimizer) -> None:
    """Raise UnfitState unless the state is one of this optimiser, in names, shapes, dtypes, types and ranges.

    Of another optimiser than Adam and AdamW, shapes and dtypes are compared if it is a fused one; the others check
    both themselves when they use them.
    """
    _check_names("optimiser", stored, {"state", "param_groups"})
    is_adam = isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW)
    groups, current = stored["param_groups"], optimiser.state_dict()["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(current):
        raise UnfitState("optimiser: wrong number of parameter groups")
    for group, ours in zip(groups, current, strict=True):
        (_check_group if is_adam else _check_other_group)(group, ours)
    owners = [(one, group) for group in optimiser.param_groups for one in group["params"]]
    state = stored["state"]
    if not isinstance(state, dict):
        raise UnfitState("optimiser: state is not a dictionary")
    for index, values in state.items():
        if type(index) is not int or not 0 <= index < len(owners):
            raise UnfitState("optimiser: state of an unknown parameter")
        parameter, group = owners[index]
        if is_adam:
            _check_adam(f"optimiser {index}", values, parameter, amsgrad=group["amsgrad"])
        else:
            _check_other(f"optimiser {index}", values, parameter, fused=bool(group.get("fused")))


def _check_other_group(group: object, ours: Values) -> None:
    _check_names("optimiser", group, set(ours))
    assert isinstance(group, dict)
    for name, value in group.items():
        _check_setting(f"optimiser {name}", value)
    if group["params"] != ours["params"]:
        raise UnfitState("optimiser params: are others")


def _check_other(what: str, values: object, parameter: Tensor, *, fused: bool) -> None:
    if not isinstance(values, dict):
        raise UnfitState(f"{what}: is not a dictionary")
    for name, value in values.items():
        if fused and isinstance(value, Tensor) and value.ndim:
            _check_tensor(f"{what} {name}", value, parameter)
        else:
            _check_setting(f"{what} {name}", value)


def _check_setting(what: str, value: object) -> None:
    if isinstance(value, Tensor):
        _check_dense(what, value)
    else:
        check_plain(what, list(value) if isinstance(value, tuple) else value)


def check_scaler(stored: Values) -> None:
    """Raise UnfitState unless the state is empty or that of a loss scaler."""
    if not stored:
        return
    _check_names(
        "scaler",
        stored,
        {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"},
    )
    _check_number("scaler scale", stored["scale"], 1e-300, 1e300)
    _check_number("scaler growth_factor", stored["growth_factor"], 1.0, 1e6)
    _check_number("scaler backoff_factor", stored["backoff_factor"], 1e-6, 1.0)
    for name in ("growth_interval", "_growth_tracker"):
        if type(stored[name]) is not int:
            raise UnfitState(f"scaler {name}: is not a whole number")
        _check_number(f"scaler {name}", stored[name], 0, 2**31 - 1)


def check_random(stored: Values) -> None:
    """Raise UnfitState unless the states of the random number generators have the sizes that the installed torch expects."""
    _check_names("random", stored, {"host", "devices"})
    _check_tensor("random host", stored["host"], torch.get_rng_state())
    if not isinstance(stored["devices"], list):
        raise UnfitState("random devices: is not a list")
    used = stored["devices"][: torch.cuda.device_count()]
    for state, ours in zip(used, torch.cuda.get_rng_state_all() if used else [], strict=False):
        _check_tensor("random devices", state, ours)


def check_plain(name: str, value: object) -> None:
    """Raise UnfitState unless `value` is what JSON can hold, with at most 10,000 items and 8 levels.

    Lists that refer to one list many times count as often as they are referred to.
    """
    left, pending = _MOST_ITEMS, [(value, 8)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, dict | list):
            children = list(item.values()) if isinstance(item, dict) else item
            left -= len(children)
            if depth == 0 or left < 0:
                raise UnfitState(f"{name}: has too many items or levels")
            if isinstance(item, dict) and any(type(key) is not str for key in item):
                raise UnfitState(f"{name}: has a key that is not a string")
            pending += [(child, depth - 1) for child in children]
        elif type(item) is int and abs(item) >= 2**63:
            raise UnfitState(f"{name}: has a number of more than 64 bits")
        elif item is not None and type(item) not in (bool, int, float, str):
            raise UnfitState(f"{name}: holds a {type(item).__name__}")


def _check_group(group: object, ours: Values) -> None:
    """Raise UnfitState unless a parameter group has the options of `ours`; Adam adds those that older versions lack."""
    if not isinstance(group, dict):
        raise UnfitState("optimiser: a parameter group is not a dictionary")
    for name, value in group.items():
        if name not in ours:
            raise UnfitState(f"optimiser: unknown option {name!r:.40}")
        what, wanted = f"optimiser {name}", ours[name]
        if name == "betas":
            if type(value) not in (tuple, list) or len(value) != 2:
                raise UnfitState(f"{what}: is not a pair")
            for beta in value:
                _check_number(what, beta, 0.0, 1.0 - 1e-12)
        elif name in ("lr", "eps", "weight_decay"):
            _check_number(what, value, 0.0, 1e6)
        elif type(value) is not type(wanted) or value != wanted:
            raise UnfitState(f"{what}: is not {wanted!r:.40}")
    missing = [
        name
        for name in ("params", "lr", "betas", "eps", "weight_decay", "amsgrad")
        if name not in group
    ]
    if missing:
        raise UnfitState(f"optimiser: lacks {missing[0]}")


def _check_adam(what: str, values: object, parameter: Tensor, *, amsgrad: bool) -> None:
    moments = {"exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if amsgrad else set())
    if not isinstance(values, dict):
        raise UnfitState(f"{what}: is not a dictionary")
    _check_names(what, values, {"step", *moments})
    for name in moments:
        _check_tensor(f"{what} {name}", values[name], parameter)
        if not values[name].isfinite().all():  # the next step would make the weights so too
            raise UnfitState(f"{what} {name}: has values that are not finite")
    _check_tensor(f"{what} step", values["step"], torch.zeros((), dtype=torch.float32))
    _check_number(f"{what} step", float(values["step"]), 0.0, _LARGEST_STEP)


def _check_names(what: str, stored: object, wanted: set[str]) -> None:
    if not isinstance(stored, dict):
        raise UnfitState(f"{what}: is not a dictionary")
    for problem, names in (("lacks", wanted - set(stored)), ("has unknown", set(stored) - wanted)):
        if names:
            raise UnfitState(f"{what}: {problem} {min(map(str, names)):.60}")


def _check_tensor(what: str, stored: object, wanted: Tensor) -> None:
    """Raise UnfitState unless `stored` is a plain tensor in memory with the shape, dtype and strides of `wanted`."""
    if not isinstance(stored, Tensor):
        raise UnfitState(f"{what}: is not a tensor")
    _check_dense(what, stored)
    if stored.dtype != wanted.dtype:
        raise UnfitState(f"{what}: is {stored.dtype}, not {wanted.dtype}")
    if stored.shape != wanted.shape:
        raise UnfitState(f"{what}: has shape {tuple(stored.shape)}, not {tuple(wanted.shape)}")
    if _strides(stored) != _strides(wanted) or stored.is_neg() or stored.is_conj():
        raise UnfitState(f"{what}: has another layout in memory")


def _check_dense(what: str, stored: Tensor) -> None:
    kind = (stored.layout, stored.device.type, stored.is_quantized, stored.is_nested)
    if kind != (torch.strided, "cpu", False, False):
        raise UnfitState(f"{what}: is not a dense tensor in memory")


def _strides(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions with more than one entry; the others have no meaning."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _check_number(what: str, value: object, least: float, largest: float) -> None:
    if type(value) not in (int, float):
        raise UnfitState(f"{what}: is not a number")
    assert isinstance(value, int | float)
    if not least <= value <= largest or not math.isfinite(value):
        raise UnfitState(f"{what}: is not between {least:g} and {largest:g}")

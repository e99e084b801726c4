"""Adam as torch has it, without loading torch's compiler.

torch's optimisers load `torch._dynamo` at their first use, to keep themselves out of compiled graphs: two seconds of
computing and 70 MB before the first step. A training run compiles nothing, so this class has the functions
below torch's decorators. The trade-off: it must not be used inside a function that `torch.compile` compiles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

_step = inspect.unwrap(torch.optim.Adam.step)


class EagerAdam(torch.optim.Adam):
    """`torch.optim.Adam` with the same options, state and results."""

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step, as `torch.optim.Adam.step` does."""
        return _step(self, closure)

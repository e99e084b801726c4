"""Networks of the user's own: any torch module with the contract of a network, under a name `package.module:Class`.

The trade-off: the name is recorded in weights files and only compared; no code is imported because a file names
it, so a program that loads such weights must be given the network again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from darkprep.model.build import CfaKind, Network, Target
from darkprep.model.errors import ModelError

NetworkSource = nn.Module | Callable[..., nn.Module]
"""A torch module, or what returns one: a class or a function, whose parameters may be `cfa`, `target` and `noise_map`."""


def is_own(name: str) -> bool:
    """Return whether the name is of a network or loss of the user's own: `package.module:object`."""
    return ":" in name


def own_network(
    name: str,
    source: NetworkSource,
    cfa: CfaKind = "bayer",
    target: Target = "srgb",
    *,
    noise_map: bool = False,
) -> Network:
    """Return a network that is named `name` and consists of the user's module.

    A class or function is called with those of the arguments `cfa`, `target` and `noise_map` that it has. With
    `noise_map`, the module reads `(B, 2C, h, w)`, as for `build_model`. Raises
    ModelError when it fails, returns something else than a module, or has nothing to train.
    """
    if isinstance(source, nn.Module):
        module: object = source
    else:
        try:
            module = source(**_wanted(source, cfa=cfa, target=target, noise_map=noise_map))
        except Exception as error:
            raise ModelError(
                f"model {name}: cannot be built: {type(error).__name__}: {error}; darkprep passes only `cfa`, `target` and `noise_map`, each if the class accepts it; give all its other arguments a default"
            ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"model {name}: is a {type(module).__name__}, not a torch.nn.Module")
    if isinstance(module, Network):
        return module
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ModelError(f"model {name}: has no parameters to train")
    return Network(name, cfa, module, target=target, noise_map=noise_map)


def _wanted(source: Callable[..., nn.Module], **arguments: str | bool) -> dict[str, str | bool]:
    try:
        parameters = inspect.signature(source).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return {}
    return {name: value for name, value in arguments.items() if name in parameters}

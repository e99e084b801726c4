"""Check, before hours of work, whether the installed torch has kernels for this machine's GPU.

The trade-off: only the list of architectures for which torch was built is compared; no kernel is run. So a
build that lacks a kernel for an architecture on its list is not detected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from darkprep.shards import OptionError

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def check_gpu(device: torch.device) -> None:
    """Raise OptionError for a GPU for which this build of torch has no kernels."""
    if device.type != "cuda":
        return
    problem = missing_kernels(
        torch.cuda.get_device_name(device),
        torch.cuda.get_device_capability(device),
        torch.cuda.get_arch_list(),
    )
    if problem:
        raise OptionError(problem)


def missing_kernels(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """Return the reason why a build for some architectures cannot run on a GPU of a compute capability; None if it can.

    Machine code for sm_XY runs on every X.Z with Z >= Y; PTX for compute_XY runs on every later GPU; a
    letter after the number restricts the code to that GPU (CUDA C++ Programming Guide, "Application
    compatibility").
    """
    if not built_for or any(_runs_on(one, capability) for one in built_for):
        return None
    own = f"sm_{capability[0]}{capability[1]}"
    return (
        f"{name} is {own}, and torch {torch.__version__} has kernels for {', '.join(built_for)} only; "
        f"install a build of torch that has {own} (for a V100, sm_70, one for CUDA 12.6), or use --device cpu"
    )


def unused_gpu() -> str | None:
    """Return a hint if there is an NVIDIA driver but torch was built without CUDA; otherwise None."""
    if torch.version.cuda is None and _NVIDIA_DRIVER.exists():
        return (
            f"this machine has an NVIDIA driver, but torch {torch.__version__} was built without CUDA; "
            f"install a CUDA build to use the GPU"
        )
    return None


def _runs_on(built: str, capability: tuple[int, int]) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", built)
    if not match:
        return False
    kind, major, minor, letter = match[1], int(match[2]), int(match[3]), match[4]
    if letter:
        return (major, minor) == capability
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]

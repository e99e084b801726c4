"""Build each network by its name.

The trade-off: a function per network instead of a configuration object; a new network is one function and
one line in `_BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import Tensor, nn

from darkprep.model.blocks import (
    Head,
    MakeConv,
    ResidualDenseBlock,
    group_normed,
    weight_normed,
)
from darkprep.model.errors import ModelError
from darkprep.model.input_form import InputForm
from darkprep.model.nafnet import NafNet
from darkprep.model.redirt import (
    COARSE,
    FEATURES,
    FuseBlock1,
    FuseBlock2,
    HigherScaleEncoder,
    LowerScaleEncoder,
    MediumScaleEncoder,
    Redirt,
)
from darkprep.model.unet import UNet

CfaKind = Literal["bayer", "xtrans"]
Target = Literal["srgb", "linear", "raw"]
"""What a network restores: developed RGB, camera RGB in linear light, or packed planes."""
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """How a mosaic is packed: number of planes and size of a cell."""

    planes: int
    """Number of packed planes."""
    cell: int
    """Mosaic pixels per packed pixel, in each direction."""
    head_groups: int
    """Groups of the higher-scale encoder's first convolution; no group reads two planes or more than 16 values."""
    noise_map: bool = False
    """Whether a network also reads the noise level of each value of the planes."""

    @property
    def inputs(self) -> int:
        """Number of planes that a network reads."""
        return self.planes * (2 if self.noise_map else 1)

    def head(self, target: Target) -> Head:
        """Return the form of a network's output for a target."""
        if target == "raw":
            return Head(outputs=self.planes, shuffle=1)
        return Head(outputs=3 * self.cell**2, shuffle=self.cell)


MOSAICS: dict[CfaKind, Mosaic] = {
    "bayer": Mosaic(planes=4, cell=2, head_groups=128),
    "xtrans": Mosaic(planes=9, cell=3, head_groups=144),
}
_WITH_NOISE_MAP: dict[CfaKind, Mosaic] = {
    "bayer": Mosaic(planes=4, cell=2, head_groups=128, noise_map=True),
    "xtrans": Mosaic(planes=9, cell=3, head_groups=288, noise_map=True),
}


class Network(nn.Module):
    """Base class of the networks; holds name, CFA, target and the input planes, and checks the shape of the input."""

    multiple = COARSE
    """Packed height and width must be multiples of this."""

    def __init__(
        self,
        name: str,
        cfa: CfaKind,
        body: nn.Module,
        *,
        target: Target = "srgb",
        noise_map: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.cfa = cfa
        self.target = target
        self.noise_map = noise_map
        """Whether the input is followed by as many planes with the noise level of each value."""
        self.body = body
        self.input_form = InputForm()
        """The form of the planes that `body` reads."""
        self.cameras = ""
        """The colours of the training cameras as text, which the weights file stores; "" if unknown."""
        self.note = ""
        """What the weights file states about its weights, such as their licence."""

    @property
    def mosaic(self) -> Mosaic:
        """How the network's input is packed."""
        return (_WITH_NOISE_MAP if self.noise_map else MOSAICS)[self.cfa]

    @property
    def scale(self) -> int:
        """Pixels of the output per packed pixel, in each direction."""
        return self.mosaic.head(self.target).shuffle

    def forward(self, packed: Tensor) -> Tensor:
        """Return the restored target in [0, 1] for `(B, C, h, w)` float planes, with a noise-level map `(B, 2C, h, w)`.

        The output is RGB `(B, 3, cell*h, cell*w)`, or planes `(B, C, h, w)` with the target `raw`. The
        input planes have black subtracted, are normalised to white = 1, amplified, and not clipped; C more planes
        hold the standard deviation of each value, if the network has a noise-level map. h and w
        are multiples of 16; the network that `ready_for_inference` returns accepts any size. Raises
        ModelError.
        """
        check_planes(packed, self.name, self.cfa, noise_map=self.noise_map)
        height, width = packed.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise ModelError(
                f"{self.name} needs packed sizes that are multiples of {self.multiple}, not "
                f"{height}x{width}; for other sizes, use the network that ready_for_inference(model) returns"
            )
        restored = cast(Tensor, self.body(self.input_form.converted(packed)))
        return self.input_form.reordered(restored) if self.target == "raw" else restored


def check_planes(packed: Tensor, name: str, cfa: CfaKind, *, noise_map: bool = False) -> None:
    """Raise ModelError unless `packed` is `(B, C, h, w)` with as many planes C as the CFA has, with a map twice as many."""
    planes = (_WITH_NOISE_MAP if noise_map else MOSAICS)[cfa].inputs
    if packed.ndim != 4 or packed.shape[1] != planes:
        form = f"{name} for {cfa}" + (" with a noise-level map" if noise_map else "")
        raise ModelError(
            f"{form} reads (B, {planes}, h, w), not {tuple(packed.shape)}; "
            f"use weights that were trained for the colour filter array of the input"
        )


def _redirt(mosaic: Mosaic, target: Target, layers: tuple[int, ...], make_conv: MakeConv) -> Redirt:
    outputs = 3 * mosaic.cell**2
    return Redirt(
        higher=HigherScaleEncoder(
            mosaic.inputs,
            mosaic.head_groups,
            [ResidualDenseBlock(FEATURES, n, make_conv) for n in layers],
        ),
        medium=MediumScaleEncoder(mosaic.inputs),
        lower=LowerScaleEncoder(mosaic.inputs, outputs),
        fuse1=FuseBlock1(outputs),
        fuse2=FuseBlock2(2 * outputs, mosaic.head(target)),
    )


def _published(mosaic: Mosaic, target: Target) -> nn.Module:
    return _redirt(mosaic, target, (4, 5, 5), weight_normed)


def _two_blocks(mosaic: Mosaic, target: Target) -> nn.Module:
    return _redirt(mosaic, target, (4, 5), weight_normed)


def _group_norm(mosaic: Mosaic, target: Target) -> nn.Module:
    return _redirt(mosaic, target, (4, 5, 5), group_normed)


def _sid(mosaic: Mosaic, target: Target) -> nn.Module:
    return UNet(mosaic.inputs, mosaic.head(target), keeps_negative=False)


def _unet(mosaic: Mosaic, target: Target) -> nn.Module:
    return UNet(mosaic.inputs, mosaic.head(target), keeps_negative=True)


def _nafnet(mosaic: Mosaic, target: Target) -> nn.Module:
    return NafNet(mosaic.inputs, mosaic.head(target))


_BUILDERS: dict[str, Callable[[Mosaic, Target], nn.Module]] = {
    "redirt": _published,
    "redirt-2rdb": _two_blocks,
    "redirt-gn": _group_norm,
    "sid": _sid,
    "unet": _unet,
    "nafnet": _nafnet,
}

MODELS = tuple(_BUILDERS)
"""The names that `build_model` accepts."""


def build_model(
    name: str, cfa: CfaKind = "bayer", target: Target = "srgb", *, noise_map: bool = False
) -> Network:
    """Return a network with random initial weights, drawn from torch's global generator.

    `name` is one of MODELS, `cfa` is `bayer` (4 planes) or `xtrans` (9 planes), `target` is what the
    network restores, one of TARGETS. With `noise_map` it reads twice as many planes: the second half is the noise
    level of each value of the first. Raises ModelError for another name; its message lists the valid names.
    """
    if name not in _BUILDERS:
        raise ModelError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    if cfa not in MOSAICS:
        raise ModelError(f"unknown colour filter array {cfa!r}; choose from {', '.join(MOSAICS)}")
    if target not in TARGETS:
        raise ModelError(f"unknown target {target!r}; choose from {', '.join(TARGETS)}")
    mosaic = (_WITH_NOISE_MAP if noise_map else MOSAICS)[cfa]
    body = _BUILDERS[name](mosaic, target)
    return Network(name, cfa, body, target=target, noise_map=noise_map)

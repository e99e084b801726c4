"""REDIRT as published, spelled out from the paper's tables and run plainly, to compare with.

Shares no code with `model/`: functions over a dictionary of tensors under the released names. The
tests compare `model/` with it, and `bench_model.py` measures against it. The trade-off: nothing
here is made fast. Like the released network it takes the one-plane mosaic, normalises every weight
at every call, and keeps each intermediate tensor until the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, leaky_relu, pixel_shuffle

State = dict[str, Tensor]

# name, inputs per group, outputs, kernel, bias
_LAYERS = [
    ("conv32x.0.0", 8, 128, 3, True),
    ("conv32x.1.0", 128, 64, 3, True),
    ("conv_rdb8x.0", 4, 64, 3, True),
    ("resblock8x.conv1.0", 64, 64, 3, True),
    ("resblock8x.conv2.0", 64, 64, 3, True),
    ("conv32_8_cat.0.0", 32, 32, 3, True),
    ("conv32_8_cat.1.0", 32, 192, 3, True),
    ("conv2x.0", 4, 12, 5, True),
    ("conv_2_8_32.0", 24, 12, 5, True),
    ("rdball.0", 192, 64, 1, False),
]
_BLOCKS = {"RDB1": 4, "RDB2": 5, "RDB3": 5}


def checkpoint(seed: int) -> State:
    """A random checkpoint of the released names and shapes: 63 tensors, 784,768 numbers."""
    layers = list(_LAYERS)
    for block, depth in _BLOCKS.items():
        for n in range(depth):
            layers.append((f"{block}.dense_layers.{n}.conv.{min(n, 1)}", 64 + 32 * n, 32, 3, False))
        layers.append((f"{block}.conv_1x1.0", 64 + 32 * depth, 64, 1, False))
    random = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, inputs, outputs, kernel, bias in layers:
        direction = torch.randn(outputs, inputs, kernel, kernel, generator=random)
        length = direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        spread = torch.rand(outputs, 1, 1, 1, generator=random) + 0.5
        state[f"{name}.weight_g"] = spread * math.sqrt(0.7)
        state[f"{name}.weight_v"] = direction / length.mean() * 3
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs, generator=random) * 0.05
    return state


def restore(state: State, mosaic: Tensor) -> Tensor:
    """`(B, 1, H, W)`, H and W multiples of 32, to `(B, 3, H, W)` in [0, 1]."""

    def layer(x: Tensor, name: str, groups: int = 1) -> Tensor:
        g, v = state[f"{name}.weight_g"], state[f"{name}.weight_v"]
        weight = v * (g / v.pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt())
        return conv2d(x, weight, state.get(f"{name}.bias"), padding=v.shape[-1] // 2, groups=groups)

    half = _space_to_depth(mosaic, 2)

    start = layer(layer(_space_to_depth(half, 16), "conv32x.0.0", 128), "conv32x.1.0")
    x, blocks = start, []
    for block, depth in _BLOCKS.items():
        dense = x
        for n in range(depth):
            seen = leaky_relu(dense, 0.2) if 0 < n < depth - 1 else dense
            new = layer(seen, f"{block}.dense_layers.{n}.conv.{min(n, 1)}")
            dense = torch.cat((dense, new), 1)
        x = layer(dense, f"{block}.conv_1x1.0") + x
        blocks.append(x)
    far = pixel_shuffle(layer(torch.cat(blocks, 1), "rdball.0") + start, 4)
    far = layer(far, "conv_rdb8x.0")

    eighth = _space_to_depth(half, 4)
    middle = leaky_relu(layer(eighth, "resblock8x.conv1.0"), 0.2)
    middle = layer(middle, "resblock8x.conv2.0") + eighth

    both = torch.stack((middle, far), 2).flatten(1, 2)
    fused = layer(layer(both, "conv32_8_cat.0.0", 4), "conv32_8_cat.1.0")
    fused = pixel_shuffle(leaky_relu(fused, 0.2), 4)

    near = layer(half, "conv2x.0")
    rgb = pixel_shuffle(layer(torch.cat((near, fused), 1), "conv_2_8_32.0"), 2)
    return torch.clamp(rgb, 0, 1)


def _space_to_depth(x: Tensor, r: int) -> Tensor:
    """out[b, c*r*r + i*r + j, y, x] = in[b, c, y*r + i, x*r + j]."""
    batch, planes, height, width = x.shape
    cells = x.reshape(batch, planes, height // r, r, width // r, r).permute(0, 1, 3, 5, 2, 4)
    return cells.reshape(batch, planes * r * r, height // r, width // r)

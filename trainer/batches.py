"""Functions of tensors for a training loop of one's own: decode batches, and crop and augment them.

The trade-off: each call allocates its results, while DeviceStream writes all batches into the same memory;
the values are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from darkprep.shards.batch import Batch
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, PLANES, CfaKind, SampleMeta
from darkprep.trainer.augment import Augmentation, CropGeometry, Cropper
from darkprep.trainer.config import AugmentMode
from darkprep.trainer.stream import ArrayLike, DeviceBatch, light, unit_range

_CFA_OF_PLANES: dict[int, CfaKind] = {planes: cfa for cfa, planes in PLANES.items()}


def decode_batch(
    low: Tensor,
    gt: Tensor,
    *,
    black: ArrayLike,
    white: ArrayLike,
    amplification: ArrayLike,
    gt_black: ArrayLike | None = None,
    gt_white: ArrayLike | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the network's input and the truth of a batch of integer codes, as float32 in new memory.

    `low` is `(B, C, h, w)` packed codes; the result is `(low - black) / (white - black) * amplification`, not
    clipped: 0 is the black level, `amplification` the white level. `gt` is `(B, 3, H, W)` and is divided by
    65535. With the target `raw` it is `(B, C, h, w)` codes with the levels `gt_black` and `gt_white`, and
    becomes `(gt - gt_black) / (gt_white - gt_black)`, clipped to [0, 1]. `low` and `gt` are uint16 on any device;
    black levels are `(B, C)`, white levels and amplifications `(B,)`, tensors or sequences.

    Raises OptionError if the shapes do not fit. Source of the formula: shards/FORMAT.md.
    """
    for name, value, shape in (
        ("black", black, low.shape[:2]),
        ("white", white, low.shape[:1]),
        ("amplification", amplification, low.shape[:1]),
        ("gt_black", gt_black, gt.shape[:2]),
        ("gt_white", gt_white, gt.shape[:1]),
    ):
        if value is not None and torch.as_tensor(value).shape != shape:
            raise OptionError(
                f"{name} must have the shape {tuple(shape)}, not {tuple(torch.as_tensor(value).shape)}"
            )
    decoded = light(low, black=black, white=white, amplification=amplification)
    if gt_black is None or gt_white is None:
        return decoded, unit_range(gt)
    ones = torch.ones(len(gt))
    truth = light(gt, black=gt_black, white=gt_white, amplification=ones)
    return decoded, truth.clamp_(0, 1)


def augment_batch(
    low: Tensor,
    gt: Tensor,
    key: Sequence[str],
    use: Tensor | Sequence[int],
    *,
    crop: int,
    augment: AugmentMode = "cfa",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return a square crop of `crop` mosaic pixels of each sample, flipped and transposed, in new memory.

    `low` is `(B, C, h, w)` with C = 4 (Bayer) or 9 (X-Trans), `gt` is `(B, 3, H, W)` or `(B, C, h, w)`; both of any
    dtype, integer codes too, on one device. Returns `(B, C, crop/cell, crop/cell)`, and `(B, 3, crop, crop)` or the
    shape of the first; the cell is 2 for Bayer and 3 for X-Trans. Values are moved, never changed.

    What is done to a sample follows from (`seed`, its `key`, its `use`) alone: with a seed of a training, it
    is what the training does. The modes are those of `--augment`: `cfa` keeps the phase of the colour filter
    array, so that every plane keeps its colour; `paper` are the published flips; `none` cuts the middle.
    Black has to be subtracted before, since it belongs to the plane that the camera recorded: a flip
    moves values between planes.

    Raises OptionError for another number of planes, keys or uses, or a crop that does not fit.
    """
    cfa = _CFA_OF_PLANES.get(low.shape[1]) if low.ndim == 4 else None
    if cfa is None:
        raise OptionError(f"low must have the shape (B, 4 or 9, h, w), not {tuple(low.shape)}")
    uses = torch.as_tensor(use).tolist()
    if not len(key) == len(uses) == len(low) == len(gt):
        raise OptionError(
            f"`low`, `gt`, `key` and `use` must have equal lengths, not {len(low)}, {len(gt)}, {len(key)} and {len(uses)}"
        )
    height, width = (side * CELL[cfa] for side in low.shape[-2:])
    if gt.shape not in (low.shape, (len(low), 3, height, width)):
        raise OptionError(
            f"gt must have the shape {(len(low), 3, height, width)} or that of low, not {tuple(gt.shape)}"
        )
    augmentation = _augmentation(cfa, height, width, crop, augment, seed)
    transforms = [augmentation.draw(name, count) for name, count in zip(key, uses, strict=True)]
    cropped = Cropper(augmentation.geometry, low.device).apply(
        _signed(low), _signed(gt), transforms
    )
    return cropped[0].view(low.dtype), cropped[1].view(gt.dtype)


@lru_cache(maxsize=8)
def _augmentation(
    cfa: CfaKind, height: int, width: int, crop: int, augment: AugmentMode, seed: int
) -> Augmentation:
    geometry = CropGeometry(cfa=cfa, height=height, width=width, crop=crop)
    return Augmentation(geometry=geometry, mode=augment, seed=seed)


def _signed(values: Tensor) -> Tensor:
    """Return uint16 values as int16, because most of torch's kernels lack uint16; the bits are only moved."""
    return values.view(torch.int16) if values.dtype == torch.uint16 else values


def batch_record(
    batch: Batch | DeviceBatch, low: Tensor, gt: Tensor, *, index: int, levels: bool
) -> dict[str, Any]:
    """Return a batch as SpoolDataset yields it: tensors `low` and `gt`, and what is known about their samples."""
    metas = batch.metas
    record = {
        "low": low,
        "gt": gt,
        "key": [meta.key for meta in metas],
        "pair": [meta.pair for meta in metas],
        "camera": [meta.camera for meta in metas],
        "use": torch.tensor(batch.uses),
        "ratio": torch.tensor([meta.ratio for meta in metas]),
        "index": index,
    }
    return record | _levels(metas) if levels else record


def _levels(metas: Sequence[SampleMeta]) -> dict[str, Tensor]:
    """Return the arguments of `decode_batch` for the samples, as float64 tensors."""
    levels: dict[str, Any] = {
        "black": [meta.black for meta in metas],
        "white": [meta.white for meta in metas],
        "amplification": [meta.amplification for meta in metas],
    }
    if metas[0].target == "raw":
        levels["gt_black"] = [meta.gt_black for meta in metas]
        levels["gt_white"] = [meta.gt_white for meta in metas]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in levels.items()}

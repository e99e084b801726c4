"""Brings a reader's batches to the device: copied aside, decoded, amplified and augmented there.

uint16 crosses the bus, a quarter of the time that floats of both arrays would take with their
staging copy; on CUDA batch n+1 crosses while batch n trains. The trade-off: buffers are used again
on both sides, so a batch is lent until the next one is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkprep.shards.batch import Batch
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, CfaKind, SampleMeta
from darkprep.trainer.augment import Augmentation, Cropper, Geometry
from darkprep.trainer.config import AugmentMode
from darkprep.trainer.prefetch import BatchReader, prefetcher_for


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceBatch:
    """A batch as the network takes it. The tensors are lent until the next batch is asked for."""

    index: int
    """Number of the global batch, from 0."""
    low: Tensor
    """`(B, C, h, w)` float32: black-subtracted, white = 1, amplified, not clipped."""
    gt: Tensor
    """`(B, 3, H, W)` float32 sRGB in [0, 1]."""
    metas: tuple[SampleMeta, ...]
    uses: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The samples' keys, to name them by."""
        return tuple(meta.key for meta in self.metas)


class DeviceStream:
    """An iterator of DeviceBatch over a reader.

    `crop` is the side of the square that is cut from each stored sample. Raises OptionError when it
    does not fit, and whatever the reader raises.
    """

    def __init__(
        self,
        reader: BatchReader,
        device: torch.device,
        *,
        cfa: CfaKind,
        crop: int,
        augment: AugmentMode = "cfa",
        seed: int = 0,
    ) -> None:
        self._reader = reader
        self._device = device
        self._cfa, self._crop, self._mode, self._seed = cfa, crop, augment, seed
        self._decoder: Decoder | None = None
        self._carrier = prefetcher_for(device)

    def __iter__(self) -> Iterator[DeviceBatch]:
        return self

    def __next__(self) -> DeviceBatch:
        """The next batch; the one before becomes invalid."""
        batch, low, gt = self._carrier.bring(self._reader)
        if self._decoder is None:
            self._decoder = self._make_decoder(batch)
        low, gt = self._decoder.decode(low, gt, batch.metas, batch.uses)
        self._carrier.taken()
        return DeviceBatch(index=batch.index, low=low, gt=gt, metas=batch.metas, uses=batch.uses)

    def wait_s(self) -> float:
        """How long the device stood still for want of data, so far.

        On CUDA the time between the end of one step's work and the arrival of the next batch, by
        the device's own clock; on the CPU the time that the reader made us wait.
        """
        return self._carrier.wait_s()

    def _make_decoder(self, batch: Batch) -> Decoder:
        height, width = batch.gt.shape[-2:]
        if batch.low.shape[-2] * CELL[self._cfa] != height or batch.metas[0].cfa != self._cfa:
            raise OptionError(
                f"the samples are {batch.metas[0].cfa}, the network is for {self._cfa}; "
                f"train it on a spool of such a camera"
            )
        geometry = Geometry(cfa=self._cfa, height=height, width=width, crop=self._crop)
        augmentation = Augmentation(geometry=geometry, mode=self._mode, seed=self._seed)
        return Decoder(augmentation, self._device)


class Decoder:
    """Integer codes to what the network takes, on one device, into buffers that are used again."""

    def __init__(self, augmentation: Augmentation, device: torch.device) -> None:
        self._augmentation = augmentation
        self._device = device
        self._cropper = Cropper(augmentation.geometry, device)
        self._low = torch.empty(0, device=device)
        self._gt = torch.empty(0, device=device)

    def decode(
        self, low: Tensor, gt: Tensor, metas: tuple[SampleMeta, ...], uses: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Decode, then cut and augment.

        `low` (B, C, h, w) and `gt` (B, 3, H, W) are uint16 on the device. Returns float32
        (B, C, crop/cell, crop/cell) and (B, 3, crop, crop).
        """
        moves = [
            self._augmentation.draw(meta.key, use) for meta, use in zip(metas, uses, strict=True)
        ]
        # Before the cut, for black belongs to the plane that the camera recorded, and a flip
        # moves values between planes.
        self._low = amplified(low, metas, out=self._low)
        # int16 has every kernel, uint16 has few; the bits are only moved.
        cut_low, cut_gt = self._cropper.apply(self._low, gt.view(torch.int16), moves)
        self._gt = unit_range(cut_gt.view(torch.uint16), out=self._gt)
        return cut_low, self._gt


def amplified(low: Tensor, metas: tuple[SampleMeta, ...], *, out: Tensor | None = None) -> Tensor:
    """`(low - black) / (white - black) * amplification` per plane (shards/FORMAT.md).

    `low` is `(B, C, h, w)` uint16; the result float32 of its shape, in `out` where its shape fits.
    """
    black = torch.tensor([meta.black for meta in metas], dtype=torch.float64)
    white = torch.tensor([[meta.white] for meta in metas], dtype=torch.float64)
    gain = torch.tensor([[meta.amplification] for meta in metas], dtype=torch.float64)
    scale = gain / (white - black)
    factors = torch.stack([black, scale]).float()[..., None, None]
    offset, slope = factors.to(low.device, non_blocking=True).unbind(0)
    return _fitting(out, low).copy_(low).sub_(offset).mul_(slope)


def unit_range(gt: Tensor, *, out: Tensor | None = None) -> Tensor:
    """uint16 to float32 in [0, 1], in `out` where its shape fits."""
    return _fitting(out, gt).copy_(gt).div_(np.iinfo(np.uint16).max)


def _fitting(out: Tensor | None, like: Tensor) -> Tensor:
    if out is not None and out.shape == like.shape and out.device == like.device:
        return out
    return torch.empty(like.shape, dtype=torch.float32, device=like.device)

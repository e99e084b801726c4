"""A reader's batches on the device: copied in the background, then decoded, amplified and augmented on the device.

Arrays are copied to the device as uint16, in a quarter of the time that float arrays and their staging copy
would take. The trade-off: buffers are reused on host and device, so a batch is valid only until the next
one is requested, unless a stream is asked for batches that own their memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from darkprep.shards.batch import Batch
from darkprep.shards.errors import OptionError
from darkprep.shards.format import CELL, CfaKind, SampleMeta, Target
from darkprep.trainer.augment import Augmentation, CropGeometry, Cropper
from darkprep.trainer.config import AugmentMode
from darkprep.trainer.noise_map import NoiseOf, with_noise_map
from darkprep.trainer.prefetch import BatchReader, prefetcher_for
from darkprep.trainer.shot_noise import ShotNoiseAugmentation

ArrayLike = Tensor | npt.ArrayLike
"""A tensor, or what can become one: an array or nested sequences of numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceBatch:
    """A batch in the form that the network takes, valid as its stream states."""

    index: int
    """Number of the global batch, from 0."""
    low: Tensor
    """`(B, C, h, w)` float32: black-subtracted, white = 1, amplified, not clipped; with a noise-level map
    `(B, 2C, h, w)`, the second half being the standard deviation of each value."""
    gt: Tensor
    """float32 in [0, 1]: `(B, 3, H, W)` sRGB or camera RGB, or `(B, C, h, w)` planes, as the target says."""
    metas: tuple[SampleMeta, ...]
    uses: tuple[int, ...]
    """How many times each sample was used before."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the samples."""
        return tuple(meta.key for meta in self.metas)


class DeviceStream:
    """An iterator of DeviceBatch over the batches of a reader.

    A batch is valid until the next one is requested; with `owned`, it has memory of its own. `crop` is the side in
    mosaic pixels of the square that is cut from each stored sample. `shot_noise` adds light with its shot noise,
    for the target `raw` only. `noise_of` returns the noise level of each sample for a noise-level map. Raises OptionError when the crop does not fit into the samples or the samples are of another CFA or target, and
    whatever the reader raises.
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
        target: Target = "srgb",
        owned: bool = False,
        shot_noise: ShotNoiseAugmentation | None = None,
        noise_of: NoiseOf | None = None,
    ) -> None:
        if shot_noise is not None and target != "raw":
            raise OptionError(
                f"shot_noise needs a truth in the sensor's own planes, but the target is {target}; train on a spool that was built with --target raw"
            )
        self._shot_noise, self._noise_of = shot_noise, noise_of
        self._reader = reader
        self._device = device
        self._cfa, self._crop, self._augment, self._seed = cfa, crop, augment, seed
        self._target, self._owned = target, owned
        self._decoder: BatchDecoder | None = None
        self._prefetcher = prefetcher_for(device)

    def __iter__(self) -> Iterator[DeviceBatch]:
        return self

    def __next__(self) -> DeviceBatch:
        """Return the next batch; the previous batch becomes invalid unless batches own their memory."""
        batch, low, gt = self._prefetcher.next_batch(self._reader)
        if self._decoder is None:
            self._decoder = self._decoder_for(batch)
        low, gt = self._decoder.decode(low, gt, batch.metas, batch.uses)
        light: list[float] | None = None
        if self._shot_noise is not None:
            low, light = self._shot_noise.lit(low, gt, batch.metas, batch.uses)
        if self._noise_of is not None:
            levels = list(map(self._noise_of, batch.metas))
            low = with_noise_map(low, batch.metas, levels, light=light)
        self._prefetcher.release()
        return DeviceBatch(index=batch.index, low=low, gt=gt, metas=batch.metas, uses=batch.uses)

    def wait_s(self) -> float:
        """Return for how many seconds the device has waited for data.

        On CUDA, this is the time between the end of one step's work and the arrival of the next batch,
        measured by the device's own clock; on a CPU, the time spent in the reader.
        """
        return self._prefetcher.wait_s()

    def _decoder_for(self, batch: Batch) -> BatchDecoder:
        cell, first = CELL[self._cfa], batch.metas[0]
        height, width = (side * cell for side in batch.low.shape[-2:])
        if first.target != self._target:
            raise OptionError(
                f"the samples have the target {first.target}, but the network restores {self._target}; "
                f"train it on a spool that was built with --target {self._target}"
            )
        if first.cfa != self._cfa or (self._target != "raw" and batch.gt.shape[-2] != height):
            raise OptionError(
                f"the samples are {first.cfa}, but the network is for {self._cfa}; "
                f"train it on a spool whose samples are {self._cfa}"
            )
        geometry = CropGeometry(cfa=self._cfa, height=height, width=width, crop=self._crop)
        augmentation = Augmentation(geometry=geometry, mode=self._augment, seed=self._seed)
        return BatchDecoder(augmentation, self._device, owned=self._owned)


class BatchDecoder:
    """Turns the integer codes of samples into the network's input on one device.

    The results are written into reused buffers; with `owned`, into new memory each time.
    """

    def __init__(
        self, augmentation: Augmentation, device: torch.device, *, owned: bool = False
    ) -> None:
        self._augmentation = augmentation
        self._device = device
        self._owned = owned
        self._cropper = Cropper(augmentation.geometry, device)
        self._low = torch.empty(0, device=device)
        self._gt = torch.empty(0, device=device)

    def decode(
        self, low: Tensor, gt: Tensor, metas: tuple[SampleMeta, ...], uses: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Decode, crop and augment a batch.

        `low` (B, C, h, w) and `gt` (B, 3, H, W), or (B, C, h, w) with the target `raw`, are uint16 on the
        device. Returns float32 (B, C, crop/cell, crop/cell), and (B, 3, crop, crop) or the first shape again.
        """
        transforms = [
            self._augmentation.draw(meta.key, use) for meta, use in zip(metas, uses, strict=True)
        ]
        # Before the crop: black belongs to the plane that the camera recorded, and a flip moves
        # values between planes.
        self._low = network_input(low, metas, out=self._low)
        if metas[0].target == "raw":
            self._gt = raw_truth(gt, metas, out=self._gt)
            cropped_low, truth = self._cropper.apply(self._low, self._gt, transforms)
        else:
            # int16 because most of torch's kernels lack uint16; the bits are only moved.
            cropped_low, cropped_gt = self._cropper.apply(
                self._low, gt.view(torch.int16), transforms
            )
            truth = unit_range(cropped_gt.view(torch.uint16), out=self._gt)
            self._gt = self._gt if self._owned else truth
        if self._owned:
            self._cropper.forget(cropped_low, truth)
        return cropped_low, truth


def network_input(
    low: Tensor, metas: tuple[SampleMeta, ...], *, out: Tensor | None = None
) -> Tensor:
    """Return `(low - black) / (white - black) * amplification`, with a black level per plane (shards/FORMAT.md).

    `low` is `(B, C, h, w)` uint16 codes. The result is float32 of the same shape, not clipped: the black
    level becomes 0 and the white level becomes `amplification`. It is written to `out` if `out` has the
    right shape and device.
    """
    return light(
        low,
        black=[meta.black for meta in metas],
        white=[meta.white for meta in metas],
        amplification=[meta.amplification for meta in metas],
        out=out,
    )


def raw_truth(gt: Tensor, metas: tuple[SampleMeta, ...], *, out: Tensor | None = None) -> Tensor:
    """Return `(gt - gt_black) / (gt_white - gt_black)`, clipped to [0, 1], for samples of the target `raw`.

    `gt` is `(B, C, h, w)` uint16 codes; the result is float32 of the same shape, written to `out` if `out`
    has the right shape and device. ELD, PMN and LED clip their truth so.
    """
    black = [meta.gt_black for meta in metas]
    white = [meta.gt_white for meta in metas]
    return light(gt, black=black, white=white, amplification=[1.0] * len(metas), out=out).clamp_(
        0, 1
    )


def light(
    codes: Tensor,
    *,
    black: ArrayLike,
    white: ArrayLike,
    amplification: ArrayLike,
    out: Tensor | None = None,
) -> Tensor:
    """Return `(codes - black) / (white - black) * amplification` as float32 `(B, C, h, w)`, the shape of `codes`.

    `black` is `(B, C)`, `white` and `amplification` are `(B,)`, all in codes and computed with in float64.
    The result is written to `out` if `out` has the right shape and device.
    """
    level = torch.as_tensor(black, dtype=torch.float64)
    full = torch.as_tensor(white, dtype=torch.float64)[:, None]
    scale = torch.as_tensor(amplification, dtype=torch.float64)[:, None] / (full - level)
    factors = torch.stack([level, scale]).float()[..., None, None]
    offset, slope = factors.to(codes.device, non_blocking=True).unbind(0)
    return _output(out, codes).copy_(codes).sub_(offset).mul_(slope)


def unit_range(gt: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return uint16 values divided by 65535, as float32 in [0, 1]; written to `out` if its shape and device fit."""
    return _output(out, gt).copy_(gt).div_(_largest_code(gt.device))


@functools.cache
def _largest_code(device: torch.device) -> Tensor:
    """Return 65535 as a tensor: on CUDA, torch divides by a plain number less exactly, by its rounded reciprocal."""
    return torch.full((), float(np.iinfo(np.uint16).max), device=device)


def _output(out: Tensor | None, like: Tensor) -> Tensor:
    if out is not None and out.shape == like.shape and out.device == like.device:
        return out
    return torch.empty(like.shape, dtype=torch.float32, device=like.device)

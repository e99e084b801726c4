"""Write what networks of the targets `raw` and `linear` restore: as DNG files, or developed by LibRaw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from darkprep.jobs.decoding import LoneFrame
from darkprep.jobs.picture_files import SOFTWARE_NAME, PictureFormat, save_picture
from darkprep.pipeline.raw.colour import Colours, colours_of
from darkprep.pipeline.raw.guard import guarded_call
from darkprep.pipeline.raw.mosaic import unpack
from darkprep.pipeline.raw.photo_metadata import MAKE, MODEL, PhotoMetadata, text
from darkprep.pipeline.raw.restored_dng import (
    U8,
    RestoredFrame,
    WhiteBalance,
    develop_dng,
    restored_dng,
)
from darkprep.shards.files import write_bytes
from darkprep.shards.format import CfaKind, Target
from darkprep.trainer.metrics import F32
from darkprep.trainer.picture import Bits, Pixels, developed_simply, quantised
from darkprep.trainer.restoration import UnpairedFrame, Write, file_errors, upright

_PREVIEW_SIDE = 256
_WHITE = 65535


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedFrame(UnpairedFrame):
    """A frame with what its picture needs besides the network's result."""

    lone: LoneFrame
    metadata: PhotoMetadata


def raw_writer(form: PictureFormat, target: Target, white_balance: WhiteBalance) -> Write:
    """Return a function that writes results of the target `raw` or `linear`: DNG files, or developed pictures."""

    def write(frame: UnpairedFrame, restored: Tensor, path: Path) -> None:
        assert isinstance(frame, LoadedFrame)
        light = restored.float().cpu().numpy()
        result = _restored_frame(frame, light, target)
        if form.format == "dng":
            preview = _preview(light, frame.sample.meta.cfa, result.colours)
            with file_errors(path):
                write_bytes(path, restored_dng(result, preview))
            return
        pixels = _developed(result, Path(frame.lone.decoded.header.path), form.bits, white_balance)
        with file_errors(path):
            save_picture(
                path,
                upright(pixels, frame.orientation),
                form,
                metadata=frame.metadata,
                text=frame.text,
            )

    return write


def _restored_frame(frame: LoadedFrame, light: F32, target: Target) -> RestoredFrame:
    decoded, cfa = frame.lone.decoded, frame.sample.meta.cfa
    codes = np.empty(light.shape, np.uint16)
    for plane, values in zip(codes, light, strict=True):
        plane[:] = np.rint(np.clip(values, 0, 1) * np.float32(_WHITE))
    pixels = unpack(codes, cfa) if target == "raw" else np.moveaxis(codes, 0, -1)
    header = decoded.header
    camera = {MAKE: text(header.make), MODEL: text(header.model)}
    return RestoredFrame(
        pixels=pixels,
        cfa=cfa,
        colours=colours_of(decoded, header.path),
        orientation=frame.orientation,
        metadata=replace(frame.metadata, main=camera | dict(frame.metadata.main)),
        software=SOFTWARE_NAME,
    )


def _developed(
    result: RestoredFrame, source: Path, bits: Bits, white_balance: WhiteBalance
) -> Pixels:
    """Return the frame as LibRaw develops it, `(H, W, 3)` sRGB of 8 or 16 bits.

    LibRaw runs in a process of its own, because the DNG file has names and metadata of the photograph `source`.
    Raises RawError if it crashes.
    """
    dng = restored_dng(result, np.zeros((1, 1, 3), np.uint8))
    rgb = guarded_call(partial(develop_dng, dng, white_balance), source)
    return quantised(np.moveaxis(rgb, -1, 0), bits)


def _preview(light: F32, cfa: CfaKind, colours: Colours) -> U8:
    """Return a small picture `(h, w, 3)` of planes or of camera RGB, developed simply."""
    step = max(1, -(-max(light.shape[1:]) // _PREVIEW_SIDE))
    small = np.ascontiguousarray(light[:, ::step, ::step])
    shown = developed_simply(small, cfa, gains=colours.gains.tolist(), to_srgb=colours.to_srgb)
    return np.asarray(quantised(shown, 8), np.uint8)

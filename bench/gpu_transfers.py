"""What a batch costs before the network sees it: the copy to the GPU, and the kernels that decode and augment.

The trade-off: random codes in the shape of stored samples; neither the copy nor the kernels depend on values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from gpu_section import Row, Section, interleaved, kernel_rows
from samples import sample
from torch import Tensor

from darkprep.trainer.augment import Augmentation, CropGeometry, Cropper
from darkprep.trainer.stream import BatchDecoder, network_input, unit_range

BATCH, CROP, MARGIN = 8, 512, 16
TINY_BATCH, TINY_CROP = 2, 64


def main() -> None:
    """Measure the copies, then the kernels."""
    section = Section(__doc__)
    count, crop = (TINY_BATCH, TINY_CROP) if section.cpu else (BATCH, CROP)
    stored = crop + MARGIN
    low = torch.randint(0, 1 << 14, (count, 4, stored // 2, stored // 2)).to(torch.uint16)
    gt = torch.randint(0, 1 << 16, (count, 3, stored, stored)).to(torch.uint16)
    with section.guarded("copies"):
        section.show("Copy of a batch from the host to the device", copies(section, low, gt))
    with section.guarded("kernels"):
        on_device = low.to(section.device), gt.to(section.device)
        section.show("Decoding and augmenting a batch", kernels(section, *on_device, crop))
    section.finish()


def copies(section: Section, low: Tensor, gt: Tensor) -> list[Row]:
    """Return time and bandwidth of a batch of codes and one of floats, from pageable and pinned memory."""
    batches = {"uint16": (low, gt), "float32": (low.float(), gt.float())}
    calls: dict[str, Callable[[], None]] = {}
    sizes: dict[str, int] = {}
    for dtype, tensors in batches.items():
        for kind in ("pageable", "pinned") if section.device.type == "cuda" else ("pageable",):
            sources = [one.pin_memory() for one in tensors] if kind == "pinned" else list(tensors)
            targets = [torch.empty_like(one, device=section.device) for one in tensors]

            def copy(sources: list[Tensor] = sources, targets: list[Tensor] = targets) -> None:
                for source, target in zip(sources, targets, strict=True):
                    target.copy_(source, non_blocking=True)

            calls[f"{dtype}, {kind}"] = copy
            sizes[f"{dtype}, {kind}"] = sum(one.numel() * one.element_size() for one in tensors)
    found = interleaved(calls, section.device)
    return [
        {"batch": name, "MB": sizes[name] / 1e6, "ms": ms, "GB/s": sizes[name] / ms / 1e6}
        for name, ms in found.items()
    ]


def kernels(section: Section, low: Tensor, gt: Tensor, crop: int) -> list[Row]:
    """Return the time of the whole decoding and of its three parts, then the longest kernels."""
    count, stored = gt.shape[0], gt.shape[-1]
    geometry = CropGeometry(cfa="bayer", height=stored, width=stored, crop=crop)
    augmentation = Augmentation(geometry=geometry)
    metas = tuple(sample(index).meta for index in range(count))
    decoder = BatchDecoder(augmentation, section.device)
    cropper = Cropper(geometry, section.device)
    transforms = [augmentation.draw(one.key, 0) for one in metas]
    codes = gt.view(torch.int16)
    whole = partial(decoder.decode, low, gt, metas, (0,) * count)
    decoded = network_input(low, metas)
    found = interleaved(
        {
            "all": whole,
            "low: subtract black, scale": partial(network_input, low, metas, out=decoded),
            "crop, flip, transpose both": partial(cropper.apply, decoded, codes, transforms),
            "gt: to float": partial(unit_range, gt, out=torch.empty(gt.shape, device=gt.device)),
        },
        section.device,
    )
    # Codes in, floats out: what one fused kernel would move.
    least = 2 * (low.numel() + gt.numel()) + 4 * count * 4 * crop * crop
    rows: list[Row] = [{"call": name, "ms": ms} for name, ms in found.items()]
    rows[0]["least MB"] = least / 1e6
    return rows + kernel_rows("all", whole, section.device)


if __name__ == "__main__":
    main()

"""Run REDIRT on a CPU, a few rows at a time, so that the features of the finer scales stay in the cache.

Run layer by layer, the two scales that hold 90 % of REDIRT's arithmetic write some 800 MB of features to
memory and read them back for a 4K frame. Here each of their convolutions is a stream of rows
(`row_conv.py`): it keeps its last input rows, takes the next few, and passes its output to the next
convolution. The result has no seams. The higher scale (1/32) is small and every output depends on much of
it, so it runs first, on the whole frame. Two pairs of convolutions with no leaky ReLU between them run as
one convolution (`ComposedConv`).

Each core processes a band of the frame from begin to end. If cores shared each convolution instead, they
would wait for each other after each of some 600 small steps, which is slow on a machine that also trains
and produces.

The trade-off: a second implementation of the network, which must be kept equal to `redirt.py`; the tests
compare the two. Only the order of additions differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkprep.model.blocks import LEAK
from darkprep.model.redirt import COARSE, MIDDLE, Redirt
from darkprep.model.row_conv import ComposedConv, ComposedRows, RowConv, RowStream

LAG_ROWS = 4
"""Medium-scale rows by which the output of the four convolutions there is behind their input."""
CONTEXT_ROWS = 20
"""Packed rows around a band on which its output depends: LAG_ROWS at 1/8, and one more for the last."""
STRIP_PIXELS = 8192
"""Medium-scale pixels processed at a time: 16 rows of a 4K frame, some 12 MB of features."""
MOST_BANDS = 4
"""More bands would repeat too many rows; further cores share the bands."""


class RowwiseRedirt(nn.Module):
    """A REDIRT without weight norm, computed a few rows at a time on as many cores as torch may use; float32 or bfloat16.

    `strip` is the number of pixels (rows times width) of the medium scale that are processed at a time.
    """

    def __init__(self, net: Redirt, *, strip: int = STRIP_PIXELS) -> None:
        super().__init__()
        block, fuse1 = net.medium_scale_encoder.block, net.fuse_block_1
        mix, mix_bias = _weights(fuse1.mix)
        expand, expand_bias = _weights(fuse1.expand)
        last, last_bias = _weights(net.fuse_block_2.conv)
        medium, higher = mix[:, 0::2], mix[:, 1::2]
        near, far = last.chunk(2, dim=1)
        self.strip = strip
        self.head_form = net.fuse_block_2.head
        self.higher = net.higher_scale_encoder
        self.head = _HeadConv(*_weights(self.higher.head[0]))
        self.skip = block.skip
        self.conv1, self.conv2 = RowConv(*_weights(block.conv1)), RowConv(*_weights(block.conv2))
        self.mix = RowConv(_merge_groups(medium, 4, 2), None, groups=2)
        self.lift_mix = ComposedConv(
            RowConv(*_weights(fuse1.lift)), RowConv(_merge_groups(higher, 4, 1), mix_bias)
        )
        self.expand = RowConv(_colours_last(expand), _colours_last(expand_bias))
        self.near = ComposedConv(
            RowConv(*_weights(net.lower_scale_encoder.conv)), RowConv(near, last_bias)
        )
        self.far = RowConv(far, None)

    def forward(self, packed: Tensor) -> Tensor:
        """Return `(B, 3, cell*h, cell*w)`, or planes `(B, C, h, w)`, for float32 `(B, C, h, w)`.

        h and w are multiples of 16.
        """
        batch, _, height, width = packed.shape
        if packed.storage_offset() % MIDDLE:
            packed = packed.clone()  # `_as_wide_elements` needs aligned cells
        scale = self.head_form.shuffle
        colours = self.head_form.outputs // scale**2
        out = packed.new_empty(batch, colours, height * scale, width * scale)
        for planes, result in zip(packed, out, strict=True):
            frame = _Frame(self, planes, result)
            _run_in_parallel([_Band(frame, begin, end) for begin, end in _bands(height)])
        return out


class _Frame:
    """The input and the output of one frame, and the intermediate results that all bands of rows read."""

    def __init__(self, net: RowwiseRedirt, packed: Tensor, result: Tensor) -> None:
        coarse = self._coarse(net, packed)
        self.net = net
        self.result = result
        self.packed = packed.to(coarse.dtype)
        self.lift_mix = ComposedRows(net.lift_mix, coarse)
        self.near = ComposedRows(net.near, self.packed)

    def _coarse(self, net: RowwiseRedirt, packed: Tensor) -> Tensor:
        """Return the output of the coarsest scale (the paper's "higher scale"), enlarged to the medium scale's size, `(4, h/4, w/4)`."""
        head = net.head(packed).to(net.far.weight.dtype, memory_format=torch.channels_last)
        out = net.higher.from_head(net.higher.head[1](head))
        return F.pixel_shuffle(out.contiguous(), COARSE // MIDDLE).squeeze(0)


class _Band:
    """Packed rows `begin` to `end` of a frame. Their result depends on CONTEXT_ROWS more rows on each side."""

    def __init__(self, frame: _Frame, begin: int, end: int) -> None:
        self.frame, self.net = frame, frame.net
        self.begin, self.end = begin, end

    def run(self) -> None:
        """Restore the band and write the output to its rows of the result."""
        net, (_, height, width) = self.net, self.frame.packed.shape
        medium = (height // MIDDLE, width // MIDDLE)
        begin = max(0, self.begin - CONTEXT_ROWS) // MIDDLE
        last = min(height, self.end + CONTEXT_ROWS) // MIDDLE
        self.conv1 = RowStream(net.conv1, *medium, begin)
        self.conv2 = RowStream(net.conv2, *medium, self.conv1.next_output)
        self.mix = RowStream(net.mix, *medium, self.conv2.next_output)
        self.expand = RowStream(net.expand, *medium, self.mix.next_output)
        self.far = RowStream(net.far, height, width, self.expand.next_output * MIDDLE)
        strip = max(2, net.strip // medium[1])  # 8 packed rows: a 5x5 convolution needs 5
        # The output is LAG_ROWS behind the input at either end, so the first strip has more rows.
        end = min(last, begin + strip + 2 * LAG_ROWS)
        while begin < last:
            self._fuse2(self._fuse1(begin, end))
            begin, end = end, min(last, end + strip)

    def _fuse1(self, begin: int, end: int) -> Tensor:
        """Process medium-scale rows `begin` to `end`; return the next output rows of fuse block 1, not yet shuffled."""
        _unshuffle(self.frame.packed, begin, end, self.conv1.append(end - begin))
        rows = self.conv1.run()
        self.conv2.append(rows.shape[0]).copy_(F.leaky_relu_(rows, LEAK))
        first, rows = self.conv2.next_output, self.conv2.run()
        skipped = self._skip(self.conv1.input_rows(first, rows.shape[0]))
        torch.add(rows, skipped, out=self.mix.append(rows.shape[0]))
        first, rows = self.mix.next_output, self.mix.run()
        higher = self.frame.lift_mix.rows(first, first + rows.shape[0])
        torch.add(rows, higher, out=self.expand.append(rows.shape[0]))
        return F.leaky_relu_(self.expand.run(), LEAK)

    def _skip(self, rows: Tensor) -> Tensor:
        out: Tensor = self.net.skip(rows.permute(2, 0, 1).unsqueeze(0))
        return out.squeeze(0).permute(1, 2, 0)

    def _fuse2(self, fused: Tensor) -> None:
        """Run fuse block 2: add the features of the lower scale to the pixel-shuffled output of fuse block 1, and write the finished RGB rows."""
        rows, width, channels = fused.shape
        shape = (rows, width, MIDDLE, MIDDLE, channels // MIDDLE**2)
        room = self.far.append(rows * MIDDLE).view(rows, MIDDLE, width, *shape[3:])
        room.copy_(fused.view(shape).transpose(1, 2))
        first, out = self.far.next_output, self.far.run()
        out = out[max(0, self.begin - first) : self.end - first]
        first = max(first, self.begin)
        out += self.frame.near.rows(first, first + out.shape[0])
        _write_result(out.clamp_(0, 1), self.frame.result, first, self.net.head_form.shuffle)


def _bands(height: int) -> Iterator[tuple[int, int]]:
    """Divide `height` packed rows into a band for each core; return the (begin, end) of each band."""
    count = max(1, min(torch.get_num_threads(), MOST_BANDS, height // (4 * CONTEXT_ROWS)))
    edges = [height // MIDDLE * n // count * MIDDLE for n in range(count + 1)]
    return itertools.pairwise(edges)


def _run_in_parallel(bands: list[_Band]) -> None:
    """Run the bands at the same time, each with an equal number of torch's threads."""
    threads = torch.get_num_threads()
    if len(bands) == 1:
        bands[0].run()
        return
    try:
        with ThreadPoolExecutor(len(bands)) as pool:
            share = max(1, threads // len(bands))
            for done in [pool.submit(_run_with_threads, share, band) for band in bands]:
                done.result()
    finally:
        torch.set_num_threads(threads)


def _run_with_threads(threads: int, band: _Band) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # the first call in a thread would otherwise reset the number
    with torch.inference_mode():  # it applies to one thread, not to those that the thread starts
        band.run()


class _HeadConv:
    """The higher-scale encoder's first convolution, computed directly from the packed planes.

    Each of its groups reads 8 or 16 neighbouring pixels of one packed row. So one small matrix product per
    packed row gives all nine taps, and nine shifted additions give the convolution. The usual way would
    need a tensor of 1,024 channels, for which oneDNN has no fast kernel. The arithmetic is always float32:
    this class is not a module, so `.to(dtype)` does not convert it.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        groups, run = weight.shape[:2]
        parts = COARSE // run
        planes = groups // (COARSE * parts)
        taps = weight.view(planes, COARSE, parts, run, 9).transpose(-1, -2)
        spread = taps.new_zeros(planes, COARSE, parts, 9, parts, run)
        for part in range(parts):
            spread[:, :, part, :, part] = taps[:, :, part]
        self.taps = spread.view(planes, 1, COARSE, parts * 9, COARSE)
        self.bias = bias.view(-1, 1, 1)
        self.parts = parts

    def __call__(self, packed: Tensor) -> Tensor:
        """Return the convolution of packed planes `(C, h, w)`, as `(1, groups, h/16, w/16)`."""
        planes, height, width = (
            packed.shape[0],
            packed.shape[1] // COARSE,
            packed.shape[2] // COARSE,
        )
        cells = packed.reshape(planes, height, COARSE, width, COARSE).transpose(-1, -2)
        out = packed.new_zeros(planes, height + 2, COARSE, self.parts, width + 2)
        for y in range(0, height, 2):
            products = torch.matmul(self.taps, cells[:, y : y + 2])
            rows = products.shape[1]
            products = products.view(planes, rows, COARSE, self.parts, 3, 3, width)
            for dy in range(3):
                for dx in range(3):
                    shifted = out[:, y + 2 - dy : y + 2 - dy + rows, :, :, 2 - dx : 2 - dx + width]
                    shifted += products[..., dy, dx, :]
        inner = out[:, 1:-1, :, :, 1:-1].permute(0, 2, 3, 1, 4).reshape(-1, height, width)
        return (inner + self.bias).unsqueeze(0)


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution; the convolution must have a bias."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight, conv.bias


def _merge_groups(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """Convert the weights of a convolution in `groups` groups to `fewer` groups; weights between merged groups are 0.

    The result needs more arithmetic, but oneDNN has no fast kernel for groups of 8 outputs.
    """
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    merged = groups // fewer
    wide = weight.new_zeros(fewer, merged, outputs, merged, inputs, *weight.shape[2:])
    for n in range(merged):
        wide[:, n, :, n] = weight.view(fewer, merged, outputs, *weight.shape[1:])[:, n]
    return wide.view(groups * outputs, merged * inputs, *weight.shape[2:])


def _colours_last(weight: Tensor) -> Tensor:
    """Reorder a convolution's output channels from (colour, row, column) to (row, column, colour)."""
    colours = weight.shape[0] // MIDDLE**2
    by_colour = weight.reshape(colours, MIDDLE**2, *weight.shape[1:])
    return by_colour.transpose(0, 1).reshape(weight.shape)


def _unshuffle(packed: Tensor, begin: int, end: int, out: Tensor) -> None:
    """Write rows `begin` to `end` of `pixel_unshuffle(packed, MIDDLE)` to `out`, channels last."""
    planes, _, width = packed.shape
    rows = packed[:, begin * MIDDLE : end * MIDDLE]
    cells = rows.reshape(planes, end - begin, MIDDLE, width // MIDDLE, MIDDLE)
    target = out.view(end - begin, -1, planes, MIDDLE, MIDDLE)
    _as_wide_elements(target).copy_(_as_wide_elements(cells).permute(1, 3, 0, 2, 4))


def _write_result(rows: Tensor, result: Tensor, first: int, scale: int) -> None:
    """Write the pixel shuffle of rows `(n, w, c*scale*scale)` to `(c, H, W)`, beginning at packed row `first`."""
    count, width, _ = rows.shape
    colours = result.shape[0]
    target = result.view(colours, -1, scale, width, scale)[:, first : first + count]
    cells = rows.to(result.dtype).view(count, width, colours, scale, scale)
    _as_wide_elements(target).copy_(_as_wide_elements(cells).permute(2, 0, 3, 1, 4))


def _as_wide_elements(x: Tensor) -> Tensor:
    """Return a view whose last dimension is one wider integer, where such a type exists, to copy faster."""
    wide = {8: torch.float64, 16: torch.complex128}.get(x.shape[-1] * x.element_size())
    return x.view(wide) if wide else x

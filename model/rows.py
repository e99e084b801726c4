"""REDIRT on a CPU, fed from top to bottom: what the fine scales make never leaves the cache.

Run layer by layer, the two scales that hold 90 % of REDIRT's arithmetic write some 800 MB of
features to memory and read them back for a 4K frame. Here each of their convolutions is a stream of
rows: it keeps the last rows it was fed, takes the next few, and hands its own on. No strip shows.
The higher scale (1/32) is small and global: it runs first, whole. Two pairs of convolutions with no
rectifier between them run as one (`Composed`).

Each core takes a band of the frame and runs alone to its end. Cores that work on one convolution
together must meet after every one of some 600 small steps, which a busy machine (training, with its
producers) makes dear.

The trade-off: a second description of the graph, which must be kept in step with `redirt.py`; the
tests compare the two. Inference only, frame by frame. The function is the published one: only the
order of additions differs.

Rows are `(rows, width, channels)` tensors, i.e. channels last, which is the layout that oneDNN's
convolutions run in at their full pace.
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

LAG = 4
"""Medium-scale rows that the four convolutions there hold back of what they were fed."""
REACH = 20
"""Packed rows around a band that its output depends on: LAG at 1/8 and one more for the last."""
STRIP = 8192
"""Medium-scale pixels fed at a time: 16 rows of a 4K frame, some 12 MB of features."""
MAX_BANDS = 4
"""More bands repeat too many rows; cores beyond share the bands."""


class RowConv(nn.Module):
    """A convolution's weights, laid out for rows."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.groups = groups
        self.inputs = weight.shape[1] * groups
        self.halo = weight.shape[-1] // 2

    def forward(self, rows: Tensor) -> Tensor:
        """Convolve `(rows + 2*halo, width, inputs)`, padding only left and right."""
        image = rows.permute(2, 0, 1).unsqueeze(0)
        out = F.conv2d(image, self.weight, self.bias, padding=(0, self.halo), groups=self.groups)
        return out.squeeze(0).permute(1, 2, 0)


class RowStream:
    """A same-padded convolution of a frame whose rows arrive a few at a time.

    `feed` makes room for the next input rows, `run` convolves what is there. Rows are counted from
    the frame's top. A stream may begin below it, and may end above the bottom: then the `halo`
    outermost output rows, for which rows are missing, do not come. At the frame's own edges it pads
    with zeros.
    """

    def __init__(self, conv: RowConv, height: int, width: int, first: int) -> None:
        above = conv.halo if first == 0 else 0
        self.conv = conv
        self.height = height
        self.fed = first
        """Input rows before this one were fed."""
        self.made = first - above + conv.halo
        """Output rows before this one were made, or will not be."""
        self.window = conv.weight.new_zeros(above, width, conv.inputs)

    def feed(self, rows: int) -> Tensor:
        """Make room for the next `rows` input rows, to be filled by the caller, and return it."""
        halo = self.conv.halo
        kept = self.window[-2 * halo :]
        self.fed += rows
        below = halo if self.fed == self.height else 0
        above, size = kept.shape[0], kept.shape[0] + rows + below
        # The same memory again, where it fits: fresh pages cost more than the copying.
        reuse = self.window.shape[0] == size and size >= 2 * above
        window = self.window if reuse else kept.new_empty(size, *kept.shape[1:])
        window[:above] = kept
        window[above + rows :] = 0
        self.window = window
        return window[above : above + rows]

    def run(self) -> Tensor:
        """Convolve what was fed: `(rows, width, outputs)`, from row `made` on."""
        rows: Tensor = self.conv(self.window)
        self.made += rows.shape[0]
        return rows

    def input_rows(self, first: int, count: int) -> Tensor:
        """Input rows `first .. first + count`, of which the window still holds the last ones."""
        below = self.conv.halo if self.fed == self.height else 0
        top = self.fed + below - self.window.shape[0]
        return self.window[first - top : first - top + count]


class Composed(nn.Module):
    """The weights of two same-padded convolutions in a row, as those of one wider convolution."""

    def __init__(self, first: RowConv, second: RowConv) -> None:
        super().__init__()
        assert first.bias is not None
        assert second.bias is not None
        w1, w2 = first.weight.double(), second.weight.double()
        weight = F.conv2d(w1.transpose(0, 1), w2.flip(-1, -2), padding=2 * second.halo)
        bias = w2.sum(dim=(2, 3)) @ first.bias.double() + second.bias.double()
        self.first, self.second = first, second
        self.both = RowConv(weight.transpose(0, 1).float(), bias.float())


class ComposedRows:
    """Rows of two convolutions in a row over an image that is all there.

    Exact on the image's rim too: there the second convolution pads with zeros what the first would
    have computed beyond the edge. Those pixels are computed in two steps.
    """

    def __init__(self, convs: Composed, image: Tensor) -> None:
        self.convs = convs
        self.image = image
        rim = self.rim = convs.second.halo
        # As far as the rim reads through both convolutions.
        depth = 2 * rim + convs.first.halo
        self.top = self._in_two_steps(image[:, :depth])[:rim]
        self.bottom = self._in_two_steps(image[:, -depth:])[-rim:]
        self.left = self._in_two_steps(image[:, :, :depth])[:, :rim]
        self.right = self._in_two_steps(image[:, :, -depth:])[:, -rim:]

    def rows(self, begin: int, end: int) -> Tensor:
        """Output rows `begin .. end`: `(rows, width, outputs)`."""
        halo, height = self.convs.both.halo, self.image.shape[1]
        above, below = max(0, halo - begin), max(0, end + halo - height)
        source = self.image[:, begin - halo + above : end + halo - below]
        source = F.pad(source, (0, 0, above, below)) if above or below else source
        out: Tensor = self.convs.both(source.permute(1, 2, 0))
        out[:, : self.rim] = self.left[begin:end]
        out[:, -self.rim :] = self.right[begin:end]
        for row in range(self.rim):
            if begin <= row < end:
                out[row - begin] = self.top[row]
            if begin <= height - 1 - row < end:
                out[height - 1 - row - begin] = self.bottom[-1 - row]
        return out

    def _in_two_steps(self, patch: Tensor) -> Tensor:
        rows = patch.permute(1, 2, 0)
        for conv in (self.convs.first, self.convs.second):
            rows = conv(F.pad(rows, (0, 0, 0, 0, conv.halo, conv.halo)))
        return rows


class RowwiseRedirt(nn.Module):
    """A folded REDIRT, run by rows on as many cores as torch may use; float32 or bfloat16.

    `strip` is how many pixels of the medium scale are fed at a time.
    """

    def __init__(self, net: Redirt, *, strip: int = STRIP) -> None:
        super().__init__()
        block, fuse1 = net.medium_scale_encoder.block, net.fuse_block_1
        mix, mix_bias = _weights(fuse1.mix)
        expand, expand_bias = _weights(fuse1.expand)
        last, last_bias = _weights(net.fuse_block_2.conv)
        medium, higher = mix[:, 0::2], mix[:, 1::2]
        near, far = last.chunk(2, dim=1)
        self.strip = strip
        self.cell = net.fuse_block_2.cell
        self.higher = net.higher_scale_encoder
        self.head = _Head(*_weights(self.higher.head[0]))
        self.skip = block.skip
        self.conv1, self.conv2 = RowConv(*_weights(block.conv1)), RowConv(*_weights(block.conv2))
        self.mix = RowConv(_in_groups(medium, 4, 2), None, groups=2)
        self.lift_mix = Composed(
            RowConv(*_weights(fuse1.lift)), RowConv(_in_groups(higher, 4, 1), mix_bias)
        )
        self.expand = RowConv(_colours_last(expand), _colours_last(expand_bias))
        self.near = Composed(
            RowConv(*_weights(net.lower_scale_encoder.conv)), RowConv(near, last_bias)
        )
        self.far = RowConv(far, None)

    def forward(self, packed: Tensor) -> Tensor:
        """Float32 `(B, C, h, w)` with h and w multiples of 16, to `(B, 3, cell*h, cell*w)`."""
        batch, _, height, width = packed.shape
        if packed.storage_offset() % MIDDLE:
            packed = packed.clone()  # `_lumps` wants whole cells from the start of the memory on
        out = packed.new_empty(batch, 3, height * self.cell, width * self.cell)
        for planes, rgb in zip(packed, out, strict=True):
            frame = _Frame(self, planes, rgb)
            _at_once([_Band(frame, begin, end) for begin, end in _bands(height)])
        return out


class _Frame:
    """What all bands of one frame share."""

    def __init__(self, net: RowwiseRedirt, packed: Tensor, rgb: Tensor) -> None:
        coarse = self._coarse(net, packed)
        self.net = net
        self.rgb = rgb
        self.packed = packed.to(coarse.dtype)
        self.lift_mix = ComposedRows(net.lift_mix, coarse)
        self.near = ComposedRows(net.near, self.packed)

    def _coarse(self, net: RowwiseRedirt, packed: Tensor) -> Tensor:
        """The higher scale, shuffled up to the medium scale's size: `(4, h/4, w/4)`."""
        head = net.head(packed).to(net.far.weight.dtype, memory_format=torch.channels_last)
        out = net.higher.from_head(net.higher.head[1](head))
        return F.pixel_shuffle(out.contiguous(), COARSE // MIDDLE).squeeze(0)


class _Band:
    """Packed rows `begin .. end` of a frame, restored from these rows and REACH around them."""

    def __init__(self, frame: _Frame, begin: int, end: int) -> None:
        self.frame, self.net = frame, frame.net
        self.begin, self.end = begin, end

    def run(self) -> None:
        """Restore the band into its rows of the frame's RGB."""
        net, (_, height, width) = self.net, self.frame.packed.shape
        medium = (height // MIDDLE, width // MIDDLE)
        begin = max(0, self.begin - REACH) // MIDDLE
        last = min(height, self.end + REACH) // MIDDLE
        self.conv1 = RowStream(net.conv1, *medium, begin)
        self.conv2 = RowStream(net.conv2, *medium, self.conv1.made)
        self.mix = RowStream(net.mix, *medium, self.conv2.made)
        self.expand = RowStream(net.expand, *medium, self.mix.made)
        self.far = RowStream(net.far, height, width, self.expand.made * MIDDLE)
        strip = max(2, net.strip // medium[1])  # 8 packed rows: a 5x5 convolution needs 5
        # The convolutions hold some rows back, so the first strip brings more.
        end = min(last, begin + strip + 2 * LAG)
        while begin < last:
            self._fuse2(self._fuse1(begin, end))
            begin, end = end, min(last, end + strip)

    def _fuse1(self, begin: int, end: int) -> Tensor:
        """Medium-scale rows `begin .. end` in; finished rows of fuse block 1 before its shuffle."""
        _unshuffle(self.frame.packed, begin, end, self.conv1.feed(end - begin))
        rows = self.conv1.run()
        self.conv2.feed(rows.shape[0]).copy_(F.leaky_relu_(rows, LEAK))
        first, rows = self.conv2.made, self.conv2.run()
        skipped = self._skip(self.conv1.input_rows(first, rows.shape[0]))
        torch.add(rows, skipped, out=self.mix.feed(rows.shape[0]))
        first, rows = self.mix.made, self.mix.run()
        higher = self.frame.lift_mix.rows(first, first + rows.shape[0])
        torch.add(rows, higher, out=self.expand.feed(rows.shape[0]))
        return F.leaky_relu_(self.expand.run(), LEAK)

    def _skip(self, rows: Tensor) -> Tensor:
        out: Tensor = self.net.skip(rows.permute(2, 0, 1).unsqueeze(0))
        return out.squeeze(0).permute(1, 2, 0)

    def _fuse2(self, fused: Tensor) -> None:
        """Shuffle fuse block 1's rows up, join the lower scale, and write what is finished."""
        rows, width, channels = fused.shape
        shape = (rows, width, MIDDLE, MIDDLE, channels // MIDDLE**2)
        room = self.far.feed(rows * MIDDLE).view(rows, MIDDLE, width, *shape[3:])
        room.copy_(fused.view(shape).transpose(1, 2))
        first, out = self.far.made, self.far.run()
        out = out[max(0, self.begin - first) : self.end - first]
        first = max(first, self.begin)
        out += self.frame.near.rows(first, first + out.shape[0])
        _write(out.clamp_(0, 1), self.frame.rgb, first, self.net.cell)


def _bands(height: int) -> Iterator[tuple[int, int]]:
    """Split `height` packed rows among the cores, in steps of the medium scale."""
    count = max(1, min(torch.get_num_threads(), MAX_BANDS, height // (4 * REACH)))
    edges = [height // MIDDLE * n // count * MIDDLE for n in range(count + 1)]
    return itertools.pairwise(edges)


def _at_once(bands: list[_Band]) -> None:
    """Run the bands side by side, each on its share of torch's threads."""
    threads = torch.get_num_threads()
    if len(bands) == 1:
        bands[0].run()
        return
    try:
        with ThreadPoolExecutor(len(bands)) as pool:
            share = max(1, threads // len(bands))
            for done in [pool.submit(_run_on, share, band) for band in bands]:
                done.result()
    finally:
        torch.set_num_threads(threads)


def _run_on(threads: int, band: _Band) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # a thread's first look would otherwise undo the setting
    with torch.inference_mode():  # which holds for one thread, not for those that it starts
        band.run()


class _Head:
    """The higher-scale encoder's first convolution, read straight from the packed planes.

    Each of its groups reads a run of 8 or 16 neighbours of one packed row. So one small matrix
    product per packed row gives all nine taps, and nine shifted additions the convolution, without
    the 1,024-channel tensor, for which oneDNN has no good kernel. Always in float32: no module, so
    that `.to(dtype)` passes it by.
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
        """`(C, h, w)` to `(1, groups, h/16, w/16)`."""
        planes, height, width = (
            packed.shape[0],
            packed.shape[1] // COARSE,
            packed.shape[2] // COARSE,
        )
        cells = packed.reshape(planes, height, COARSE, width, COARSE).transpose(-1, -2)
        out = packed.new_zeros(planes, height + 2, COARSE, self.parts, width + 2)
        for y in range(0, height, 2):
            found = torch.matmul(self.taps, cells[:, y : y + 2])
            rows = found.shape[1]
            found = found.view(planes, rows, COARSE, self.parts, 3, 3, width)
            for dy in range(3):
                for dx in range(3):
                    place = out[:, y + 2 - dy : y + 2 - dy + rows, :, :, 2 - dx : 2 - dx + width]
                    place += found[..., dy, dx, :]
        inner = out[:, 1:-1, :, :, 1:-1].permute(0, 2, 3, 1, 4).reshape(-1, height, width)
        return (inner + self.bias).unsqueeze(0)


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that is known to have both."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight, conv.bias


def _in_groups(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """Weights of a convolution in `groups` groups as of one in `fewer`, with zeros between.

    More arithmetic, but oneDNN has no good kernel for groups of 8 outputs.
    """
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    merged = groups // fewer
    wide = weight.new_zeros(fewer, merged, outputs, merged, inputs, *weight.shape[2:])
    for n in range(merged):
        wide[:, n, :, n] = weight.view(fewer, merged, outputs, *weight.shape[1:])[:, n]
    return wide.view(groups * outputs, merged * inputs, *weight.shape[2:])


def _colours_last(weight: Tensor) -> Tensor:
    """Reorder output channels from (colour, row, column) to (row, column, colour)."""
    colours = weight.shape[0] // MIDDLE**2
    by_colour = weight.reshape(colours, MIDDLE**2, *weight.shape[1:])
    return by_colour.transpose(0, 1).reshape(weight.shape)


def _unshuffle(packed: Tensor, begin: int, end: int, out: Tensor) -> None:
    """Rows `begin .. end` of `pixel_unshuffle(packed, MIDDLE)` into `out`, channels last."""
    planes, _, width = packed.shape
    rows = packed[:, begin * MIDDLE : end * MIDDLE]
    cells = rows.reshape(planes, end - begin, MIDDLE, width // MIDDLE, MIDDLE)
    place = out.view(end - begin, -1, planes, MIDDLE, MIDDLE)
    _lumps(place).copy_(_lumps(cells).permute(1, 3, 0, 2, 4))


def _write(rows: Tensor, rgb: Tensor, first: int, cell: int) -> None:
    """Rows `(n, w, 3*cell*cell)` into `rgb` `(3, H, W)` from packed row `first` on, shuffled up."""
    count, width, _ = rows.shape
    place = rgb.view(3, -1, cell, width, cell)[:, first : first + count]
    cells = rows.to(rgb.dtype).view(count, width, 3, cell, cell)
    _lumps(place).copy_(_lumps(cells).permute(2, 0, 3, 1, 4))


def _lumps(x: Tensor) -> Tensor:
    """View the last dimension as one wide number where there is such a type: copies get faster."""
    wide = {8: torch.float64, 16: torch.complex128}.get(x.shape[-1] * x.element_size())
    return x.view(wide) if wide else x

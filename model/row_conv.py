"""Convolve a frame whose rows arrive a few at a time.

Rows are `(rows, width, channels)` tensors: channels last is the layout in which oneDNN's convolutions are
fastest. The trade-off: inference only, one frame at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RowConv(nn.Module):
    """A same-padded convolution whose weights are in the layout that rows need."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.groups = groups
        self.inputs = weight.shape[1] * groups
        self.halo = weight.shape[-1] // 2
        """Rows above and below an output row that it depends on."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return `(n, width, outputs)` for `(n + 2*halo, width, inputs)`; only left and right are padded."""
        image = rows.permute(2, 0, 1).unsqueeze(0)
        out = F.conv2d(image, self.weight, self.bias, padding=(0, self.halo), groups=self.groups)
        return out.squeeze(0).permute(1, 2, 0)


class RowStream:
    """A same-padded convolution of a frame whose rows arrive a few at a time, beginning with row `first`.

    `append` returns memory for the next input rows, `run` convolves the rows that were appended. Rows are
    counted from the top of the frame. At the edges of the frame the stream pads with zeros. Where a stream
    begins below the top or ends above the bottom of the frame, it does not compute the `halo` outermost
    output rows, because their input rows are missing.
    """

    def __init__(self, conv: RowConv, height: int, width: int, first: int) -> None:
        above = conv.halo if first == 0 else 0
        self.conv = conv
        self.height = height
        self.next_input = first
        """The first input row that was not appended yet."""
        self.next_output = first - above + conv.halo
        """The row that the next `run` begins with."""
        self.window = conv.weight.new_zeros(above, width, conv.inputs)

    def append(self, rows: int) -> Tensor:
        """Return memory for the next `rows` input rows, `(rows, width, inputs)`, which the caller fills."""
        halo = self.conv.halo
        kept = self.window[-2 * halo :]
        self.next_input += rows
        below = halo if self.next_input == self.height else 0
        above, size = kept.shape[0], kept.shape[0] + rows + below
        # The same memory if it fits, because fresh pages cost more than the copying.
        reuse = self.window.shape[0] == size and size >= 2 * above
        window = self.window if reuse else kept.new_empty(size, *kept.shape[1:])
        window[:above] = kept
        window[above + rows :] = 0
        self.window = window
        return window[above : above + rows]

    def run(self) -> Tensor:
        """Return the output rows of the window, `(rows, width, outputs)` with `outputs` channels, and count them in `next_output`."""
        rows: Tensor = self.conv(self.window)
        self.next_output += rows.shape[0]
        return rows

    def input_rows(self, first: int, count: int) -> Tensor:
        """Return `count` input rows beginning with row `first`; they must be among the last appended ones."""
        below = self.conv.halo if self.next_input == self.height else 0
        top = self.next_input + below - self.window.shape[0]
        return self.window[first - top : first - top + count]


class ComposedConv(nn.Module):
    """Two same-padded convolutions with no rectifier between them, as one wider convolution."""

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
    """The output rows of a ComposedConv for a whole image `(inputs, height, width)`.

    The result is exact at the border of the image too. There the second convolution must see zeros outside
    the image instead of what the first convolution would compute there, so border pixels are computed by
    the two convolutions in turn.
    """

    def __init__(self, convs: ComposedConv, image: Tensor) -> None:
        self.convs = convs
        self.image = image
        rim = self.rim = convs.second.halo
        depth = 2 * rim + convs.first.halo
        """Pixels from the edge on which the rim depends."""
        self.top = self._in_two_steps(image[:, :depth])[:rim]
        self.bottom = self._in_two_steps(image[:, -depth:])[-rim:]
        self.left = self._in_two_steps(image[:, :, :depth])[:, :rim]
        self.right = self._in_two_steps(image[:, :, -depth:])[:, -rim:]

    def rows(self, begin: int, end: int) -> Tensor:
        """Return output rows `begin` to `end` (exclusive): `(rows, width, outputs)`."""
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

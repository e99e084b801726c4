"""The look of surfaces: colour, texture, highlights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darkprep.synth.renderer.textures import texture
from darkprep.synth.renderer.vectors import Array, Vec, column


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """The look of a surface. Colours are linear sRGB reflectances."""

    colour: Vec
    second_colour: Vec = (0.0, 0.0, 0.0)
    """Colour where the texture's mix is 1, and between the cells of a grid."""
    texture: str = ""
    """One of `textures.NAMES`, or empty for none."""
    size: float = 1.0
    """Metres that one period of the texture covers."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Texture coordinates of the surface's origin, in periods."""
    rotated: bool = False
    """Whether the texture is rotated by 90 degrees."""
    contrast: float = 1.0
    """Factor on the texture's variation in brightness."""
    blur: float = 0.0
    """Width in metres of the texture's blur, for surfaces out of focus."""
    specular: float = 0.0
    """Strength of highlights and reflections, 0 to 1."""
    shininess: float = 60.0
    """Narrowness of highlights."""
    mirror: float = 0.0
    """Strength of mirrored emitters (wet ground), 0 to 1."""
    emission: float = 0.0
    """Emitted radiance in multiples of the colour; an emitting surface reflects nothing."""
    cells: Array | None = None
    """`(R, C, 3)` colours of a grid that replaces `colour`; it repeats."""
    cell_size: tuple[float, float] = (1.0, 1.0)
    """Metres of one cell along u and v."""
    border: float = 0.0
    """Metres between cells, in `second_colour`."""
    cutout: float = 0.0
    """Below this brightness of the texture the surface has holes (leaves)."""

    def reflectance(self, u: Array, v: Array, footprint: Array) -> Array:
        """Return `(3, N)` reflectance at surface coordinates in metres."""
        base = column(self.colour) if self.cells is None else self._cell_colour(u, v, self.cells)
        if not self.texture:
            return np.broadcast_to(base, (3, u.size)).astype(np.float32)
        mix, light = self._texels(u, v, footprint)
        other = base if self.cells is not None else column(self.second_colour)
        return np.asarray((base + (other - base) * mix) * (1.0 + (light - 1.0) * self.contrast))

    def brightness(self, u: Array, v: Array) -> Array:
        """Return the texture's unfiltered brightness `(N,)`, which places holes and ripples."""
        return self._texels(u, v, np.full(u.shape, 1e-4, np.float32))[1]

    def _texels(self, u: Array, v: Array, footprint: Array) -> tuple[Array, Array]:
        a, b = (v, u) if self.rotated else (u, v)
        scale = 1.0 / self.size
        wide = np.maximum(footprint, self.blur) * scale
        return texture(self.texture).sample(
            a * scale + self.offset[0], b * scale + self.offset[1], wide
        )

    def _cell_colour(self, u: Array, v: Array, cells: Array) -> Array:
        x, y = u / self.cell_size[0], v / self.cell_size[1]
        column_, row = np.floor(x), np.floor(y)
        rows, columns = cells.shape[:2]
        index = (row.astype(np.int32) % rows) * columns + column_.astype(np.int32) % columns
        picked = cells.reshape(-1, 3).T[:, index]
        across = (0.5 - np.abs(x - column_ - 0.5)) * self.cell_size[0]
        inside = np.minimum(across, (0.5 - np.abs(y - row - 0.5)) * self.cell_size[1])
        return np.where(inside < 0.5 * self.border, column(self.second_colour), picked)

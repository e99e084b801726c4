"""Batches of small pictures as a SpoolReader lends them, without a spool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from darkprep.shards.batch import Batch, ReaderStats
from darkprep.shards.format import CELL, PLANES, CfaKind, SampleMeta
from darkprep.trainer.augment import packed_indices

BLACK = {"bayer": (512.0, 510.0, 514.0, 512.0), "xtrans": (1024.0,) * 9}
WHITE = 16383


def meta_of(key: str, cfa: CfaKind = "bayer", amplification: float = 100.0) -> SampleMeta:
    return SampleMeta(
        key=key,
        pair="00001_00_0.1s",
        camera="sony",
        cfa=cfa,
        origin=(0, 0),
        black=BLACK[cfa],
        white=WHITE,
        ratio=100.0,
        amplification=amplification,
        amplification_source="ratio",
        iso=800.0,
    )


class FakeReader:
    """Lends batches as SpoolReader does: the same arrays each time, overwritten by the next.

    `before` is told each batch's number before it is made, `alter` may change it; without `advance`
    the first batch comes again and again.
    """

    def __init__(
        self,
        *,
        start: int = 0,
        stop_after: int | None = None,
        side: int = 196,
        batch_size: int = 2,
        cfa: CfaKind = "bayer",
        before: Callable[[int], None] | None = None,
        alter: Callable[[Batch], Batch] | None = None,
        advance: bool = True,
    ) -> None:
        cell = CELL[cfa]
        self.stats = ReaderStats()
        self.closed = False
        self._before, self._alter, self._advance = before, alter, advance
        self._next, self._stop_after, self._cfa = start, stop_after, cfa
        self._places = packed_indices(cfa, side, side)
        self._low = np.empty((batch_size, PLANES[cfa], side // cell, side // cell), np.uint16)
        self._gt = np.empty((batch_size, 3, side, side), np.uint16)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stop_after is not None and self._next >= self._stop_after:
            raise StopIteration
        if self._before:
            self._before(self._next)
        for row in range(len(self._gt)):
            self._fill(row)
        metas = tuple(
            meta_of(f"{self._next:08d}-{row:04d}", self._cfa) for row in range(len(self._gt))
        )
        batch = Batch(self._next, self._low, self._gt, metas, (0,) * len(metas))
        self._next += self._advance
        self.stats.batches += 1
        self.stats.shards_deleted += 1
        return self._alter(batch) if self._alter else batch

    def _fill(self, row: int) -> None:
        """A smooth picture, and a dark grey recording of it."""
        rng = np.random.default_rng((self._next, row))
        side = self._gt.shape[-1]
        coarse = rng.uniform(0.1, 0.9, (3, side // 14 + 1, side // 14 + 1))
        picture = np.kron(coarse, np.ones((14, 14)))[:, :side, :side]
        self._gt[row] = picture * 65535
        codes = picture.mean(0) * (WHITE - 512) / 100 + 512
        self._low[row] = codes.reshape(-1)[self._places]

    def close(self) -> None:
        self.closed = True

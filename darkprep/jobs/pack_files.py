"""The small files of a packed data set: README.md, index.json, and what Megatron Energon reads.

They state nothing of the machine: no directory, host, user or time, so that the same spool gives the same
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from darkprep import __version__
from darkprep.jobs.pack_source import CameraFigures, Figures, PackSource
from darkprep.pipeline.noise.calibrations import CALIBRATIONS
from darkprep.pipeline.pairs.table import SPLITS, Split
from darkprep.shards import Target
from darkprep.shards.files import json_bytes
from darkprep.shards.packed_tar import PackedTar
from darkprep.view.numbers import format_bytes, format_count, one_line

ENERGON_DIRECTORY = ".nv-meta"
_MOST_CAMERAS = 50
_MOST_WORKERS = 4
_TARGETS: Mapping[Target, tuple[str, str]] = {
    "srgb": ("the long exposure, developed to sRGB", 'sample["gt.npy"].astype("float32") / 65535'),
    "linear": (
        "the long exposure as camera RGB: demosaiced, no white balance, no matrix, no curve; 0 is black, 65535 is white",
        'sample["gt.npy"].astype("float32") / 65535',
    ),
    "raw": (
        "the long exposure's sensor codes, packed as `low` is; their levels are `gt_black` and `gt_white`",
        'levels(sample["gt.npy"], facts["gt_black"], facts["gt_white"]).clip(0, 1)',
    ),
}
_PLANES = {
    "bayer": "4 planes R, G1, G2, B of the RGGB cell",
    "xtrans": "9 planes in the packing of SID's code",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~!&])")

Tars = Mapping[Split, Sequence[PackedTar]]


def energon_files(tars: Tars) -> dict[str, bytes]:
    """Return the files of ENERGON_DIRECTORY by name: sample counts, splits, and the type of the samples."""
    counts = {tar.name: tar.samples for split in SPLITS for tar in tars[split]}
    parts = "".join(
        f"  {split}:{''.join(f'{chr(10)}  - {tar.name}' for tar in tars[split]) or ' []'}\n"
        for split in SPLITS
    )
    return {
        ".info.json": json_bytes({"shard_counts": counts}),
        "split.yaml": f"split_parts:\n{parts}exclude: []\n".encode(),
        "dataset.yaml": b"__module__: megatron.energon\n__class__: CrudeWebdataset\n",
    }


def index_file(source: PackSource, tars: Tars) -> bytes:
    """Return index.json: the tars with their sizes and checksums, in the form of WebDataset's shard indexes."""
    stream = source.spool.stream
    record: dict[str, Any] = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "plan": source.spool.digest,
        "target": stream.target,
        "cfa": stream.cfa,
        "low_shape": stream.layout().low_shape,
        "gt_shape": stream.layout().gt_shape,
        "crop": stream.crop,
        "shardlist": [
            {
                "url": tar.name,
                "nsamples": tar.samples,
                "filesize": tar.size_bytes,
                "sha256": tar.sha256,
                "split": split,
            }
            for split in SPLITS
            for tar in tars[split]
        ],
    }
    return json_bytes(record)


def readme_file(source: PackSource, figures: Figures, tars: Tars) -> bytes:
    """Return README.md: what the samples are, how they are read, and the checksums of the tars."""
    sections = (
        _head(source, figures),
        _camera_table(figures.cameras),
        _SAMPLE.format(
            planes=_PLANES[source.spool.stream.cfa],
            gt=_TARGETS[source.spool.stream.target][0],
            low_shape=source.spool.stream.layout().low_shape,
            gt_shape=source.spool.stream.layout().gt_shape,
        ),
        _READ.replace("GT_VALUES", _TARGETS[source.spool.stream.target][1]).replace(
            "WORKERS", str(min(_MOST_WORKERS, len(tars["train"])))
        ),
        _checksums(tars),
    )
    return "\n".join(sections).encode()


def _head(source: PackSource, figures: Figures) -> str:
    options, stream = source.options, source.spool.stream
    rows = {
        "samples": ", ".join(f"{figures.samples(one):,} {one}" for one in figures.splits),
        "pairs": ", ".join(f"{len(figures.pairs(one)):,} {one}" for one in figures.splits),
        "scenes": ", ".join(f"{figures.scenes(one):,} {one}" for one in figures.splits)
        + ("; no scene is in two splits" if len(figures.splits) > 1 else ""),
        "plan": f"`{source.spool.digest}`, format {2 if stream.target != 'srgb' else 1}",
        "shards of the plan": _share_of_plan(source),
        "target": f"`{stream.target}`: {_TARGETS[stream.target][0]}",
        "colour filter array": f"`{stream.cfa}`: {_PLANES[stream.cfa]}",
        "crop": f"{stream.crop} pixels, of {stream.height} x {stream.width} stored: the rest is room for shifts and flips that keep the phase of the colour filter array",
        "crops of a pair in a visit": f"{options.crops_per_visit}",
        "visits of a pair": "no end" if options.epochs is None else f"{options.epochs}",
        "short exposures": _short_exposures(options.noise),
        "amplification": "constant" if options.constant_amplification() else options.amplify,
        "seed": f"{options.seed}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# Training samples of dark RAW photographs

{format_count(figures.total, "sample")}: each is a crop of a short exposure as the sensor recorded it, and of the long exposure of the same scene.
Made by darkprep {__version__} (`darkprep pack`). The licence is that of the photographs.

| | |
|---|---|
{table}
"""


def _share_of_plan(source: PackSource) -> str:
    count = f"{len(source.shards):,}"
    if source.planned is None:
        return f"{count} of a plan without end"
    part, parts = source.spool.part
    of_part = f"; part {part} of {parts} of the plan" if parts > 1 else ""
    missing = "" if len(source.shards) == source.planned else "; **incomplete**"
    return f"{count} of {source.planned:,}{missing}{of_part}"


def _short_exposures(noise: str | None) -> str:
    if noise is None:
        return "photographed"
    if noise in CALIBRATIONS:
        return f"made from the long ones, with the published noise of `{noise}`"
    return f"made from the long ones, with noise that was {noise}"


def _camera_table(cameras: Mapping[str, CameraFigures]) -> str:
    shown = sorted(cameras.items())[:_MOST_CAMERAS]
    names = list(shown[0][1].spans)
    lines = [
        "## Cameras\n",
        f"| camera | samples | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    lines += [
        f"| {_escaped(name)} | {one.samples:,} | {' | '.join(map(str, one.spans.values()))} |"
        for name, one in shown
    ]
    if len(cameras) > len(shown):
        lines.append(f"\nAnd {format_count(len(cameras) - len(shown), 'more camera')}.")
    return "\n".join(lines) + "\n"


def _checksums(tars: Tars) -> str:
    every = [tar for split in SPLITS for tar in tars[split]]
    lines = "\n".join(f"{tar.sha256}  {tar.name}" for tar in every)
    size = format_bytes(sum(tar.size_bytes for tar in every))
    return f"""## Files

{format_count(len(every), "tar")}, {size}; `index.json` lists them with their sizes. To check them:
`grep -E '^[0-9a-f]{{64}}  ' README.md | sha256sum --check`.

```text
{lines}
```
"""


def _escaped(text: str) -> str:
    """Return a name from a file as text of one cell of a Markdown table."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


_SAMPLE = """## A sample

Each sample has a key `PLAN-SHARD-SAMPLE`, and three files in a tar; keys of samples of different plans differ.

| file | content |
|---|---|
| `KEY.low.npy` | uint16 {low_shape}: sensor codes of the short exposure, nothing subtracted, {planes} |
| `KEY.gt.npy` | uint16 {gt_shape}: {gt} |
| `KEY.json` | `pair`, `camera`, `iso`, exposure `ratio`, `origin` (row and column of the crop), `black` per plane, `white`, `amplification` and how it was found (`gain`), checksums |

The input of a network is `(low - black) / (white - black) * amplification`, per plane.
"""

_LEVELS = """

def levels(codes, black, white):
    black = np.array(black, "float32")[:, None, None]
    return (codes - black) / (white - black)


def values(sample):
    facts = sample["json"]
    low = levels(sample["low.npy"], facts["black"], facts["white"]) * facts["amplification"]
    gt = GT_VALUES
    return low, gt
"""

_READ = f"""## Read it

With [webdataset](https://github.com/webdataset/webdataset). Each worker reads whole tars, so use no more workers than there are tars:

```python
from glob import glob

import numpy as np
import webdataset{_LEVELS}

def prepared(sample):
    low, gt = values(sample)
    return {{"key": sample["__key__"], "low": low, "gt": gt}}


if __name__ == "__main__":
    tars = sorted(glob("train-*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=100).shuffle(100).decode().map(prepared)
    for batch in webdataset.WebLoader(dataset, batch_size=2, num_workers=WORKERS):
        print(batch["low"].shape, batch["gt"].shape)
        break
```

With [Megatron Energon](https://github.com/NVIDIA/Megatron-Energon), which finds splits and sample counts in `{ENERGON_DIRECTORY}/` and offsets in
`*.tar.idx`. Joined data sets and random access also need a database; `energon prepare --tar-index-only .` adds it.

```python
import numpy as np
import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_loader,
    get_train_dataset,
    stateless,
){_LEVELS}

@edataclass
class Restoration(Sample):
    low: torch.Tensor
    gt: torch.Tensor


@stateless
def cook(sample):
    low, gt = values(sample)
    return Restoration(
        **basic_sample_keys(sample), low=torch.from_numpy(low), gt=torch.from_numpy(gt)
    )


class Encoder(DefaultTaskEncoder[Restoration, Restoration, Restoration, Restoration]):
    cookers = [Cooker(cook)]


if __name__ == "__main__":
    dataset = get_train_dataset(
        ".",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=WORKERS),
        batch_size=2,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
    )
    for batch in get_loader(dataset):
        print(batch.low.shape, batch.gt.shape)
        break
```
"""

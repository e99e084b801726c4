"""`pack`: a kept spool becomes a data set that WebDataset and Energon read, and that names nothing of the machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from darkprep.jobs.pack import PackOptions, pack
from darkprep.pipeline.plan.plan import Plan
from darkprep.shards import Cursor, Sample, SampleMeta, ShardFile, Spool, write_shard
from darkprep.shards.locks import FileLock
from tests.support.command_line import SMALL, Call, build_spool, snapshot

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CHECKSUM = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)


class Silent:
    """What `pack` is called with in place of a display and of signals."""

    def __call__(self, text: str) -> None:
        pass

    def is_set(self) -> bool:
        return False


def pack_quietly(spool: Path, out: Path, **settings: Any) -> Path:
    pack(PackOptions(spool=spool, out=out, **settings), show=Silent(), stop=Silent())
    return out


@pytest.fixture(scope="session")
def packed(_small_spool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small spool as a data set: two scenes for training, one for validation."""
    return pack_quietly(_small_spool, tmp_path_factory.mktemp("packed") / "set", val=0.3)


def read(spool: Path, shard: int) -> Iterator[tuple[np.ndarray, np.ndarray, SampleMeta]]:
    opened = Spool(spool).open()
    layout = opened.stream.layout()
    file = ShardFile(opened.shard_path(shard), layout, shard, opened.digest)
    with contextlib.closing(file):
        for index, meta in enumerate(file.metas):
            low = np.empty(layout.low_shape, np.uint16)
            gt = np.empty(layout.gt_shape, np.uint16)
            file.read(index, low, gt)
            yield low, gt, meta


def tars(directory: Path, split: str = "*") -> list[str]:
    return sorted(map(str, directory.glob(f"{split}-*.tar")))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to the collector
def test_four_workers_of_plain_webdataset_read_every_sample_once(packed: Path, _small_spool: Path):
    files = tars(packed, "train") + tars(packed, "val")
    dataset = webdataset.WebDataset(files, shardshuffle=False).decode()
    assert len(files) >= 2 * 4
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=4)

    found = [(one["__key__"], one["low.npy"], one["gt.npy"]) for one in loader]

    plan = Spool(_small_spool).open().digest
    wanted = {
        f"{plan}-{meta.key}": (low, gt)
        for shard in range(3)
        for low, gt, meta in read(_small_spool, shard)
    }
    assert len(found) == len(wanted) == 24
    assert {key for key, _, _ in found} == wanted.keys()
    for key, low, gt in found:
        np.testing.assert_array_equal(low, wanted[key][0])
        np.testing.assert_array_equal(gt, wanted[key][1])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_random_mix_of_two_data_sets_has_no_key_twice(
    packed: Path, large_spool: Path, tmp_path: Path
):
    other = pack_quietly(large_spool, tmp_path / "other")
    mix = webdataset.RandomMix(
        [webdataset.WebDataset(tars(each), shardshuffle=False) for each in (packed, other)],
        longest=True,
    )

    keys = [sample["__key__"] for sample in mix]

    assert len(keys) == len(set(keys)) == 24 + 8
    assert not any("." in key for key in keys)


@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("target", ["srgb", "raw"])
def test_the_example_in_the_readme_runs(
    target: str, packed: Path, small_data: Path, tmp_path: Path, monkeypatch, capsys
):
    directory = packed
    if target == "raw":
        spool = build_spool(tmp_path, "--root", small_data, *SMALL, "--target", "raw")
        directory = pack_quietly(spool, tmp_path / "raw")
    monkeypatch.chdir(directory)
    code = _BLOCK.findall(Path("README.md").read_text())[0]

    exec(re.sub(r"num_workers=\d", "num_workers=0", code), {"__name__": "__main__"})

    gt = "[2, 4, 18, 18]" if target == "raw" else "[2, 3, 36, 36]"
    assert capsys.readouterr().out == f"torch.Size([2, 4, 18, 18]) torch.Size({gt})\n"


def test_the_same_spool_gives_the_same_bytes_wherever_it_is(
    packed: Path, small_spool: Path, tmp_path: Path
):
    moved = Path(shutil.move(small_spool, "elsewhere"))

    again = pack_quietly(moved, tmp_path / "again", val=0.3)

    names = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
    assert all((packed / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_nothing_of_the_machine_is_in_the_data_set(packed: Path, small_data: Path):
    named = (str(packed.parents[1]), str(small_data), socket.gethostname(), str(Path.cwd()))
    for path in (path for path in packed.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(name.encode() in content for name in named), path
    for tar in map(tarfile.open, tars(packed)):
        with tar:
            for member in tar:
                assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
                assert (member.mtime, member.mode, member.pax_headers) == (0, 0o644, {})


def test_readme_and_index_state_what_is_there(packed: Path, _small_spool: Path):
    readme = (packed / "README.md").read_text()
    index = json.loads((packed / "index.json").read_text())

    assert Spool(_small_spool).open().digest in readme
    assert "| samples | 16 train, 8 val |" in readme
    assert "| scenes | 2 train, 1 val; no scene is in two splits |" in readme
    assert "| sony | 24 | 800 |" in readme
    listed = {each["url"]: each for each in index["shardlist"]}
    assert sorted(listed) == [Path(path).name for path in tars(packed)]
    for checksum, name in _CHECKSUM.findall(readme):
        content = (packed / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == checksum == listed[name]["sha256"]
        assert len(content) == listed[name]["filesize"]
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            assert len(tar.getnames()) == 3 * listed[name]["nsamples"]


def test_a_scene_is_in_one_split_only(packed: Path, _small_spool: Path):
    scene_of = {each.pair.id: each.pair.scene for each in Plan.load(Spool(_small_spool)).pairs}
    scenes: dict[str, set[str]] = {}
    for path in tars(packed):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".json"):
                    pair = json.load(tar.extractfile(name) or io.BytesIO())["pair"]
                    scenes.setdefault(Path(path).name.split("-")[0], set()).add(scene_of[pair])

    assert {split: len(found) for split, found in scenes.items()} == {"train": 2, "val": 1}
    assert not scenes["train"] & scenes["val"]


def test_a_tar_has_the_size_that_was_chosen(small_spool: Path, call: Call):
    result = call("pack", small_spool, "set", "--tar-size", "80kB")

    assert result.exit_code == 0, result.output
    assert "wrote set: 24 samples (24 train) in " in result.stderr
    sizes = [path.stat().st_size for path in Path("set").glob("*.tar")]
    assert max(sizes) <= 80_000
    assert max(sizes) - min(sizes) < 20_000


def test_a_spool_is_left_as_it_is(small_spool: Path, call: Call):
    before = snapshot(small_spool)

    assert call("pack", small_spool, "set").exit_code == 0

    assert snapshot(small_spool) == before


# -- what is refused ----------------------------------------------------------------------------------


def remove_shard(spool: Path) -> None:
    (spool / "ready" / "00000001.tar").unlink()


def train_and_delete(spool: Path) -> None:
    Spool(spool).write_cursor(Cursor(rank=0, world=1, batch=3, shard=1, run="runs/a"))
    (spool / "ready" / "00000000.tar").unlink()


def damage(spool: Path) -> None:
    with (spool / "ready" / "00000001.tar").open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff\xff\xff")


def cut(spool: Path) -> None:
    os.truncate(spool / "ready" / "00000002.tar", 5000)


def nothing(spool: Path) -> None:
    pass


def remove_all(spool: Path) -> None:
    shutil.rmtree(spool / "ready")


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (remove_shard, ["set"], "1 of 3 shards are missing: run `darkprep build` with this spool"),
        (train_and_delete, ["set"], "a training run has deleted used shards; build another spool"),
        (remove_all, ["set"], "holds no finished shards; make them with `darkprep build`"),
        (damage, ["set"], "the checksum of low is wrong; remove this file and run `darkprep build`"),
        (cut, ["set"], "has 5000 bytes, but shards of the plan have"),
        (nothing, ["."], ".: exists already; name a directory that does not"),
        (nothing, ["none/set"], "none: is not a directory"),
        (nothing, ["spool/ready/set"], "is inside the spool"),
        (nothing, ["set", "--val", "0.5", "--test", "0.5"], "leave no scene for training"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_one_line_and_leaves_nothing(
    complaint: Callable[..., str],
    small_spool: Path,
    change: Callable[[Path], None],
    words: list[str],
    said: str,
):
    change(small_spool)
    before = sorted(path.name for path in Path().iterdir())

    assert said in complaint("pack", "--quiet", small_spool, *words)

    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_plan_without_end_and_a_spool_in_a_bucket_are_refused(
    complaint: Callable[..., str], small_spool: Path, call: Call
):
    plan = Plan.load(Spool(small_spool).open())
    endless = Spool("endless")
    endless.create(replace(plan, options=replace(plan.options, epochs=None)).record())
    samples = [Sample(*each) for each in read(small_spool, 0)]
    write_shard(
        endless.shard_path(0), plan.stream.layout(), 0, samples, plan=endless.digest, partial=endless.partial
    )  # fmt: skip

    line = complaint("pack", "--quiet", "endless", "set")

    assert "its plan has no end; build another spool with --epochs N, or add --incomplete" in line
    assert call("pack", "endless", "set", "--incomplete").exit_code == 0
    assert "| 1 of a plan without end |" in Path("set/README.md").read_text()
    assert "copy the objects below it" in complaint("pack", "s3://bucket/spool", "set2")


def test_a_spool_that_is_not_complete_is_packed_on_request_with_the_count(
    small_spool: Path, call: Call
):
    train_and_delete(small_spool)

    result = call("pack", small_spool, "set", "--incomplete")

    assert "16 samples (16 train) in 8 tars" in result.stderr
    assert result.stderr.rstrip().endswith("; 1 shard of the plan is missing")
    assert "| shards of the plan | 2 of 3; **incomplete** |" in Path("set/README.md").read_text()


def test_a_disk_without_room_is_reported_before_anything_is_written(
    complaint: Callable[..., str], small_spool: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    line = complaint("pack", "--quiet", small_spool, "set")

    assert re.search(r"the data set needs \d+ kB and 1 kB are free; free some space", line)
    assert not list(Path().glob("*set*"))


# -- interruptions and other processes ----------------------------------------------------------------


def test_an_interrupted_pack_leaves_nothing_and_can_be_started_again(
    small_spool: Path, complaint: Callable[..., str], call: Call, monkeypatch: pytest.MonkeyPatch
):
    copied: list[int] = []

    def interrupt(self: Any) -> None:
        copied.append(1)
        if len(copied) == 10:
            assert list(Path().glob(".set.partial/train-*.tar"))
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("darkprep.jobs.pack._CopyProgress.advance", interrupt)
        assert complaint("pack", "--quiet", small_spool, "set", status=130) == "interrupted"
    assert [path.name for path in Path().iterdir()] == ["spool"]

    assert call("pack", small_spool, "set").exit_code == 0


def test_what_a_killed_pack_left_is_removed_by_the_next_one(
    small_spool: Path, call: Call, packed: Path
):
    left = Path(".set.partial")
    (left / ".nv-meta").mkdir(parents=True)
    (left / "lock").write_text("{}")
    (left / "train-000000.tar").write_bytes(b"half")

    assert call("pack", small_spool, "set", "--val", "0.3").exit_code == 0

    assert snapshot(Path("set")).keys() == snapshot(packed).keys()
    assert not left.exists()


def test_a_pack_that_fails_behind_a_link_of_the_users_own_leaves_nothing(
    small_spool: Path, complaint: Callable[..., str]
):
    Path("disk").mkdir()
    Path("link").symlink_to("disk")
    shard = Spool(small_spool).open().shard_path(1)
    content = bytearray(shard.read_bytes())
    content[5000] ^= 255
    shard.write_bytes(content)

    assert "is wrong; remove this file" in complaint("pack", "--quiet", small_spool, "link/set")

    assert list(Path("disk").iterdir()) == []


def test_a_directory_of_someone_else_and_a_pack_that_is_running_are_left_alone(
    small_spool: Path, complaint: Callable[..., str]
):
    partial = Path(".set.partial")
    partial.mkdir()
    (partial / "photograph.dng").touch()
    assert "was not made by darkprep pack" in complaint("pack", "--quiet", small_spool, "set")
    (partial / "photograph.dng").unlink()

    with FileLock(partial / "lock", "a pack", directory=Path("set")):
        line = complaint("pack", "--quiet", small_spool, "set")

    assert line.startswith("set: a pack is already running")
    partial.joinpath("lock").unlink()
    partial.rmdir()
    partial.symlink_to(small_spool)
    assert "is a link to" in complaint("pack", "--quiet", small_spool, "set")
    assert Spool(small_spool).open().ready_shards() == [0, 1, 2]


# -- Energon --------------------------------------------------------------------------------------------


@pytest.mark.frameworks
@pytest.mark.filterwarnings(
    "ignore"
)  # Energon pins memory without a GPU, and leaves files to the collector
def test_energon_reads_every_sample_once_and_would_write_the_same_indexes(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    energon = pytest.importorskip("megatron.energon", reason="pip install megatron-energon")
    monkeypatch.chdir(shutil.copytree(packed, tmp_path / "set"))
    code = _BLOCK.findall(Path("README.md").read_text())[1]
    scope: dict[str, Any] = {"__name__": "example"}
    exec(code, scope)
    for split in ("train", "val"):
        dataset = energon.get_val_dataset(
            ".",
            split_part=split,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
            batch_size=2,
            task_encoder=scope["Encoder"](),
        )
        keys = [key for batch in energon.get_loader(dataset) for key in batch.__key__]
        assert len(keys) == len(set(keys)) == (16 if split == "train" else 8)

    indexes = {path.name: path.read_bytes() for path in Path().glob("*.idx")}
    for name in indexes:
        Path(name).unlink()
    prepare = pytest.importorskip("megatron.energon.tools.prepare").command
    prepare.main(
        ["--tar-index-only", "--no-progress", "--num-workers", "1", "."], standalone_mode=False
    )
    assert {path.name: path.read_bytes() for path in Path().glob("*.idx")} == indexes


# -- a spool of someone else ------------------------------------------------------------------------------


def rewrite(spool: Path, shard: int, **fields: Any) -> None:
    """Write a shard again with other metadata, as someone who knows the format could."""
    opened = Spool(spool).open()
    samples = [
        Sample(low, gt, replace(meta, **fields)) for low, gt, meta in list(read(spool, shard))
    ]
    write_shard(
        opened.shard_path(shard), opened.stream.layout(), shard, samples, plan=opened.digest, partial=opened.partial
    )  # fmt: skip


def test_names_in_a_spool_are_text_of_the_readme_and_never_paths(small_spool: Path, call: Call):
    rewrite(small_spool, 1, camera="../../x | <b>`y` [z](http://w)\x1b[31m\n# heading")

    assert call("pack", small_spool, "set").exit_code == 0

    (row,) = [line for line in Path("set/README.md").read_text().splitlines() if "heading" in line]
    assert row.startswith(r"| ../../x \| \<b\>\`y\` \[z\]\(http://w\)\\x1b\[31m\\n\# heading | 8 |")
    files = {str(path.relative_to("set")) for path in Path("set").rglob("*") if path.is_file()}
    allowed = r"train-\d{6}\.tar(\.idx)?|README\.md|index\.json|\.nv-meta/[.a-z]+"
    assert all(re.fullmatch(allowed, name) for name in files)
    assert sorted(path.name for path in Path().iterdir()) == ["set", "spool"]


def test_a_sample_of_a_pair_that_is_not_in_the_plan_is_refused(
    small_spool: Path, complaint: Callable[..., str]
):
    rewrite(small_spool, 1, pair="another")

    line = complaint("pack", "--quiet", small_spool, "set")

    assert line.startswith("spool/ready/00000001.tar: names a pair that is not in the plan")

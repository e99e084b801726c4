"""The colours of the training cameras are recorded, read back from hostile text, and chosen for a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from darkprep.pipeline.pairs import reference_colours
from darkprep.pipeline.pairs.reference_colours import pair_colours
from darkprep.pipeline.pairs.table import Pair
from darkprep.pipeline.raw.camera_colours import (
    CameraColours,
    cameras_from_text,
    cameras_to_text,
    colours_for,
    full_camera_name,
    typical_colours,
)
from darkprep.pipeline.raw.colour import Colours


def colours(red: float = 2.0) -> Colours:
    return Colours(gains=np.array([red, 1.0, 1.5]), to_srgb=np.eye(3) + 0.1)


def pair(name: str, label: str = "mine") -> Pair:
    return Pair(
        id=name, scene=name, camera=label, split="train", short=name, long=name, ratio=100.0, iso=100
    )  # fmt: skip


def camera(name: str, red: float = 2.0) -> CameraColours:
    return CameraColours(camera=name, colours=colours(red))


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("SONY", "ILCE-7SM2", "SONY ILCE-7SM2"),
        ("NIKON CORPORATION", "NIKON D1", "NIKON D1"),
        ("Canon", "Canon EOS 70D", "Canon EOS 70D"),
        ("", "X\n1", "X 1"),
        ("", "", ""),
    ],
)
def test_a_camera_has_one_name(make, model, name):
    assert full_camera_name(make, model) == name


def test_cameras_are_read_back_from_the_text_of_a_weights_file():
    text = cameras_to_text([camera("SONY ILCE-7SM2").to_record(), camera("X", 3.0).to_record()])

    first, second = cameras_from_text(text)

    assert (first.camera, second.camera) == ("SONY ILCE-7SM2", "X")
    assert first.colours.gains == pytest.approx([2.0, 1.0, 1.5])
    assert second.colours.to_srgb == pytest.approx(np.eye(3) + 0.1)
    assert cameras_to_text([]) == "" and cameras_from_text("") == ()


@pytest.mark.parametrize(
    "change",
    [
        {"camera": ""}, {"camera": "a\x1b[2J"}, {"camera": 5}, {"camera": "x" * 999}, {"white_balance": [1, 1]},
        {"white_balance": [1, -1, 1]}, {"white_balance": "abc"}, {"white_balance": [10**400, 1, 1]},
        {"to_srgb": [[0, 0, 0]] * 3}, {"to_srgb": [[float("nan")] * 3] * 3}, {"to_srgb": None},
    ],
)  # fmt: skip
def test_invalid_cameras_of_a_weights_file_are_unknown_ones(change):
    assert cameras_from_text(json.dumps([{**camera("X").to_record(), **change}])) == ()


@pytest.mark.parametrize("text", ["{", "3", '{"a": 1}', "[[]]", "[" * 60000, " " * (1 << 17)])
def test_other_text_than_cameras_is_no_camera(text):
    assert cameras_from_text(text) == ()


def test_a_file_of_another_camera_gets_the_colours_of_the_first_one():
    known = (camera("SONY ILCE-7SM2"), camera("NIKON D1", 3.0))

    assert colours_for("Canon EOS 70D", known) is known[0].colours
    assert colours_for("sony ilce-7sm2", known) is None
    assert colours_for("NIKON D1", known) is None
    assert colours_for("Canon EOS 70D", ()) is None


def test_the_typical_white_balance_is_the_median():
    assert typical_colours([colours(1.0), colours(9.0), colours(2.0)]).gains[0] == pytest.approx(2)


def test_the_colours_of_pairs_are_those_of_their_cameras(tmp_path, write_raw):
    for name, model in (("a.dng", "One"), ("b.dng", "Two"), ("c.dng", "Two")):
        write_raw(name, make="Maker", model=model, size=(60, 80))
    pairs = [pair("a.dng", "mine"), pair("b.dng", "mine"), pair("none.dng", "other")]

    found = pair_colours(tmp_path, [*pairs, pair("c.dng", "mine")])

    assert [one.camera for one in found] == ["Maker One", "Maker Two"]
    assert found[0].colours.gains == pytest.approx([2.0, 1.0, 1.6], rel=1e-3)


def test_one_file_of_each_camera_is_decoded_for_its_colours(tmp_path, write_raw, monkeypatch):
    decoded = tmp_path / "decoded"  # a file, because photographs are read in a forked process
    photograph_colours = reference_colours._photograph_colours

    def recorded(path: Path):
        with decoded.open("a") as file:
            print(path.name, file=file)
        return photograph_colours(path)

    monkeypatch.setattr(reference_colours, "_photograph_colours", recorded)
    pairs = []
    for n, red in enumerate((0.5, 0.25, 0.4)):
        name = f"{n}.dng"
        write_raw(name, make="Maker", model="One", size=(60, 80), as_shot_neutral=(red, 1.0, 0.5))
        pairs.append(pair(name))

    (found,) = pair_colours(tmp_path, pairs)

    assert decoded.read_text().split() == ["0.dng"]
    assert found.colours.gains == pytest.approx([2.5, 1.0, 2.0], rel=1e-3)

"""Scenes are functions of seed and number, look alike at any size, and make good exposures."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt
import pytest

from darkprep.synth.renderer.materials import Material
from darkprep.synth.renderer.raycaster import RayCaster, film_response
from darkprep.synth.renderer.render import F32, render_preview, render_tiles
from darkprep.synth.renderer.scene import Light, Scene
from darkprep.synth.renderer.solid import Solid
from darkprep.synth.renderer.solids import Box, Ellipsoid, Frustum, Sheet
from darkprep.synth.renderer.textures import NAMES, texture
from darkprep.synth.scenes import generate
from darkprep.synth.scenes.generate import make_scene
from tests.support.rendering import render

WHITE = Material(colour=(0.8, 0.8, 0.8))
KINDS = range(6)
SOME_KINDS = [0, *(pytest.param(number, marks=pytest.mark.slow) for number in KINDS[1:])]
"""Pictures of all but one are slow, because each kind makes textures of its own."""

SIZE = (120, 180)


@functools.cache
def picture(number: int) -> F32:
    """Scene `number` at SIZE."""
    return render(make_scene(11, number), SIZE)


def shrunk(picture: F32, factor: int) -> F32:
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    folded = picture.reshape(height, factor, width, factor, 3)
    return np.asarray(folded.mean(axis=(1, 3)), np.float32)


def log_tone(picture: F32) -> F32:
    return np.asarray(np.clip(picture, 1e-3, 1) ** 0.45, np.float32)


@pytest.mark.parametrize("kind", generate._SCENE_KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_scene_is_lit_and_fills_the_picture(kind):
    for seed in range(3):
        scene = kind(np.random.default_rng(seed))

        assert scene.lights
        top, bottom, left, right = RayCaster(scene, SIZE).bounds.T
        seen = (top < SIZE[0]) & (bottom > 0) & (left < SIZE[1]) & (right > 0)
        assert seen.sum() >= 5


def test_one_seed_and_number_give_one_picture():
    first = make_scene(11, 0)
    make_scene.cache_clear()
    again = make_scene(11, 0)

    assert again is not first
    assert again.exposure == first.exposure
    assert np.array_equal(render_preview(again, (48, 72)), render_preview(first, (48, 72)))


@pytest.mark.parametrize(
    "numbers", [(0, 3), pytest.param((*KINDS, 6), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_other_numbers_and_seeds_give_other_pictures(numbers):
    scenes = [make_scene(11, number) for number in numbers] + [make_scene(12, 2)]
    pictures = [film_response(one.exposure * render_preview(one, (40, 60))) for one in scenes]

    for k, one in enumerate(pictures):
        for other in pictures[:k]:
            assert np.abs(log_tone(one) - log_tone(other)).mean() > 0.05


@pytest.mark.parametrize("number", SOME_KINDS)
def test_a_small_picture_is_the_large_one_scaled(number):
    large = shrunk(picture(number), 6)
    small = shrunk(render(make_scene(11, number), (60, 90)), 3)

    difference = log_tone(large) - log_tone(small)
    assert abs(difference.mean()) < 0.01
    assert np.corrcoef(log_tone(large).ravel(), log_tone(small).ravel())[0, 1] > 0.97


@pytest.mark.parametrize("number", SOME_KINDS)
def test_exposures_fill_the_range_and_clip_little(number):
    exposed = picture(number)

    assert np.isfinite(exposed).all()
    assert exposed.min() >= 0
    assert 0.95 <= exposed.max() <= 1.05
    assert (exposed.max(axis=2) >= 1).mean() < 0.05
    assert 0.05 < exposed.mean() < 0.35
    assert np.quantile(exposed, 0.05) < 0.06, "there are shadows"


@pytest.mark.parametrize("number", SOME_KINDS)
def test_the_spectrum_falls_as_that_of_photographs(number):
    """Amplitude about 1/f: slopes between -0.7 and -2.2, as collections of photographs have."""
    side = SIZE[0]
    tone = log_tone(picture(number)[:, 30 : 30 + side, 1])
    window = np.hanning(side)[:, None] * np.hanning(side)
    amplitude = np.abs(np.fft.fft2((tone - tone.mean()) * window))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    bands = [(lo, lo * 1.5) for lo in (0.02, 0.03, 0.045, 0.07, 0.1, 0.15)]
    means = [amplitude[(f >= lo) & (f < hi)].mean() for lo, hi in bands]
    slope = np.polyfit([np.log(lo * hi) / 2 for lo, hi in bands], np.log(means), 1)[0]
    assert -2.2 < slope < -0.7


def test_tiles_cover_the_picture_once_and_meet_without_seams(monkeypatch):
    scene, whole = make_scene(11, 0), picture(0)
    monkeypatch.setattr("darkprep.synth.renderer.render.TILE", (52, 72))
    count, tiled = np.zeros(SIZE, int), np.empty_like(whole)
    for rows, columns, tile in render_tiles(scene, SIZE):
        count[rows, columns] += 1
        assert tile.shape == (*count[rows, columns].shape, 3)
        tiled[rows, columns] = tile

    assert (count == 1).all()
    # where the light is interpolated depends on the tile, what is seen does not
    assert np.abs(tiled - whole).mean() < 1e-3


@pytest.mark.parametrize(
    "solid",
    [
        Box(material=WHITE, at=(0, 0, 0), half_size=(0.5, 0.3, 0.4), rotation=0.4),
        Ellipsoid(material=WHITE, at=(0, 0, 0), radii=(0.5, 0.3, 0.4)),
        Frustum(material=WHITE, base=(0, -0.4, 0), height=0.8, bottom_radius=0.4, top_radius=0.2),
        Sheet(material=WHITE, corner=(-0.5, -0.4, 0.1), along=(1.0, 0, 0), up=(0, 0.8, 0)),
    ],
    ids=["box", "ellipsoid", "frustum", "sheet"],
)
class TestSolids:
    """Each kind of solid agrees with itself: hits, normals, bounds and distances."""

    @pytest.fixture
    def rays(self):
        rng = np.random.default_rng(0)
        origin = np.array([[1.5], [1.2], [3.0]], np.float32)
        aim = rng.uniform(-0.45, 0.45, (3, 4000)).astype(np.float32)
        return np.broadcast_to(origin, aim.shape).copy(), aim - origin

    def hits(self, solid: Solid, rays: tuple[F32, F32]) -> tuple[npt.NDArray[np.bool_], F32]:
        origin, d = rays
        t = solid.intersect(origin, d, np.full(d.shape[1], np.inf, np.float32))
        met = np.isfinite(t)
        return met, np.asarray((origin + d * np.where(met, t, 0))[:, met], np.float32)

    def test_hit_points_lie_on_the_surface(self, solid, rays):
        met, p = self.hits(solid, rays)
        assert met.mean() > 0.1
        assert (
            solid.distance(p).max() < 0.21
            if isinstance(solid, Frustum)
            else solid.distance(p).max() < 1e-3
        )

    def test_points_lie_within_the_bounds(self, solid, rays):
        _, p = self.hits(solid, rays)
        corners = np.array(solid.corners())
        assert (p.T >= corners.min(axis=0) - 1e-3).all()
        assert (p.T <= corners.max(axis=0) + 1e-3).all()
        centre = np.array(solid.centre)[:, None]
        assert np.linalg.norm(p - centre, axis=0).max() <= solid.radius + 1e-3

    def test_normals_are_unit_and_face_the_viewer(self, solid, rays):
        met, p = self.hits(solid, rays)
        normal, u, v = solid.surface(p)
        assert np.linalg.norm(normal, axis=0) == pytest.approx(1, abs=1e-4)
        assert np.isfinite(u).all()
        assert np.isfinite(v).all()
        if not isinstance(solid, Sheet):
            assert ((normal * rays[1][:, met]).sum(axis=0) < 1e-3).mean() > 0.98

    def test_what_lies_behind_it_is_in_its_shadow(self, solid, rays):
        if isinstance(solid, Sheet):
            pytest.skip("sheets throw no shadow")
        light = np.array([[0.0], [1.0], [0.0]], np.float32)
        below = np.array([[0.0, 0.0, 3.0], [-2.0, 2.0, -2.0], [0.0, 0.0, 0.0]], np.float32)
        share = solid.transmittance(below, np.broadcast_to(light, below.shape), 0.02)
        assert share[0] < 0.05, "straight below"
        assert share[1] == 1, "above"
        assert share[2] == 1, "far aside"

    def test_it_can_be_moved_up(self, solid, rays):
        assert solid.raised(0.5).centre[1] == pytest.approx(solid.centre[1] + 0.5)


def test_a_lamps_light_falls_with_the_square_of_the_distance():
    lamp = Light(at=(0, 10.0, 0), colour=(1, 1, 1))
    ahead, strength = lamp.incident(np.array([[0, 0], [0, 5.0], [0, 0]], np.float32))

    assert ahead[1] == pytest.approx(1)
    assert strength[1] / strength[0] == pytest.approx(4, rel=1e-3)


def test_a_window_lets_the_sun_through_its_panes_alone():
    wall = Sheet(material=WHITE, corner=(-0.5, 1.0, -1.0), along=(1.0, 0, 0), up=(0, 1.0, 0))
    sun = Light(at=(0, 0, -1), sun=True, colour=(1, 1, 1), softness=0.01, portal=wall, panes=(2, 1))
    points = np.array([[0.25, 0.0, 0.25, 3.0], [1.5, 1.5, 0.5, 1.5], [0, 0, 0, 0]], np.float32)

    _, strength = sun.incident(points)

    assert strength == pytest.approx([1, 0, 0, 0], abs=1e-3)


def test_shadows_fall_opposite_the_sun():
    floor = Sheet(material=WHITE, corner=(-2, 0, -2), along=(4, 0, 0), up=(0, 0, 4))
    post = Box(material=WHITE, at=(0, 0.5, 0), half_size=(0.1, 0.5, 0.1))
    scene = Scene(
        eye=(0, 4, 2),
        target=(0, 0, 0),
        field_of_view=0.9,
        solids=(floor, post),
        lights=(Light(at=(1, 1, 0), sun=True, colour=(0.5, 0.5, 0.5), softness=0.02),),
        ambient=((0.05, 0.05, 0.05), (0.05, 0.05, 0.05)),
    )
    picture = render(scene, (90, 120)).mean(axis=2)
    open_ = render(dataclasses.replace(scene, solids=(floor,)), (90, 120)).mean(axis=2)

    ratio = picture[45:60, :] / open_[45:60, :]
    assert ratio[:, :45].min() < 0.4, "the shadow is opposite the sun"
    assert ratio[:, 75:].min() > 0.9, "there is none towards it"


def test_film_response_keeps_mid_tones_and_barely_exceeds_full_scale():
    ramp = np.tile(np.linspace(0, 50, 5000, dtype=np.float32), (3, 1))
    ramp[1:] *= 0.5
    exposed = film_response(ramp)

    low = ramp[0] < 0.7
    assert np.array_equal(exposed[:, low], ramp[:, low])
    assert exposed.max() <= 1.021
    assert (np.diff(exposed[0]) >= -1e-4).all()
    assert exposed[:, -1] == pytest.approx(1.02, abs=1e-3), "the brightest is white"


@pytest.mark.parametrize("name", NAMES)
def test_textures_are_seamless_and_in_range(name):
    fine = np.full(512, 1 / 1024, np.float32)
    line = np.linspace(0, 1, 512, dtype=np.float32)
    mix, light = texture(name).sample(line, line * 0 + 0.3, fine)
    again = texture(name).sample(line + 3, line * 0 + 1.3, fine)

    np.testing.assert_allclose(mix, again[0], atol=2e-2)
    np.testing.assert_allclose(light, again[1], atol=2e-2)
    assert mix.min() >= 0
    assert mix.max() <= 1.0001
    assert light.min() > 0


def test_a_pixel_that_covers_the_whole_texture_sees_its_mean():
    u = np.linspace(0, 1, 64, dtype=np.float32)
    mix, light = texture("brick").sample(u, u, np.full(64, 4.0, np.float32))

    assert np.ptp(mix) < 0.05
    assert np.ptp(light) < 0.05

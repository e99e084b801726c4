"""Make random scenes of six kinds, each from a seed and a number.

The trade-off: scenes consist of few kinds of solids, so that they render in seconds. They have what matters
in photographs (light that falls off, fine texture, saturated and dark colours, print, foliage, highlights),
but do not look real.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from darkprep.synth.renderer.raycaster import film_response
from darkprep.synth.renderer.render import render_preview
from darkprep.synth.renderer.scene import Scene
from darkprep.synth.scenes.garden import garden
from darkprep.synth.scenes.materials import Rng
from darkprep.synth.scenes.room import living_room
from darkprep.synth.scenes.street import street
from darkprep.synth.scenes.tables import desk, night_table, still_life

_PREVIEW_SIZE = (120, 180)
"""Size of the image that the exposure is measured on."""
_MEAN_LEVEL = 0.15
"""Mean linear level that the exposure aims for."""

_SCENE_KINDS: tuple[Callable[[Rng], Scene], ...] = (
    still_life,
    living_room,
    street,
    garden,
    night_table,
    desk,
)


@functools.lru_cache(maxsize=8)
def make_scene(seed: int, number: int) -> Scene:
    """Return scene `number`, from 0, of a seed. Each six consecutive scenes are of six different kinds.

    The last ones are kept: to find the exposure takes about a second, and several cameras may photograph one scene.
    """
    cycle = number // len(_SCENE_KINDS)
    order = np.random.Generator(np.random.Philox(key=[seed, cycle])).permutation(len(_SCENE_KINDS))
    rng = np.random.Generator(np.random.Philox(key=[seed, (number + 1) << 32]))
    return _with_exposure(_SCENE_KINDS[int(order[number % len(_SCENE_KINDS)])](rng))


def _with_exposure(scene: Scene) -> Scene:
    """Return the scene with an exposure that a photographer would choose.

    A few pixels in ten thousand should reach full scale in the sensor's green channel, which also responds
    to some red and blue light. Without such pixels, RAW developers take the brightest code for the white
    level. Most scenes have highlights for this purpose; a scene without them is exposed for longer.
    """
    picture = render_preview(scene, _PREVIEW_SIZE).reshape(-1, 3).T
    peak = picture.max(axis=0)
    high = float(np.quantile(peak, 0.98))
    exposure = min(_MEAN_LEVEL / float(np.minimum(peak, high).mean()), 1.4 / high)
    for longer in np.geomspace(1.0, 3.0, 12).tolist():
        red, green, blue = film_response(picture * np.float32(exposure * longer))
        if np.quantile(0.1 * red + 0.65 * green + 0.25 * blue, 0.9996) >= 0.995:
            break
    return dataclasses.replace(scene, exposure=exposure * longer)

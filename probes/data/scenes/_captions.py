"""What a scene shows, in words: the prompts of a text-to-image model of this world, and the model's whole vocabulary.

Everything comes from the scene's exact parameters; what is hidden, or out of the picture, is not named. Visibility is found
by casting rays, as the renderer does, on a coarse grid.
"""
from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..colour import linear_to_srgb
from . import _intersect as hit
from ._render import SAMPLES, _camera_rays, _distances
from ._sample import BOXES, QUADRICS, sample

_SHAPES = ("ball", "egg", "cylinder", "cone", "frustum", "vase", "dome", "box")
_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUE_ENDS = np.array([0.03, 0.11, 0.19, 0.45, 0.54, 0.71, 0.83, 0.95])           # of the colour circle; the rest is red again
_GREYS = ("black", "grey", "white")
_WALLS = ("plain", "striped", "panelled")

VOCABULARY = (
    "<start>", "<end>", "<unknown>", ",", ";", "a", "an", "and", "with", "on", "the", "left", "right", "back", "one", "two",
    "room", "wall", "walls", "floor", "rug", "door", "picture", "lamp", "lamps", *_SHAPES, *_HUES, "brown", *_GREYS,
    "pale", "dark", *_WALLS, "checkered", "boarded", "round", "square", "tall", "banded",
    "surface", "normal", "depth", "map", "albedo", "shading",
)
"""Every word of the captions, and the words of the probes' prompts ("surface normal", "depth map", "albedo", "shading").
No caption uses the latter: their embeddings stay as they were initialised, and a probe finds them without a meaning."""

LONGEST = 63
"""Words and punctuation marks of the longest possible caption."""

_GRID = 12                       # × SAMPLES rays along a side
_LEAST = 1 / 150                 # share of the picture that a named thing covers
_BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")
_AT_ONCE = 256                   # scenes


def captions(seeds: Sequence[int]) -> list[str]:
    """One caption a scene, e.g.

        a room with plain pale green walls, a checkered brown floor and a round red rug; a blue ball, a tall yellow
        cone; a dark orange door on the left; one lamp

    Objects stand in the order of their place in the picture, from left to right. At most LONGEST words and punctuation marks;
    all of them in VOCABULARY. Raises ValueError for an empty list of seeds.
    """
    if not len(seeds):
        raise ValueError("seeds: expected at least one scene seed, got none; try captions(range(8))")
    written: list[str] = []
    for i in range(0, len(seeds), _AT_ONCE):
        scene = sample(list(seeds[i:i + _AT_ONCE]))
        written += _write(scene, _visible({k: torch.from_numpy(v) for k, v in scene.items()}))
    return written


@torch.no_grad()
def _visible(s: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Whether objects [N, 5], rug, door, picture and back wall [N] show; column of the objects' centre [N, 5] in [0, 1]."""
    ray = _camera_rays(s, _GRID)
    ox, oy, oz, dx, dy, dz = ray
    tx, ty, _, depth = hit.room(ray, *(s["size"][:, i, None] for i in range(3)))
    on_x, on_y = tx <= depth, ty <= depth
    winner = torch.full_like(depth, -1, dtype=torch.int64)
    for i, t in enumerate(_distances(s, ray)):
        winner = torch.where(t < depth, i, winner)
        depth = torch.minimum(t, depth)
    x, y, z = ox + depth * dx, oy + depth * dy, oz + depth * dz
    bare = winner < 0
    back = bare & ~(on_x | on_y) & (dz > 0)
    floor = bare & on_y & (dy > 0)

    def col(name: str) -> Tensor:
        return s[name][:, None]

    px, py, pw, ph = (v[:, None] for v in s["picture_shape"].unbind(-1))
    rx, rz, rw, rd = (v[:, None] for v in s["rug_shape"].unbind(-1))
    across, along = ((x - rx) / rw).abs(), ((z - rz) / rd).abs()
    reach = torch.where(col("rug") == 1, (across.square() + along.square()).sqrt(), torch.maximum(across, along))
    shown = dict(
        picture=back & (col("picture") > 0) & ((x - px).abs() < pw) & ((y - py).abs() < ph),
        rug=floor & (col("rug") > 0) & (reach < 1),
        door=bare & on_x & (torch.sign(x) == col("door")) & (y > -1.99) & ((z - col("door_at")).abs() < 0.43),
        back=back,
    )
    seen = {name: (mask.float().mean(1) > _LEAST).numpy() for name, mask in shown.items()}
    own = winner[:, None] == torch.arange(QUADRICS + BOXES)[:, None]
    column = torch.arange(depth.shape[1]) % (_GRID * SAMPLES)
    count = own.sum(2)
    seen["object"] = (count / own.shape[2] > _LEAST).numpy()
    seen["column"] = ((own * column).sum(2) / count.clamp_min(1)).numpy()
    return seen


def _colours(albedo: np.ndarray) -> np.ndarray:
    """Linear reflectance [..., 3] -> names, e.g. "blue", "pale green", "dark red", "brown", "white"."""
    rgb = linear_to_srgb(torch.from_numpy(np.ascontiguousarray(albedo))).numpy()
    value, least = rgb.max(-1), rgb.min(-1)
    spread = np.maximum(value - least, 1e-6)
    r, g, b = np.moveaxis(rgb, -1, 0)
    sector = np.where(value == r, (g - b) / spread % 6, np.where(value == g, 2 + (b - r) / spread, 4 + (r - g) / spread))
    saturation, hue = spread / np.maximum(value, 1e-6), sector / 6
    name = np.array(_HUES)[np.searchsorted(_HUE_ENDS, hue) % len(_HUES)].astype(object)
    brown = (name == "orange") & (value < 0.75)
    tint = np.where(value < 0.5, "dark ", np.where((saturation < 0.4) & (value >= 0.6), "pale ", "")).astype(object)
    name = np.where(brown, np.where(value < 0.45, "dark brown", "brown"), tint + name)
    grey = np.array(_GREYS)[(value > 0.25).astype(int) + (value > 0.75)].astype(object)
    return np.where(saturation < 0.1, grey, name)


def _shapes(quadric: np.ndarray) -> np.ndarray:
    """Coefficients of x² + z² + aY² + bY + c = 0 and the height, [..., 4] -> names of the solids of revolution.

    They differ in their radii at the bottom (sqrt(-c)) and at the top, and in the sign of the curvature in between.
    """
    a, b, c, h = np.moveaxis(quadric.astype(np.float64), -1, 0)
    top = -(a * h * h + b * h + c) / np.where(c < 0, -c, 1.0)              # squared, over the bottom's
    standing = np.select([a > 0, a == 0, top < 0.05, top > 0.9], ["dome", "cylinder", "cone", "vase"], "frustum")
    return np.where(c < 0, standing, np.where(a > 0.999, "ball", "egg"))


def _write(s: dict[str, np.ndarray], seen: dict[str, np.ndarray]) -> list[str]:
    n = len(s["door"])
    shape = np.concatenate([_shapes(s["quadric"][..., 2:]), np.full((n, BOXES), "box")], 1)
    colour, banded = _colours(s["object_colour"][:, :, 0]), (s["object_colour"][:, :, 0] != s["object_colour"][:, :, 1]).any(-1)
    wall, floor = _colours(s["wall"]), _colours(s["floor"][:, 0])
    rug, door = _colours(s["rug_colour"][:, 1]), _colours(s["door_colour"])
    accent = (s["wall"][:, 0] != s["wall"][:, 1]).any(-1) & seen["back"]
    patterned = (s["floor"][:, 0] != s["floor"][:, 1]).any(-1)
    lines = []
    for k in range(n):
        walls = f"{_WALLS[int(s['wall_kind'][k])]} {wall[k, 0]} walls"
        if accent[k] and wall[k, 1] != wall[k, 0]:
            walls += f" and a {wall[k, 1]} back wall"
        pattern = ("checkered" if s["floor_checker"][k] else "boarded") if patterned[k] else "plain"
        ground = f"a {pattern} {floor[k]} floor"
        if seen["rug"][k]:
            ground += f" and a {'round' if s['rug'][k] == 1 else 'square'} {rug[k]} rug"
        parts = [f"a room with {walls}, {ground}"]
        order = [i for i in np.argsort(seen["column"][k]) if seen["object"][k, i]]
        things = [" ".join(["a", *(["tall"] if s["object_height"][k, i] > 1 else []), *(["banded"] if banded[k, i] else []),
                            colour[k, i], shape[k, i]]) for i in order]
        if things:
            parts.append(", ".join(things))
        if seen["door"][k]:
            parts.append(f"a {door[k]} door on the {'left' if s['door'][k] < 0 else 'right'}")
        if seen["picture"][k]:
            parts.append("a picture")
        parts.append("two lamps" if s["power"][k, 1] > 0 else "one lamp")
        lines.append(_BEFORE_VOWEL.sub("an ", "; ".join(parts)))
    return lines

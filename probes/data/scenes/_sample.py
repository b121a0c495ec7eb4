"""What is in a scene: every number the renderer needs, drawn from one seed.

A scene is a furnished box room: patterned floor (perhaps with a rug), walls with stripes, wainscot, a door and
pictures, one to four solids standing on the floor, and one or two lamps. Scene `seed` is always the same scene,
whatever batch, resolution or device it is rendered in.

World frame: x right, y down, z away from the viewer, metres; the floor is y = 0, the ceiling y = -height.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

DEPTH_RANGE = (0.8, 9.0)  # metres; what depth encodings of this world can say
QUADRICS = 3  # solids of revolution: ball, egg, cylinder, cone, frustum, waisted vase, dome
BOXES = 2
_DRAWS = 320


class _Uniforms:
    """A cursor over the uniform draws of a batch of scenes: every call takes fresh columns."""

    def __init__(self, seeds: Sequence[int]):
        self.table = np.stack([np.random.Generator(np.random.Philox(key=int(s))).random(_DRAWS) for s in seeds])
        self.at = 0

    def __call__(self, low=0.0, high=1.0, columns: int | None = None) -> np.ndarray:
        width = columns or 1
        values = self.table[:, self.at:self.at + width]
        self.at += width
        if values.shape[1] < width:
            raise RuntimeError("a scene asks for more random draws than _DRAWS provides")
        values = low + (high - low) * values
        return values if columns else values[:, 0]

    def chance(self, probability: float, columns: int | None = None) -> np.ndarray:
        return self(columns=columns) < probability


def _hsv(hue, saturation, value) -> np.ndarray:
    """HSV in [0, 1] -> linear-light reflectance [..., 3]."""
    k = (np.stack([hue * 6 + 5, hue * 6 + 3, hue * 6 + 1], -1)) % 6
    v, s = value[..., None], saturation[..., None]
    srgb = v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _camera(u: _Uniforms, width, depth):
    position = np.stack([u(-0.22, 0.22) * width, -u(1.25, 1.85), u(0.15, 0.6)], -1)
    target = np.stack([u(-0.18, 0.18) * width, -u(0.35, 0.95), u(0.55, 0.75) * depth], -1)
    forward = target - position
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(np.broadcast_to([0.0, 1.0, 0.0], forward.shape), forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    tan_half_fov = np.tan(np.radians(u(52, 64)) / 2)
    return position, np.stack([right, down, forward], 1), tan_half_fov


def _place(u: _Uniforms, camera, rotation, tan_half_fov, width, depth, radius):
    """Puts up to five discs on the floor, in view and apart: one that fits in none of five rounds is left out.

    Candidate spots are taken in the camera's ground plane, so that objects stand where they are seen.
    """
    n, k = radius.shape
    centre = np.zeros((n, k, 2))
    placed = np.zeros((n, k), bool)
    ground = rotation[:, 2, [0, 2]] / np.linalg.norm(rotation[:, 2, [0, 2]], axis=-1, keepdims=True)
    side = np.stack([ground[:, 1], -ground[:, 0]], -1)
    for _ in range(5):  # rounds of candidates
        for i in range(k):
            z = u(1.8, 4.0)
            x = u(-0.78, 0.78) * tan_half_fov * z
            spot = camera[:, [0, 2]] + z[:, None] * ground + x[:, None] * side
            r = radius[:, i]
            inside = (np.abs(spot[:, 0]) < width / 2 - r - 0.05) & (spot[:, 1] < depth - r - 0.05)
            gap = np.linalg.norm(spot[:, None] - centre, axis=-1) - radius - r[:, None]
            free = (~placed | (gap > 0.08)).all(1) & inside & ~placed[:, i]
            centre[free, i] = spot[free]
            placed[:, i] |= free
    return centre, placed


def _quadrics(u: _Uniforms, n: int):
    """Coefficients of x² + z² + a·Y² + b·Y + c = 0 for 0 <= Y <= h (Y: height above the floor)."""
    kind = np.floor(u(0, 7, columns=QUADRICS)).astype(int)
    r = u(0.3, 0.55, columns=QUADRICS)
    tall = u(columns=QUADRICS)
    zeros = np.zeros_like(r)
    egg = r * (1.1 + 0.5 * tall)          # half height
    cylinder = r * (1.0 + 1.6 * tall)
    cone = r * (1.8 + 1.2 * tall)
    top = 0.35 + 0.3 * tall               # frustum: top radius over bottom radius
    frustum = r * (1.2 + 1.0 * tall)
    waist = 0.5 + 0.2 * tall              # vase: waist radius over rim radius
    vase = r * (1.6 + 0.8 * tall)
    slope_c, slope_f = r / cone, r * (1 - top) / frustum
    bend = (1 - waist ** 2) * r ** 2 / (vase / 2) ** 2
    table = [  # (a, b, c, height)
        (zeros + 1, -2 * r, zeros, 2 * r),                                                    # ball
        (r ** 2 / egg ** 2, -2 * r ** 2 / egg, zeros, 2 * egg),                               # egg
        (zeros, zeros, -r ** 2, cylinder),                                                    # cylinder
        (-slope_c ** 2, 2 * slope_c ** 2 * cone, -r ** 2, cone),                              # cone
        (-slope_f ** 2, 2 * slope_f * r, -r ** 2, frustum),                                   # frustum
        (-bend, bend * vase, -r ** 2, vase),                                                  # waisted vase
        (r ** 2 / (1.2 * r) ** 2, zeros, -r ** 2, 1.2 * r),                                   # dome
    ]
    pick = [np.choose(kind, [row[j] for row in table]) for j in range(4)]
    return np.stack(pick, -1), r


def sample(seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Draws the scenes of `seeds`: a dict of float32 arrays, scene first."""
    n = len(seeds)
    u = _Uniforms(seeds)
    width, height, depth = u(3.6, 5.6), u(2.5, 3.1), u(4.4, 6.6)
    camera, rotation, tan_half_fov = _camera(u, width, depth)

    coefficients, quadric_radius = _quadrics(u, n)
    half = u(0.24, 0.46, columns=BOXES)
    half_z = half * u(0.7, 1.3, columns=BOXES)
    box_height = u(0.35, 1.15, columns=BOXES)
    radius = np.concatenate([quadric_radius, np.hypot(half, half_z)], 1)
    wanted = np.floor(u(2, 4.4)).astype(int)
    order = np.argsort(u(columns=QUADRICS + BOXES), 1)
    rank = np.argsort(order, 1)
    radius = np.where(rank < wanted[:, None], radius, 0.0)
    centre, placed = _place(u, camera, rotation, tan_half_fov, width, depth, radius)
    placed &= radius > 0
    yaw = u(0, math.pi / 2, columns=BOXES)

    hue = u(columns=2 * (QUADRICS + BOXES)).reshape(n, -1, 2)
    colours = _hsv(hue, u(0.45, 0.9, columns=2 * 5).reshape(n, 5, 2), u(0.55, 0.95, columns=2 * 5).reshape(n, 5, 2))
    banded = u.chance(0.3, columns=5)
    colours[:, :, 1] = np.where(banded[..., None], colours[:, :, 1], colours[:, :, 0])

    wall_hue = u()
    wall = _hsv(wall_hue, u(0.08, 0.38), u(0.72, 0.95))
    accent = np.where(u.chance(0.4)[:, None], _hsv(u(), u(0.15, 0.5), u(0.6, 0.92)), wall)
    wall_second = _hsv(wall_hue, u(0.15, 0.5), u(0.5, 0.9))
    wall_kind = np.floor(u(0, 2.99) + 0.25) % 3                      # plain, stripes, wainscot
    trim = _hsv(u(), u(0, 0.35), np.where(u.chance(0.5), 0.95, 0.35))
    floor_hue = np.where(u.chance(0.6), u(0.05, 0.12), u())
    floor = _hsv(floor_hue, u(0.15, 0.6), u(0.55, 0.9))
    floor_second = np.where(u.chance(0.75)[:, None], _hsv(floor_hue, u(0.15, 0.6), u(0.3, 0.6)), floor)
    rug = np.where(u.chance(0.55), np.where(u.chance(0.5), 1.0, 2.0), 0.0)   # none, round, square
    rug_shape = np.stack([u(-0.15, 0.15) * width, depth * u(0.45, 0.65), u(0.7, 1.3), u(0.6, 1.1)], -1)
    picture = u.chance(0.75)
    door = np.where(u.chance(0.6), np.where(u.chance(0.5), -1.0, 1.0), 0.0)

    lamps = np.stack([np.stack([u(-0.36, 0.36) * width, 0.25 - height, u(0.3, 0.8) * depth], -1) for _ in range(2)], 1)
    second = u.chance(0.4)
    power = np.stack([np.where(second, u(2.2, 3.0), u(3.2, 4.4)), np.where(second, u(1.2, 2.0), 0.0)], 1)

    scene = dict(
        size=np.stack([width / 2, height, depth], -1), camera=camera, rotation=rotation, tan_half_fov=tan_half_fov,
        quadric=np.concatenate([centre[:, :QUADRICS], coefficients], -1),        # x, z, a, b, c, h
        box=np.concatenate([centre[:, QUADRICS:], np.stack([half, box_height, half_z, yaw], -1)], -1),
        present=placed, radius=np.where(placed, radius, 0.0),
        object_height=np.concatenate([coefficients[..., 3], box_height], 1), object_colour=colours,
        object_band=u(0.16, 0.34, columns=5),
        wall=np.stack([wall, accent, wall_second, trim], 1), wall_kind=wall_kind, wall_stripe=u(0.28, 0.6),
        ceiling=_hsv(wall_hue, u(0, 0.1), u(0.88, 0.98)),
        floor=np.stack([floor, floor_second], 1), floor_angle=np.floor(u(0, 3)) * math.pi / 4,
        floor_checker=u.chance(0.6), floor_tile=u(0.45, 0.95),
        rug=rug, rug_shape=rug_shape, rug_colour=_hsv(u(columns=2), u(0.35, 0.8, columns=2), u(0.45, 0.9, columns=2)),
        picture=picture, picture_shape=np.stack([u(-0.25, 0.25) * width, -u(1.45, 1.7), u(0.3, 0.6), u(0.25, 0.42)], -1),
        picture_colour=_hsv(u(columns=3), u(0.3, 0.8, columns=3), u(0.35, 0.95, columns=3)),
        picture_split=u(-0.4, 0.4),
        door=door, door_at=u(0.35, 0.7) * depth, door_colour=_hsv(u(), u(0.2, 0.7), u(0.35, 0.8)),
        lamp=lamps, power=power, ambient=u(0.32, 0.46),
    )
    return {k: np.asarray(v, np.float32) for k, v in scene.items()}

"""What surfaces look like: linear-light reflectance of the room and of the objects at world points."""
from __future__ import annotations

import torch
from torch import Tensor

Colour = tuple[Tensor, Tensor, Tensor]


def _pick(mask: Tensor, colour: Tensor, below: Colour) -> Colour:
    """`colour` [scene, 3] where mask, else what lies below."""
    return tuple(torch.where(mask, colour[:, c, None], below[c]) for c in range(3))  # type: ignore[return-value]


def _flat(colour: Tensor, like: Tensor) -> Colour:
    return tuple(colour[:, c, None].expand_as(like) for c in range(3))  # type: ignore[return-value]


def room_albedo(s: dict[str, Tensor], x: Tensor, y: Tensor, z: Tensor, on_floor: Tensor, on_ceiling: Tensor,
                on_side: Tensor, on_back: Tensor) -> Colour:
    def col(name: str) -> Tensor:
        return s[name][:, None]

    along = torch.where(on_side, z, x)
    # Walls: an accent colour on the back wall, stripes or wainscot, a baseboard.
    colour = _pick(on_back, s["wall"][:, 1], _flat(s["wall"][:, 0], x))
    striped = (col("wall_kind") == 1) & (torch.remainder(along / col("wall_stripe"), 2) < 1)
    panel = (col("wall_kind") == 2) & (y > -0.95)
    colour = _pick(striped | panel, s["wall"][:, 2], colour)
    colour = _pick(y > -0.12, s["wall"][:, 3], colour)
    # A door in one side wall.
    door = on_side & (torch.sign(x) == col("door")) & (y > -2.08)
    across = (z - col("door_at")).abs()
    colour = _pick(door & (across < 0.52), s["wall"][:, 3], colour)
    colour = _pick(door & (across < 0.43) & (y > -1.99), s["door_colour"], colour)
    # A framed picture on the back wall: two fields of colour.
    px, py, pw, ph = (v[:, None] for v in s["picture_shape"].unbind(-1))
    u, v = (x - px).abs(), (y - py)
    framed = on_back & (col("picture") > 0) & (u < pw + 0.07) & (v.abs() < ph + 0.07)
    colour = _pick(framed, s["wall"][:, 3], colour)
    canvas = framed & (u < pw) & (v.abs() < ph)
    colour = _pick(canvas, s["picture_colour"][:, 0], colour)
    colour = _pick(canvas & (v > col("picture_split") * ph), s["picture_colour"][:, 1], colour)
    colour = _pick(on_ceiling, s["ceiling"], colour)
    # Floor: checks or boards, turned; on it a rug with a border.
    cos, sin = torch.cos(col("floor_angle")), torch.sin(col("floor_angle"))
    fu = torch.floor((cos * x + sin * z) / col("floor_tile"))
    fv = torch.floor((cos * z - sin * x) / col("floor_tile")) * col("floor_checker")
    odd = torch.remainder(fu + fv, 2) >= 1
    colour = _pick(on_floor, s["floor"][:, 0], colour)
    colour = _pick(on_floor & odd, s["floor"][:, 1], colour)
    rx, rz, rw, rd = (v[:, None] for v in s["rug_shape"].unbind(-1))
    ru, rv = ((x - rx) / rw).abs(), ((z - rz) / rd).abs()
    reach = torch.where(col("rug") == 1, (ru * ru + rv * rv).sqrt(), torch.maximum(ru, rv))
    on_rug = on_floor & (col("rug") > 0) & (reach < 1)
    colour = _pick(on_rug, s["rug_colour"][:, 0], colour)
    return _pick(on_rug & (reach < 0.8), s["rug_colour"][:, 1], colour)


def object_albedo(s: dict[str, Tensor], index: int, y: Tensor) -> Colour:
    """Object `index`: its colour, in horizontal bands of two colours where the scene says so."""
    odd = torch.remainder(torch.floor(-y / s["object_band"][:, index, None]), 2) >= 1
    return _pick(odd, s["object_colour"][:, index, 1], _flat(s["object_colour"][:, index, 0], y))

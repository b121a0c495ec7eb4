"""Where rays meet solids: closed forms over [scene, ray] arrays, structure of arrays, no branches."""
from __future__ import annotations

import torch
from torch import Tensor

FAR = 1e4
EPSILON = 1e-3

Ray = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # origin x, y, z and direction x, y, z


def room(ray: Ray, half_width: Tensor, height: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances to the three walls that a ray inside the box room is heading for, and the nearest of them."""
    ox, oy, oz, dx, dy, dz = ray
    tx = (torch.copysign(half_width, dx) - ox) / dx
    ty = (torch.where(dy > 0, 0.0, -height) - oy) / dy
    tz = (torch.where(dz > 0, depth, 0.0) - oz) / dz
    return tx, ty, tz, torch.minimum(tx, torch.minimum(ty, tz))


def quadric(ray: Ray, solid: Tensor) -> Tensor:
    """Distance to a solid of revolution on the floor (x, z, a, b, c, h: see `_sample._quadrics`), FAR if missed."""
    ox, oy, oz, dx, dy, dz = ray
    cx, cz, a, b, c, h = (v[:, None] for v in solid.unbind(-1))
    ox, oz, oy, dy = ox - cx, oz - cz, -oy, -dy
    qa = dx * dx + dz * dz + a * dy * dy
    qb = ox * dx + oz * dz + (a * oy + 0.5 * b) * dy
    qc = ox * ox + oz * oz + (a * oy + b) * oy + c
    disc = qb * qb - qa * qc
    root = disc.clamp_min(0).sqrt()
    inverse = 1 / torch.where(qa.abs() < 1e-8, 1e-8, qa)
    t0, t1 = (-qb - root) * inverse, (-qb + root) * inverse
    near, far = torch.minimum(t0, t1), torch.maximum(t0, t1)
    y_near, y_far = oy + near * dy, oy + far * dy
    real = disc > 0
    hit_far = real & (far > EPSILON) & (y_far >= 0) & (y_far <= h)
    hit_near = real & (near > EPSILON) & (y_near >= 0) & (y_near <= h)
    t = torch.where(hit_near, near, torch.where(hit_far, far, FAR))
    cap = (h - oy) / dy                                        # the flat top, where the profile has one
    px, pz = ox + cap * dx, oz + cap * dz
    on_cap = (cap > EPSILON) & (px * px + pz * pz + (a * h + b) * h + c < 0)
    return torch.where(on_cap & (cap < t), cap, t)


def quadric_normal(x: Tensor, y: Tensor, z: Tensor, solid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outward unit normal at world points on the solid, in the world frame (y down)."""
    cx, cz, a, b, c, h = (v[:, None] for v in solid.unbind(-1))
    up = -y
    nx, ny, nz = x - cx, a * up + 0.5 * b, z - cz
    # A point on the cap lies strictly inside the lateral surface.
    top = (up > h - 1e-3) & (nx * nx + nz * nz + (a * up + b) * up + c < -1e-3)
    scale = torch.rsqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    return (torch.where(top, 0.0, nx * scale), torch.where(top, -1.0, -ny * scale), torch.where(top, 0.0, nz * scale))


def _box_frame(box: Tensor) -> tuple[Tensor, ...]:
    cx, cz, hx, height, hz, yaw = (v[:, None] for v in box.unbind(-1))
    return cx, cz, hx, height, hz, torch.cos(yaw), torch.sin(yaw)


def box(ray: Ray, solid: Tensor) -> Tensor:
    """Distance to an upright box turned by yaw (x, z, half width, height, half depth, yaw), FAR if missed."""
    ox, oy, oz, dx, dy, dz = ray
    cx, cz, hx, height, hz, cos, sin = _box_frame(solid)
    ox, oz = ox - cx, oz - cz
    ix = 1 / _away_from_zero(cos * dx + sin * dz)
    iz = 1 / _away_from_zero(cos * dz - sin * dx)
    iy = 1 / _away_from_zero(dy)
    mx, mz, my = (cos * ox + sin * oz) * ix, (cos * oz - sin * ox) * iz, (oy + height / 2) * iy
    rx, rz, ry = hx * ix.abs(), hz * iz.abs(), height / 2 * iy.abs()
    near = torch.maximum(-mx - rx, torch.maximum(-my - ry, -mz - rz))
    far = torch.minimum(rx - mx, torch.minimum(ry - my, rz - mz))
    return torch.where((near < far) & (near > EPSILON), near, FAR)


def box_normal(x: Tensor, y: Tensor, z: Tensor, solid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cx, cz, hx, height, hz, cos, sin = _box_frame(solid)
    x, z = x - cx, z - cz
    lx, lz, ly = (cos * x + sin * z) / hx, (cos * z - sin * x) / hz, (y + height / 2) / (height / 2)
    ax, ay, az = lx.abs(), ly.abs(), lz.abs()
    on_x, on_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    sx = torch.where(on_x, torch.sign(lx), 0.0)
    sy = torch.where(on_y, torch.sign(ly), 0.0)
    sz = torch.where(on_x | on_y, 0.0, torch.sign(lz))
    return cos * sx - sin * sz, sy, sin * sx + cos * sz


def _away_from_zero(d: Tensor) -> Tensor:
    return torch.where(d.abs() < 1e-7, 1e-7, d)

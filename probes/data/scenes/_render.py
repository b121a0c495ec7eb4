"""Ray casting of the scenes: image, albedo, shading, normals and z-depth, exact and consistent with each other.

Every pixel is the mean over a 2×2 grid of samples. Albedo, normal and depth are the means of what the samples
hit (normals renormalised); shading is the mean reflected light over the mean reflectance, and the image is then
*defined* as albedo × shading, so that the product holds exactly, at edges too.
"""
from __future__ import annotations

import torch
from torch import Tensor

from . import _intersect as hit
from ._sample import BOXES, QUADRICS
from ._surface import object_albedo, room_albedo

SAMPLES = 2  # per pixel and axis
_LAMP_SIZE = 0.32
_RAYS_AT_ONCE = 1 << 15  # keeps a chunk's arrays in a core's cache


def _camera_rays(s: dict[str, Tensor], size: int) -> hit.Ray:
    """Rays through every sample; direction has unit z in the camera frame, so distance along it is z-depth."""
    n = size * SAMPLES
    device = s["camera"].device
    grid = ((torch.arange(n, device=device) + 0.5) / n * 2 - 1).float()
    v, u = torch.meshgrid(grid, grid, indexing="ij")
    u, v = u.flatten()[None], v.flatten()[None]
    t = s["tan_half_fov"][:, None]
    r = s["rotation"]
    d = [r[:, 0, i, None] * (u * t) + r[:, 1, i, None] * (v * t) + r[:, 2, i, None] for i in range(3)]
    o = [s["camera"][:, i, None].expand_as(d[0]) for i in range(3)]
    return (*o, *(hit._away_from_zero(x) for x in d))


def _distances(s: dict[str, Tensor], ray: hit.Ray):
    for i in range(QUADRICS):
        yield torch.where(s["present"][:, i, None] > 0, hit.quadric(ray, s["quadric"][:, i]), hit.FAR)
    for i in range(BOXES):
        yield torch.where(s["present"][:, QUADRICS + i, None] > 0, hit.box(ray, s["box"][:, i]), hit.FAR)


def _first_hit(s: dict[str, Tensor], ray: hit.Ray):
    """Depth, world normal and reflectance of what each ray meets first."""
    ox, oy, oz, dx, dy, dz = ray
    tx, ty, tz, depth = hit.room(ray, *(s["size"][:, i, None] for i in range(3)))
    on_x, on_y = tx <= depth, ty <= depth
    distances = list(_distances(s, ray))
    winner = torch.full_like(depth, -1, dtype=torch.int8)
    for i, t in enumerate(distances):
        winner = torch.where(t < depth, i, winner)
        depth = torch.minimum(t, depth)
    x, y, z = ox + depth * dx, oy + depth * dy, oz + depth * dz
    on_z = ~(on_x | on_y)
    normal = (torch.where(on_x, -torch.sign(dx), 0.0), torch.where(on_y & ~on_x, -torch.sign(dy), 0.0),
              torch.where(on_z, -torch.sign(dz), 0.0))
    albedo = room_albedo(s, x, y, z, on_y & (dy > 0), on_y & (dy < 0), on_x, on_z & (dz > 0))
    for i in range(len(distances)):
        own = winner == i
        solid_normal = (hit.quadric_normal(x, y, z, s["quadric"][:, i]) if i < QUADRICS
                        else hit.box_normal(x, y, z, s["box"][:, i - QUADRICS]))
        normal = tuple(torch.where(own, a, b) for a, b in zip(solid_normal, normal, strict=True))
        albedo = tuple(torch.where(own, a, b) for a, b in zip(object_albedo(s, i, y), albedo, strict=True))
    return depth, (x, y, z), normal, albedo


def _occlusion(s: dict[str, Tensor], point, normal) -> Tensor:
    """How much ambient light reaches a point: darker in corners, and beneath and between objects."""
    (x, y, z), (nx, ny, nz) = point, normal
    half, height, depth = (s["size"][:, i, None] for i in range(3))
    open_ = torch.ones_like(x)
    for gap, facing in ((half - x, -nx), (x + half, nx), (-y, -ny), (y + height, ny), (depth - z, -nz)):
        open_ = open_ * (1 - 0.42 * torch.exp(-gap / 0.4) * (1 - facing.clamp_min(0)))
    solids = torch.cat([s["quadric"][..., :2], s["box"][..., :2]], 1)
    for i in range(QUADRICS + BOXES):
        radius = s["radius"][:, i, None]
        px, pz = solids[:, i, 0, None] - x, solids[:, i, 1, None] - z
        py = -0.5 * s["object_height"][:, i, None] - y
        d2 = px * px + py * py + pz * pz + 1e-4
        facing = ((px * nx + py * ny + pz * nz) * torch.rsqrt(d2)).clamp_min(0)
        open_ = open_ * (1 - 0.75 * facing * (radius * radius / d2).clamp_max(1))
    return open_


def _shading(s: dict[str, Tensor], point, normal, size: int) -> Tensor:
    """Ambient light and two area lamps with shadows; every sample of a pixel sees another point of the lamp."""
    (x, y, z), (nx, ny, nz) = point, normal
    light = s["ambient"][:, None] * (1 + 0.12 * ny) * _occlusion(s, point, normal)
    n = size * SAMPLES
    parity = (torch.arange(n, device=x.device) % 2 - 0.5) * _LAMP_SIZE
    jitter_z, jitter_x = torch.meshgrid(parity, parity, indexing="ij")
    jitter_x, jitter_z = jitter_x.flatten()[None], jitter_z.flatten()[None]
    origin = (x + nx * 4e-3, y + ny * 4e-3, z + nz * 4e-3)
    for lamp in range(s["lamp"].shape[1]):
        lx, ly, lz = (s["lamp"][:, lamp, i, None] for i in range(3))
        to = (lx + jitter_x - origin[0], ly - origin[1], lz + jitter_z - origin[2])
        d2 = to[0] * to[0] + to[1] * to[1] + to[2] * to[2]
        cosine = ((to[0] * nx + to[1] * ny + to[2] * nz) * torch.rsqrt(d2)).clamp_min(0)
        ray = (*origin, *(hit._away_from_zero(d) for d in to))
        free = torch.ones_like(x, dtype=torch.bool)
        for t in _distances(s, ray):
            free &= t >= 1                                      # the lamp is at distance 1 along the ray
        light = light + torch.where(free, s["power"][:, lamp, None] * cosine / (d2 + 1.5), 0.0)
    return light.clamp_max(1)


def _pixels(x: Tensor, size: int) -> Tensor:
    """Mean over the samples of a pixel: [scene, samples] -> [scene, size, size]."""
    return x.reshape(-1, size, SAMPLES, size, SAMPLES).mean((2, 4))


def render_arrays(s: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Renders a chunk of scenes at once; see `render` for what comes out."""
    ray = _camera_rays(s, size)
    depth, point, normal, albedo = _first_hit(s, ray)
    shading = _shading(s, point, normal, size)
    mean_albedo = torch.stack([_pixels(a, size) for a in albedo], 1)
    light = torch.stack([_pixels(a * shading, size) for a in albedo], 1)
    shade = light.sum(1, keepdim=True) / mean_albedo.sum(1, keepdim=True)
    r = s["rotation"]
    camera_normal = torch.stack(
        [_pixels(sum(r[:, i, j, None] * normal[j] for j in range(3)), size) for i in range(3)], 1)
    return dict(image=mean_albedo * shade, albedo=mean_albedo, shading=shade,
                normal=torch.nn.functional.normalize(camera_normal, dim=1), depth=_pixels(depth, size)[:, None])


def chunk_size(size: int, fused: bool = False) -> int:
    """Scenes rendered together: few, so that their arrays stay in cache, unless a fused kernel keeps none."""
    return max(1, (4 if fused else 1) * _RAYS_AT_ONCE // (size * SAMPLES) ** 2)

"""`probes data check`: what a dataset holds, and what is probably wrong with it, before anyone trains on it or is scored by it.

A few images are read at random, with all maps. Their ranges and holes are counted, the frame of their normals is checked
(`probes.frames.self_check`), and their depth is asked whether it is z-depth in metres: distance along the ray bends what is
flat (`_rays.flatness`), millimetres are in the thousands.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._base import Data
from ._rays import flatness
from ._resize import resize_map, valid
from ._sample import Camera, Sample

_THUMBNAIL = 200        # pixels of the shorter side, in the panel
_SMALL = (96, 128)      # at which frames are checked
_VALUES = 100_000       # of a map, taken for quantiles
_BEND = 0.004           # of 1/z across the image: noise of 1 % makes 0.001, distance for depth 0.016
_QUANTILES = (0.01, 0.5, 0.99)


@dataclass
class MapFacts:
    """What was seen of one channel of an intrinsic's maps: `values` are [min, 1 %, median, 99 %, max]; `valid` the share of
    pixels that have one."""

    values: list[float]
    valid: float


@dataclass
class Checked:
    """What `check` found.

    Attributes:
        read: indices of the images that were read
        unreadable: one line for each that could not be
        sizes: (H, W) -> how many of those read
        channels: "depth", "normal x", … -> facts
        hints: what is probably wrong, a sentence each
        facts: what was checked and is well
        thumbnails: intrinsic, or "image" -> [3, h, w] in [-1, 1] of each image read
        names: of the images read
        empty: names of the images that have a map without any value
    """

    data: Data
    read: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    channels: dict[str, MapFacts] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    thumbnails: dict[str, list[Tensor]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    empty: dict[str, str] = field(default_factory=dict)


def check(data: Data, samples: int = 8, full: bool = False, seed: int = 0,
          progress: Callable[[int, int, str], None] | None = None) -> Checked:
    """Looks at `samples` images chosen at random; one at a time is in memory.

    Args:
        data: any
        samples: how many; all that there are if fewer
        full: read every image and map once, to find those that cannot be
        seed: of the choice
        progress: called with (done, all, name)
    """
    there = data.count if data.count is not None else 10_000
    chosen = sorted(np.random.default_rng(seed).choice(there, min(samples, there), replace=False).tolist())
    order = range(there) if full and data.count is not None else chosen
    wanted, found = set(chosen), Checked(data)
    gathered = _Gathered()
    for done, index in enumerate(order, 1):
        try:
            sample = data.sample(index, data.exact)
        except (ValueError, OSError) as error:
            found.unreadable.append(str(error))
        except MemoryError:
            found.unreadable.append(f"{data.sample_name(index)}: it does not fit into the memory")
        else:
            if index in wanted:
                _look(found, gathered, index, sample)
        if progress:
            progress(done, len(order), data.sample_name(index))
    found.channels = gathered.facts()
    if found.read:
        _judge(found, gathered)
    return found


class _Gathered:
    """What is kept of the maps that were seen: some values of each channel, small normals and depths, the bends of depths."""

    def __init__(self) -> None:
        self.values: dict[str, list[np.ndarray]] = {}
        self.ends: dict[str, list[float]] = {}
        self.counts: dict[str, list[int]] = {}
        self.small: dict[str, list[Tensor]] = {"normal": [], "depth": []}
        self.bends: list[tuple[float, float]] = []
        self.cameras: list[Camera] = []      # of the small maps

    def add(self, name: str, map: Tensor) -> int:
        """Returns how many pixels have a value."""
        known = valid(map)[0]
        labels = [name] if len(map) == 1 else [f"{name} {axis}" for axis in ("xyz" if name == "normal" else "rgb")]
        for label, channel in zip(labels, map, strict=True):
            numbers = channel[known]
            count = self.counts.setdefault(label, [0, 0])
            count[0] += len(numbers)
            count[1] += channel.numel()
            if len(numbers):
                low, high = (float(end) for end in numbers.aminmax())
                ends = self.ends.setdefault(label, [low, high])
                ends[:] = min(ends[0], low), max(ends[1], high)
                self.values.setdefault(label, []).append(numbers[::max(1, len(numbers) // _VALUES)].numpy().copy())
        return int(known.sum())

    def facts(self) -> dict[str, MapFacts]:
        result = {}
        for label, (known, pixels) in self.counts.items():
            values = [float("nan")] * 5
            if label in self.values:
                inner = np.quantile(np.concatenate(self.values[label]), _QUANTILES).tolist()
                values = [self.ends[label][0], *inner, self.ends[label][1]]
            result[label] = MapFacts(values, known / pixels)
        return result


def _look(found: Checked, gathered: _Gathered, index: int, sample: Sample) -> None:
    from ..report import display

    found.read.append(index)
    found.names.append(sample.name)
    found.sizes[sample.size] += 1
    found.thumbnails.setdefault("image", []).append(_thumbnail(sample.image, "image"))
    for name, map in sample.maps.items():
        if not gathered.add(name, map):
            found.empty[sample.name] = name
        small = _thumbnail(map, name)
        picture = display(name, small[None], meaning=found.data.meaning(name))[0]
        found.thumbnails.setdefault(name, []).append(picture)
        if name in gathered.small:
            gathered.small[name].append(resize_map(map, _SMALL, name))
    if sample.camera is not None:
        c, x, y = sample.camera, _SMALL[1] / sample.size[1], _SMALL[0] / sample.size[0]
        gathered.cameras.append(Camera(c.fx * x, c.fy * y, c.cx * x, c.cy * y))
        if "depth" in sample.maps:
            gathered.bends.append(flatness(sample.maps["depth"], sample.camera))


def _thumbnail(values: Tensor, name: str) -> Tensor:
    height, width = values.shape[1:]
    scale = _THUMBNAIL / min(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if scale >= 1:
        return F.interpolate(values[None], size, mode="nearest")[0]
    if name == "image":
        return F.interpolate(values[None], size, mode="bilinear", antialias=True)[0].clamp(-1, 1)
    return resize_map(values, size, name)


def _judge(found: Checked, gathered: _Gathered) -> None:
    lines = found.hints
    for name, intrinsic in list(found.empty.items())[:3]:
        lines.append(f"{intrinsic}: {name} has no pixel with a value")
    if len(found.empty) > 3:
        lines.append(f"… {len(found.empty)} of the {len(found.read)} images read have such a map")
    for name in ("albedo", "shading"):
        ends = [fact.values for label, fact in found.channels.items() if label.split()[0] == name]
        low, high = min((v[0] for v in ends), default=0.0), max((v[4] for v in ends), default=0.0)
        if high > 1.01 or low < -0.01:
            advice = "divide by 255" if high > 100 else "is it linear radiance? clip, and encode it as sRGB"
            lines.append(f"{name}: it runs from {low:.3g} to {high:.3g}, expected [0, 1]; {advice}")
    _judge_depth(found, gathered)
    _judge_normals(found, gathered)


def _judge_depth(found: Checked, gathered: _Gathered) -> None:
    if "depth" not in found.channels:
        return
    low, _, median, _, high = found.channels["depth"].values
    meaning = found.data.meaning("depth")
    if high - low < 1e-6 * abs(high):
        found.hints.append(f"depth: it is {high:.4g} everywhere")
    if meaning != "metric":
        found.facts.append(f"depth is {meaning}, known up to a scale and a shift: nothing to check in metres")
        return
    if median > 300:
        found.hints.append(f"depth: its median is {median:.4g}, expected metres; millimetres? give depth_scale=1000")
    elif high <= 1.0001:
        found.hints.append(f"depth: it runs from {low:.3g} to {high:.3g}, expected metres; relative depth or disparity? "
                           "depth_meaning= says so")
    bends = np.array(gathered.bends, dtype=float).reshape(-1, 2)
    bends = bends[np.isfinite(bends).all(1)]
    if len(bends):
        z, ray = np.median(bends, axis=0)
        if abs(z) > _BEND and abs(ray) < abs(z) / 2:
            found.hints.append(f"depth: it looks like distance along the ray: flat things bend by {abs(z):.1%} as z-depth, by "
                               f"{abs(ray):.1%} along the ray; convert it (diode: distance=ray)")
        elif abs(z) <= _BEND < abs(ray):
            found.facts.append(f"depth is z-depth: flat things bend by {abs(z):.1%}, by {abs(ray):.1%} if it were distance "
                               "along the ray")


def _judge_normals(found: Checked, gathered: _Gathered) -> None:
    from ..frames import Normals, self_check

    facts = found.channels.get("normal z")
    if facts is None:
        return
    if facts.valid < 0.5:
        found.hints.append(f"normal: only {facts.valid:.0%} of the pixels have a vector of unit length; is (n + 1) / 2 "
                           "stored, or is most of it masked?")
    normals = [map for map in gathered.small["normal"] if valid(map).any()]
    if not normals:
        return
    depths = gathered.small["depth"]
    depth = torch.stack(depths) if len(depths) == len(normals) else None
    # The field of view of each is near enough: the check asks for signs.
    camera = gathered.cameras[0] if gathered.cameras else None
    report = self_check(Normals(torch.stack(normals), "omnidata"), camera=camera, depth=depth)
    if report.ok:
        found.facts.append(f"normals are in the frame they should be in: {report.facing:.0%} of the pixels face the camera, "
                           "floors look up")
    else:
        found.hints.append(report.text)


def panel(found: Checked, path: str | None = None) -> bytes:
    """A sheet of the images read, each with its maps: PNG bytes, and a file where a path is given."""
    from ..report import sheet

    columns = {name: _padded(pictures) for name, pictures in found.thumbnails.items()}
    captions = [_shortened(name) for name in found.names]
    note = "dark grey: no value"
    if "normal" in columns:
        note += "; normals: floors green, walls that face the camera blue, what faces right red"
    if "depth" in columns:
        note += "; depth: near bright, far dark, each image in its own range"
    return sheet(columns, path, captions, scale=1.0, note=note)


def _padded(pictures: Sequence[Tensor]) -> Tensor:
    """[N, 3, h, w], centred on white where their shapes differ."""
    height, width = (max(picture.shape[i] for picture in pictures) for i in (1, 2))
    result = torch.ones(len(pictures), 3, height, width)
    for place, picture in zip(result, pictures, strict=True):
        top, left = (height - picture.shape[1]) // 2, (width - picture.shape[2]) // 2
        place[:, top:top + picture.shape[1], left:left + picture.shape[2]] = picture
    return result


def _shortened(name: str) -> str:
    """A path's last part, the folders above it fainter below; long ones lose their middle."""
    folder, _, last = name.rpartition("/")
    parts = [part if len(part) <= 26 else f"{part[:11]}…{part[-14:]}" for part in (last, folder) if part]
    return "\n".join(parts)

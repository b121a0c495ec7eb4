"""Pictures whose codes are a map or a mask: what the codes stand for, and what `probes.images.write_map` says of its own.

`write_map` says in the text of its 16-bit PNG, in the .json beside it and in the header of its .exr which intrinsic a file is
of, how codes become values, and in what unit. `Facts` is that; whoever reads the file for something else is told so.
"""
from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..frames import FRAMES
from ..images import ImageError
from ..images._decode import decode, upright
from ..images._file import open_image, reading
from .colour import linear_to_srgb, srgb_to_linear

TOP = 65535
UNITS = {"m": "metric", "relative": "relative", "disparity": "disparity"}      # of depth in write_map -> what it means
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Facts:
    """What a file says of itself.

    Args:
        intrinsic: whose map it is; "" where that is not said
        unit: "m", "relative", "disparity" or another; "" where that is not said
        scale, offset, no_value, channels: value = offset + scale · code; the code of holes, or None; of codes only
    """

    intrinsic: str
    unit: str
    scale: float = 1.0
    offset: float = 0.0
    no_value: int | None = None
    channels: int = 0

    @property
    def meaning(self) -> str | None:
        """Of a depth: "metric", "relative" or "disparity"; None where it does not say."""
        return UNITS.get(self.unit) if self.intrinsic in ("", "depth") else None

    def check(self, intrinsic: str, meaning: str, scaled: bool, name: str) -> None:
        """Raises ImageError where a file is of another intrinsic than it is read as, or its depth means something else; a unit
        that is none of UNITS needs to be `scaled` to metres."""
        if self.intrinsic not in ("", intrinsic):
            raise ImageError(f"{name}: it says that it is a map of {self.intrinsic}, and it is read as {intrinsic}; rename it, "
                             "or write it again")
        if intrinsic != "depth" or not self.unit:
            return
        if self.meaning not in (None, meaning):
            raise ImageError(f"{name}: it says that its depth is {self.meaning} (unit {self.unit!r}), and it is read as "
                             f"{meaning}; for data give depth_meaning={self.meaning}, or write the map again in its own unit")
        if self.meaning is None and not (scaled and meaning == "metric"):
            raise ImageError(f"{name}: it says that its unit is {self.unit!r}; expected {', '.join(UNITS)}; give depth_scale, "
                             "what one metre is in it")


def read_facts(text: str | bytes, name: str, codes: bool) -> Facts:
    """Of the JSON that write_map left; `codes` where it must say what they stand for. Raises ImageError."""
    try:
        found = json.loads(text)
        told = Facts(str(found.get("intrinsic", "")), str(found.get("unit", "")))
        if not codes:
            return told
        return Facts(told.intrinsic, told.unit, float(found["scale"]), float(found["offset"]), found.get("no_value"),
                     int(found["shape"][0]))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ImageError(f"{name}: what says what its codes mean is damaged ({type(error).__name__}: {error}); write the map "
                         "again") from error


def picture_facts(path: Path, name: str) -> Facts | None:
    """What write_map says of its 16-bit PNG, in the file or beside it; None of any other picture."""
    image = open_image(path, name)
    with image, reading(name):
        text = getattr(image, "text", {}).get("probes-map")
    beside = path.with_suffix(".json")
    if text is None and path.stem.endswith("-16bit") and beside.is_file():
        text = beside.read_text(errors="replace")
    return None if text is None else read_facts(text, name, codes=True)


def picture_size(source: Path | Image.Image, name: str) -> tuple[int, int] | None:
    """(H, W) as it should be looked at, of the header alone; None where that leaves doubt, as turned TIFFs do."""
    image = open_image(source, name) if isinstance(source, Path) else source
    with reading(name):
        turned = image.getexif().get(_ORIENTATION, 1) > 4
        width, height = image.size
        tiff = image.format == "TIFF"
    if isinstance(source, Path):
        image.close()
    if turned:
        return None if tiff else (width, height)
    return height, width


def read_picture(source: Path | Image.Image, name: str, intrinsic: str, frame: str | None, unit: float | None,
                 meaning: str = "metric") -> np.ndarray:
    """The values [H, W, C] that a picture's codes stand for, NaN where it is wholly transparent: float32 where the file says
    what a depth is, depth else in units of `unit`; see `_map_files.read_map`."""
    facts = picture_facts(source, name) if isinstance(source, Path) else None
    if facts is not None:
        facts.check(intrinsic, meaning, unit is not None, name)
    codes, peak, hole = _codes(source, name)
    if facts is not None:
        if peak != TOP:
            raise ImageError(f"{name}: it says what 16-bit codes mean, and they are read as 8 bits; write the map again, "
                             "without an alpha channel")
        codes = _one(codes, hole, intrinsic, name) if facts.channels == 1 else codes[..., :facts.channels]
        values = codes.astype(np.float64) * facts.scale + facts.offset
        values[hole | (codes == 0).all(-1) if facts.no_value == 0 else hole] = np.nan
        if facts.meaning is None and intrinsic == "depth" and unit is not None:
            values *= unit                              # its text names a unit of its own, or none
        return values.astype(np.float32)
    if intrinsic == "depth":
        codes = _one(codes, hole, intrinsic, name)
        if peak == 255:
            raise ImageError(f"{name}: 8-bit grey cannot hold depth, and of 16 bits beside an alpha channel 8 are read; "
                             "expected 16-bit grey PNG, .npy or .exr")
        if unit is None and meaning == "metric":
            raise ImageError(f"{name}: nothing says what its codes are in metres; give depth_scale, the code of one metre: 256 "
                             "for KITTI, 5000 for TUM, 1000 for millimetres")
        return np.where(hole[..., None], np.nan, codes)             # float64: float32 would say metres
    values = codes.astype(np.float32) / np.float32(peak)
    values[hole] = np.nan
    if intrinsic == "albedo":
        return values
    if intrinsic == "shading":
        return values[..., :1] if _grey(codes, hole) else _mean_light(values)
    if frame is None:
        raise ImageError(f"{name}: nothing says how its colours stand for {intrinsic}; give frame= ({', '.join(FRAMES)}) where "
                         "(n + 1) / 2 was stored, or the map as .npy or .exr")
    # Rounding a component to 8 bits moves a vector's length by up to 0.7 %: well inside what counts as unit.
    return values * 2 - 1


def read_mask_picture(path: Path) -> np.ndarray:
    """[H, W] bool: True where a code, or that of any colour channel, is not zero. The codes themselves are read, no colours
    that they stand for: 1 is a value like 255. Raises ImageError."""
    name = str(path)
    image = open_image(path, name)
    with image, reading(name):
        turn = image.getexif().get(_ORIENTATION, 1)
        image.load()
        codes = np.asarray(image)
        alpha = image.mode in ("LA", "La", "RGBA", "RGBa", "PA")
        if image.format == "TIFF":                      # turned by Pillow, which then says 1
            turn = image.getexif().get(_ORIENTATION, 1)
    known = codes > 0 if codes.ndim == 2 else (codes[..., :-1] if alpha else codes).max(-1) > 0
    return np.ascontiguousarray(upright(known, turn))


def _codes(source: Path | Image.Image, name: str) -> tuple[np.ndarray, float, np.ndarray]:
    """The integers [H, W, 3] of a picture as they are stored, the greatest that they could be, and the holes [H, W], where
    its alpha is zero. What `read_image` makes of a photograph would be another map: a colour profile bends the values, and
    pixels over white are neither the map nor a hole."""
    image = open_image(source, name) if isinstance(source, Path) else source
    reopen = (lambda: open_image(source, name)) if isinstance(source, Path) else None
    with image if isinstance(source, Path) else nullcontext():
        if image.mode == "F":
            raise ImageError(f"{name}: a picture of floating-point numbers, which is not read as a map; save it as .npy or "
                             ".exr")
        found = decode(image, name, reopen, profile=False)
    codes = found.colour if found.colour.ndim == 3 else np.broadcast_to(found.colour[..., None], (*found.colour.shape, 3))
    return codes, found.peak, np.zeros(codes.shape[:2], bool) if found.alpha is None else found.alpha == 0


def _grey(codes: np.ndarray, hole: np.ndarray) -> bool:
    return bool(((codes == codes[..., :1]).all(-1) | hole).all())


def _one(codes: np.ndarray, hole: np.ndarray, intrinsic: str, name: str) -> np.ndarray:
    """[H, W, 3] -> [H, W, 1]. Raises ImageError where the channels differ: no one of them is the map."""
    if not _grey(codes, hole):
        raise ImageError(f"{name}: its red, green and blue differ; expected {intrinsic} as grey, one number a pixel; if the "
                         "colours are for the eye, or pack one number, save the numbers themselves as .npy")
    return codes[..., :1]


def _mean_light(values: np.ndarray) -> np.ndarray:
    """Of a coloured shading [H, W, 3], sRGB-encoded: the mean of its channels' light, as of Hypersim, encoded again."""
    return linear_to_srgb(srgb_to_linear(torch.from_numpy(values)).mean(-1, keepdim=True)).numpy()

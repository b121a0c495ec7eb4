"""Pictures whose codes are a map or a mask: what the codes stand for, and what `probes.images.write_map` says of its own.

`write_map` says in the text of its 16-bit PNG, in the .json beside it and in the header of its .exr which intrinsic a file is
of, how codes become values, and in what unit. `Facts` is that; whoever reads the file for something else is told so.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..frames import FRAMES
from ..images import ImageError, read_image
from ..images._decode import upright
from ..images._file import open_image, reading

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
    """The values [H, W, C] that a picture's codes stand for: float32 where the file says it, depth else in units of `unit`; see
    `_map_files.read_map`."""
    facts = picture_facts(source, name) if isinstance(source, Path) else None
    if facts is not None:
        facts.check(intrinsic, meaning, unit is not None, name)
    codes = _codes(source, name)
    if facts is not None:
        values = codes.astype(np.float64)[..., :facts.channels] * facts.scale + facts.offset
        if facts.no_value == 0:
            values[(codes == 0).all(-1)] = np.nan
        if facts.meaning is None and intrinsic == "depth" and unit is not None:
            values *= unit                              # its text names a unit of its own, or none
        return values.astype(np.float32)
    if intrinsic in ("albedo", "shading"):
        return codes if intrinsic == "albedo" else codes[..., :1]
    if intrinsic == "depth":
        if codes.dtype == np.uint8:
            raise ImageError(f"{name}: 8-bit grey cannot hold depth; expected 16-bit PNG, .npy or .exr")
        if unit is None and meaning == "metric":
            raise ImageError(f"{name}: nothing says what its codes are in metres; give depth_scale, the code of one metre: 256 "
                             "for KITTI, 5000 for TUM, 1000 for millimetres")
        return codes[..., :1]
    if frame is None:
        raise ImageError(f"{name}: nothing says how its colours stand for {intrinsic}; give frame= ({', '.join(FRAMES)}) where "
                         "(n + 1) / 2 was stored, or the map as .npy or .exr")
    # Rounding a component to 8 bits moves a vector's length by up to 0.7 %: well inside what counts as unit.
    return codes.astype(np.float32) / (255 if codes.dtype == np.uint8 else TOP) * 2 - 1


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


def _codes(source: Path | Image.Image, name: str) -> np.ndarray:
    """The integers [H, W, 3] of a picture: uint8, or uint16 where it has more than 8 bits."""
    image = open_image(source, name) if isinstance(source, Path) else source
    with reading(name):
        mode = image.mode
        tile = [args[0] if isinstance(args, tuple) and args else args for *_, args in getattr(image, "tile", [])]
    if isinstance(source, Path):
        image.close()
    if mode == "F":
        raise ImageError(f"{name}: a picture of floating-point numbers, which is not read as a map; save it as .npy or .exr")
    wide = mode.startswith("I") or any(isinstance(raw, str) and ";16" in raw for raw in tile)
    peak = TOP if wide else 255
    pixels = read_image(source, name).pixels.to(torch.float64).numpy().transpose(1, 2, 0)
    return ((pixels + 1) * (peak / 2)).round().astype(np.uint16 if wide else np.uint8)

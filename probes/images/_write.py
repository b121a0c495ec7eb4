"""`write_map`: an intrinsic of a photograph as files, for programs (.npy, .exr, 16-bit PNG) and for the eye (PNG).

Never score an 8-bit picture: half a level of 255 is already 0.2° of a normal. The other formats hold the float32 values
themselves, or, as 16-bit PNG, 1/65535 of their range.
"""
from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators._names import unknown

from .._files import write_text_atomically, writing
from .._intrinsics import get_intrinsic
from ..report import display
from ._codes import Coding, coding, strips
from ._png import write_png

FORMATS = {
    "npy": "STEM.npy: float32 [C, H, W]",
    "exr": "STEM.exr: OpenEXR, 32-bit float, ZIP; channels R, G, B, or Z for depth and Y for other one-channel maps",
    "png16": "STEM-16bit.png and STEM-16bit.json: 16-bit PNG and what its codes mean (also in the PNG's text)",
    "png": "STEM.png: an 8-bit picture to look at",
}
_RANGE_PIXELS = 1_000_000  # of larger maps, a grid of so many pixels decides the picture's range of colours
_UNITS = {"normal": "", "depth": "m", "albedo": "reflectance, sRGB-encoded", "shading": "sRGB-encoded"}


def write_map(stem: str | Path, values: Any, intrinsic: str, formats: Sequence[str] = ("npy", "png"),
              unit: str | None = None) -> list[Path]:
    """Writes one map, each file whole or not at all.

    Args:
        stem: path without an ending; "out/photo" gives out/photo.npy, out/photo.png, …; its folder is made
        values: float32 [C, H, W], tensor or array, in the physical range of its intrinsic; NaN marks pixels without a value
        intrinsic: name of a registered intrinsic
        formats: any of FORMATS; exr needs the OpenEXR package
        unit: recorded in the .exr and the .json; by default "m" for depth: give "relative" for depth and "disparity" for
            inverse depth known up to a scale and a shift

    Returns the paths, in the order of `formats`, the .json behind its PNG.

    Raises ValueError (before anything is written) for a shape, a format or a range that does not fit, and OutputError
    where a file cannot be written.
    """
    about = get_intrinsic(intrinsic)
    array = _array(values, about.name, about.channels)
    for name in formats:
        if name not in FORMATS:
            raise unknown("formats", name, FORMATS)
    if not set(formats) <= {"npy"} and array.shape[0] not in (1, 3):
        raise ValueError(f"formats: a map of {array.shape[0]} channels fits in npy only, got {', '.join(formats)}")
    facts = {"format": "probes-map", "version": 1, "intrinsic": about.name, "meaning": about.description,
             "unit": _UNITS.get(about.name, "") if unit is None else unit, "shape": list(array.shape)}
    codes = coding(array, about.name) if "png16" in formats else None
    openexr = _openexr() if "exr" in formats else None
    written: list[Path] = []
    for name in formats:
        if name == "npy":
            path = _path(stem, ".npy")
            with writing(path) as temporary, open(temporary, "wb") as file:
                np.save(file, array)
        elif name == "exr":
            path = _path(stem, ".exr")
            _write_exr(openexr, path, array, facts)
        elif name == "png16":
            path = _path(stem, "-16bit.png")
            _write_codes(path, array, codes, facts, written)
            continue
        else:
            path = _path(stem, ".png")
            with writing(path) as temporary, open(temporary, "wb") as file:
                write_png(file, _pictures(array, about.name, facts["unit"]), *array.shape[1:], 3, 8, {"Title": about.name})
        written.append(path)
    return written


def _path(stem: str | Path, ending: str) -> Path:
    stem = Path(stem)
    return stem.with_name(stem.name + ending)  # not with_suffix: "photo.v2" is a stem too


def _array(values: Any, intrinsic: str, channels: int) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    values = np.asarray(values)
    if values.ndim != 3 or 0 in values.shape or values.shape[0] != channels:
        advice = "; write one image at a time: values[0]" if values.ndim == 4 else ""
        raise ValueError(f"values: expected {intrinsic} of one image, [{channels}, H, W], got shape {list(values.shape)}"
                         f"{advice}")
    if values.dtype.kind != "f":
        raise ValueError(f"values: expected the physical map in float32, got {values.dtype}")
    return values.astype(np.float32, copy=False)


def _write_codes(path: Path, array: np.ndarray, codes: Coding, facts: dict, written: list[Path]) -> None:
    facts = {**facts, "value": "offset + scale * code", "scale": codes.scale, "offset": codes.offset,
             "no_value": 0 if codes.no_value else None}
    with writing(path) as temporary, open(temporary, "wb") as file:
        write_png(file, map(codes.encode, strips(array)), *array.shape[1:], len(array), 16,
                  {"Title": facts["intrinsic"], "probes-map": json.dumps(facts)})
    side = path.with_suffix(".json")
    written += [path, write_text_atomically(side, json.dumps(facts, indent=2) + "\n")]


def _pictures(array: np.ndarray, intrinsic: str, unit: str) -> Iterator[np.ndarray]:
    """The readable picture in strips, uint8 [rows, W, 3]; one range of colours for all of them."""
    every = max(1, ceil((array.shape[1] * array.shape[2] / _RANGE_PIXELS) ** 0.5))
    like = torch.from_numpy(np.ascontiguousarray(array[None, :, ::every, ::every]))
    for part in strips(array, 256):
        picture = display(intrinsic, np.ascontiguousarray(part)[None], like=like, meaning=unit)[0]
        yield picture.add_(1).mul_(127.5).add_(0.5).to(torch.uint8).permute(1, 2, 0).numpy()


def _openexr():
    try:
        import OpenEXR
    except ImportError:
        raise ValueError("formats: exr needs the OpenEXR package; `pip install OpenEXR`, or choose npy") from None
    return OpenEXR


def _write_exr(openexr, path: Path, array: np.ndarray, facts: dict) -> None:
    """The values as they are; an albedo's are sRGB-encoded, which the text in the header says."""
    names = "RGB" if len(array) == 3 else "Z" if facts["intrinsic"] == "depth" else "Y"
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, "probes-map": json.dumps(facts)}
    with writing(path) as temporary:
        try:
            openexr.File(header, {name: np.ascontiguousarray(plane) for name, plane in zip(names, array, strict=True)}).write(
                str(temporary))
        except RuntimeError as error:  # how OpenEXR tells a full disk
            raise OSError(errno.EIO, str(error)) from error

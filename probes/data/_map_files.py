"""Maps as they lie in files: .npy, OpenEXR, PNG -> a physical map float32 [C, H, W], NaN where there is no value.

What a dataset stores differs from what `probes._intrinsics` calls a physical map in frame (normals), in unit (depth) and in
how it marks holes. `physical` is the one place where that is undone:

    normal           any of FRAMES -> x right, y down, z forward; vectors whose length is not 1 (0, commonly) are holes
    depth            × unit -> metres; zero, negative and infinite depth are holes
    albedo, shading  8- and 16-bit codes -> [0, 1], sRGB-encoded already

Nothing here unpickles anything, and a header that claims more than its file holds is refused before memory is taken.
"""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generators._names import unknown

from .._intrinsics import get_intrinsic
from ..frames import FRAMES
from ..images import ImageError, read_image
from ..images._file import open_image, reading

ENDINGS = (".npy", ".exr", "-16bit.png")        # in the order in which they are looked for; .png is for the eye
_UNIT = 0.1             # how far from 1 a normal's length may be: resampling shortens vectors, a hole is 0
_TOP = 65535


def check_frame(frame: str) -> None:
    """Raises UnknownNameError for a frame that is none of `probes.frames.FRAMES`."""
    if frame not in FRAMES:
        raise unknown("frame", frame, FRAMES)


def physical(values: np.ndarray, intrinsic: str, name: str, frame: str = "omnidata", unit: float = 1.0,
             mask: np.ndarray | None = None, meaning: str = "metric") -> Tensor:
    """Values of a file -> physical map.

    Args:
        values: number array [H, W], [H, W, C] or [C, H, W]; uint8 and uint16 of an albedo or shading are codes of [0, 1]
        intrinsic: whose map it is
        name: what errors call it
        frame: of normals: omnidata, opengl or dsine
        unit: of depth: metres that the number 1 stands for
        mask: [H, W] (or [H, W, 1]), not zero where there is a value
        meaning: of depth: where it is not "metric", 0 is a value like any other, the nearest or the farthest

    Returns float32 [C, H, W]. Raises ImageError for another number of channels or dimensions, or a mask of another size.
    """
    channels = get_intrinsic(intrinsic).channels
    array = _channels_first(np.asarray(values), channels, intrinsic, name)
    if array.dtype.kind not in "fiub" or array.dtype.kind == "b":
        raise ImageError(f"{name}: it holds {array.dtype}; expected numbers")
    peak = {"u1": 255.0, "u2": float(_TOP)}.get(array.dtype.str[1:]) if intrinsic in ("albedo", "shading") else None
    map = torch.from_numpy(array.astype(np.float32))
    if peak:
        map /= peak
    bad = ~torch.isfinite(map).all(0, keepdim=True)
    if intrinsic == "normal":
        length = map.nan_to_num().norm(dim=0, keepdim=True)
        bad |= (length - 1).abs() > _UNIT
        check_frame(frame)
        map = map / length.clamp_min(1e-6) * map.new_tensor(FRAMES[frame])[:, None, None]
    elif intrinsic == "depth":
        bad |= (map <= 0) & (meaning == "metric")
        map = map * unit if unit != 1 else map
    if mask is not None:
        known = np.asarray(mask).squeeze()
        if known.shape != tuple(map.shape[1:]):
            raise ImageError(f"{name}: its mask is {_size(known.shape)} pixels, the map {_size(map.shape[1:])}; expected the "
                             "same")
        bad |= torch.from_numpy(~(np.nan_to_num(known.astype(np.float32)) > 0.5))
    return map.masked_fill(bad, torch.nan)


def same_size(maps: dict[str, Tensor], image: Tensor, name: str) -> None:
    """Raises ImageError that names both sizes where a map is not of the image's size."""
    for intrinsic, map in maps.items():
        if map.shape[1:] != image.shape[1:]:
            raise ImageError(f"{name}: its {intrinsic} is {_size(map.shape[1:])} pixels, the image {_size(image.shape[1:])}; "
                             "expected the same size; a map of another size belongs to another image, or was resized alone")


def read_npy(path: Path, name: str | None = None) -> np.ndarray:
    """The array of a .npy file, never unpickled. Raises ImageError for anything else, truncated files among it."""
    name = name or str(path)
    try:
        # Mapped first: numpy would take the memory that the header claims before it finds the file shorter.
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check the path") from None
    except (ValueError, EOFError, OSError, TypeError, OverflowError, SyntaxError) as error:
        if "object" in str(error).lower():
            raise ImageError(f"{name}: it holds pickled Python objects, which may run code and are never read; save a plain "
                             "number array with numpy.save") from error
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: the file is damaged or incomplete, or no .npy ({reason}); expected a whole number array; "
                         "copy or download it again") from error


def find_map(stem: str | Path) -> Path | None:
    """The file of a map under one of the names that `write_map` gives it, or None where there is none."""
    stem = Path(stem)
    return next((path for ending in ENDINGS if (path := stem.with_name(stem.name + ending)).is_file()), None)


def read_map(path: Path, intrinsic: str, frame: str | None = None, unit: float | None = None,
             mask: np.ndarray | None = None, meaning: str = "metric") -> Tensor:
    """The physical map [C, H, W] in a file.

    Args:
        path: .npy; .exr (needs the OpenEXR package); -16bit.png of `probes.images.write_map`, whose codes its text explains;
            any other PNG, TIFF or the like: for albedo and shading its values are the map, for normals (n + 1) / 2 in `frame`,
            for depth, grey, codes × `unit` metres
        intrinsic: whose
        frame: of normals; omnidata where nothing is said. Pictures need it said: what `probes` writes to look at is none
        unit: metres that a depth of 1 stands for; 1 where nothing is said. Pictures need it said: 1/256 for KITTI,
            1/5000 for TUM, 1/1000 for millimetres
        mask, meaning: see `physical`

    Raises ImageError.
    """
    name, ending = str(path), path.suffix.lower()
    if ending == ".npy":
        values = read_npy(path)
    elif ending == ".exr":
        values = _read_exr(path, name)
    else:
        values = read_picture(path, name, intrinsic, frame, unit)
        if values.dtype == np.float32 and intrinsic == "depth":
            unit = None                                             # its text said metres
    return physical(values, intrinsic, name, frame or "omnidata", 1.0 if unit is None else unit, mask,
                    meaning)


def read_mask(path: Path) -> np.ndarray:
    """[H, W] bool: .npy, or a picture that is white where there is a value. Raises ImageError."""
    if path.suffix.lower() == ".npy":
        values = read_npy(path)
        if values.dtype.kind not in "fiub":
            raise ImageError(f"{path}: it holds {values.dtype}; expected a mask, 1 where there is a value")
        return np.nan_to_num(values.astype(np.float32)).squeeze() > 0.5
    return read_image(path).pixels.mean(0).numpy() > 0


def _channels_first(array: np.ndarray, channels: int, intrinsic: str, name: str) -> np.ndarray:
    if array.ndim == 2 and channels == 1:
        return array[None]
    if array.ndim == 3 and array.shape[0] == channels and array.shape[2] != channels:
        return array
    if array.ndim == 3 and array.shape[2] == channels:
        return array.transpose(2, 0, 1)
    if array.ndim == 3 and array.shape[0] == channels:          # [1, H, 1] and [3, H, 3]: too narrow to tell, written by us
        return array
    shapes = "[H, W] or [H, W, 1]" if channels == 1 else f"[H, W, {channels}] or [{channels}, H, W]"
    raise ImageError(f"{name}: an array of shape {list(array.shape)}; expected {intrinsic}, {shapes}")


def _read_exr(path: Path, name: str) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError:
        raise ImageError(f"{name}: OpenEXR is read by a package of its own; `pip install 'probes[exr]'`, or save the map as "
                         ".npy") from None
    if not path.is_file():
        raise ImageError(f"{name}: there is no such file; check the path")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            planes = {key: np.array(channel.pixels, np.float32) for key, channel in file.channels().items()}
    except Exception as error:      # of a damaged file the library raises RuntimeError, ValueError, TypeError, …
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: the file is damaged or incomplete ({reason}); copy it again") from error
    for names in (("R", "G", "B"), ("X", "Y", "Z"), ("Z",), ("Y",), ("V",)):
        if set(names) <= set(planes):
            return np.stack([planes[key] for key in names], -1)
    if len(planes) == 1:
        return next(iter(planes.values()))[..., None]
    raise ImageError(f"{name}: channels {', '.join(sorted(planes))}; expected R, G, B or X, Y, Z, or one channel")


def read_picture(source: Path | Image.Image, name: str, intrinsic: str, frame: str | None, unit: float | None) -> np.ndarray:
    """The values [H, W, C] that a picture's codes stand for, depth in units of `unit`; see `read_map`."""
    facts = _facts(source, name) if isinstance(source, Path) else None
    codes = _codes(source, name)
    if facts is not None:
        holes = facts["no_value"] == 0
        empty = (codes == 0).all(-1)
        values = codes.astype(np.float64)[..., :int(facts["channels"])] * facts["scale"] + facts["offset"]
        if holes:
            values[empty] = np.nan
        return values.astype(np.float32)
    if intrinsic in ("albedo", "shading"):
        return codes if intrinsic == "albedo" else codes[..., :1]
    if intrinsic == "depth":
        if codes.dtype == np.uint8:
            raise ImageError(f"{name}: 8-bit grey cannot hold depth; expected 16-bit PNG, .npy or .exr")
        if unit is None:
            raise ImageError(f"{name}: nothing says what its codes are in metres; give depth_scale, the code of one metre: 256 "
                             "for KITTI, 5000 for TUM, 1000 for millimetres")
        return codes[..., :1]
    if frame is None:
        raise ImageError(f"{name}: nothing says how its colours stand for {intrinsic}; give frame=omnidata, opengl or dsine "
                         "where (n + 1) / 2 was stored, or the map as .npy or .exr")
    # Rounding a component to 8 bits moves a vector's length by up to 0.7 %: well inside what counts as unit.
    return codes.astype(np.float32) / (255 if codes.dtype == np.uint8 else _TOP) * 2 - 1


def _facts(path: Path, name: str) -> dict | None:
    """What write_map says of its 16-bit PNG: in the text of the file, or beside it."""
    image = open_image(path, name)
    with image, reading(name):
        text = getattr(image, "text", {}).get("probes-map")
    beside = path.with_suffix(".json")
    if text is None and path.stem.endswith("-16bit") and beside.is_file():
        text = beside.read_text(errors="replace")
    if text is None:
        return None
    try:
        facts = json.loads(text)
        return dict(scale=float(facts["scale"]), offset=float(facts["offset"]), no_value=facts.get("no_value"),
                    channels=int(facts["shape"][0]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ImageError(f"{name}: what says what its codes mean is damaged ({type(error).__name__}: {error}); write the map "
                         "again") from error


def _codes(source: Path | Image.Image, name: str) -> np.ndarray:
    """The integers [H, W, 3] of a picture: uint8, or uint16 where it has more than 8 bits."""
    image = open_image(source, name) if isinstance(source, Path) else source
    with reading(name):
        mode = image.mode
        tile = [args[0] if isinstance(args, tuple) and args else args for *_, args in getattr(image, "tile", [])]
    if isinstance(source, Path):
        image.close()
    wide = mode.startswith("I") or any(isinstance(raw, str) and ";16" in raw for raw in tile)
    peak = _TOP if wide else 255
    pixels = read_image(source, name).pixels.double().numpy().transpose(1, 2, 0)
    return ((pixels + 1) * (peak / 2)).round().astype(np.uint16 if wide else np.uint8)


def _size(shape) -> str:
    return "×".join(str(n) for n in reversed(list(shape)))

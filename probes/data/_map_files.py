"""Maps as they lie in files: .npy, OpenEXR, PNG -> a physical map float32 [C, H, W], NaN where there is no value.

What a dataset stores differs from what `probes._intrinsics` calls a physical map in frame (normals), in unit (depth) and in
how it marks holes. `physical` is the one place where that is undone:

    normal           any of FRAMES -> x right, y down, z forward; vectors whose length is not 1 (0, commonly) are holes
    depth            × unit -> metres; zero, negative and infinite depth are holes
    albedo, shading  8- and 16-bit codes -> [0, 1], sRGB-encoded already

Nothing here unpickles anything, and a header that claims more than its file holds is refused before memory is taken.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generators._names import unknown

from .._intrinsics import get_intrinsic
from ..frames import FRAMES
from ..images import ImageError
from ._limits import check_numbers
from ._pictures import TOP, Facts, picture_facts, read_facts, read_mask_picture, read_picture

ENDINGS = (".npy", ".exr", "-16bit.png")        # in the order in which they are looked for; .png is for the eye
_UNIT = 0.1             # how far from 1 a normal's length may be: resampling shortens vectors, a hole is 0


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
        frame: of normals: one of `probes.frames.FRAMES`
        unit: of depth: metres that the number 1 stands for
        mask: [H, W] (or [H, W, 1]), not zero where there is a value
        meaning: of depth: where it is not "metric", 0 is a value like any other, the nearest or the farthest

    Returns float32 [C, H, W]. Raises ImageError for another number of channels or dimensions, or a mask of another size.
    """
    channels = get_intrinsic(intrinsic).channels
    array = _channels_first(np.asarray(values), channels, intrinsic, name)
    if array.dtype.kind not in "fiub" or array.dtype.kind == "b":
        raise ImageError(f"{name}: it holds {array.dtype}; expected numbers")
    peak = {"u1": 255.0, "u2": float(TOP)}.get(array.dtype.str[1:]) if intrinsic in ("albedo", "shading") else None
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


def same_size(maps: dict[str, Tensor], size: tuple[int, int] | None, name: str) -> None:
    """Raises ImageError that names both sizes where a map is not of the image's size (H, W); None is any."""
    for intrinsic, map in maps.items():
        if size is not None and tuple(map.shape[1:]) != tuple(size):
            raise ImageError(f"{name}: its {intrinsic} is {_size(map.shape[1:])} pixels, the image {_size(size)}; "
                             "expected the same size; a map of another size belongs to another image, or was resized alone")


def read_npy(path: Path, name: str | None = None) -> np.ndarray:
    """The array of a .npy file, never unpickled. Raises ImageError for anything else, truncated files among it."""
    name = name or str(path)
    try:
        # Mapped first: numpy would take the memory that the header claims before it finds the file shorter.
        mapped = np.lib.format.open_memmap(path, mode="r")
        check_numbers(mapped.shape, name)
        return np.array(mapped)
    except ImageError:
        raise
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


def facts_of(path: Path) -> Facts | None:
    """What a map's file says of itself; None where it says nothing. Raises ImageError."""
    ending = path.suffix.lower()
    if ending == ".npy":
        return None
    return _exr_facts(path, str(path)) if ending == ".exr" else picture_facts(path, str(path))


def read_map(path: Path, intrinsic: str, frame: str | None = None, unit: float | None = None,
             mask: np.ndarray | None = None, meaning: str = "metric") -> Tensor:
    """The physical map [C, H, W] in a file.

    Args:
        path: .npy; .exr (needs the OpenEXR package); -16bit.png of `probes.images.write_map`, whose codes its text explains;
            any other PNG, TIFF or the like: for albedo and shading its values are the map, for normals (n + 1) / 2 in `frame`,
            for depth, grey, codes × `unit` metres
        intrinsic: whose
        frame: of normals, one of `probes.frames.FRAMES`; omnidata where nothing is said. Pictures need it said: what `probes`
            writes to look at is none
        unit: metres that a depth of 1 stands for; 1 where nothing is said. Pictures need it said: 1/256 for KITTI,
            1/5000 for TUM, 1/1000 for millimetres. Files that say metres themselves are not scaled
        mask, meaning: see `physical`

    Raises ImageError, also for a file that says of itself that it is of another intrinsic, or that its depth means something
    else than `meaning`.
    """
    name, ending = str(path), path.suffix.lower()
    if ending == ".npy":
        values = read_npy(path)
    elif ending == ".exr":
        facts = _exr_facts(path, name)
        if facts is not None:
            facts.check(intrinsic, meaning, unit is not None, name)
            unit = None if facts.meaning is not None else unit      # metres already, or no metres at all
        values = _read_exr(path, name)
    else:
        values = read_picture(path, name, intrinsic, frame, unit, meaning)
        if values.dtype == np.float32 and intrinsic == "depth":
            unit = None                                             # its text said what they are
    return physical(values, intrinsic, name, frame or "omnidata", 1.0 if unit is None else unit, mask, meaning)


def read_mask(path: Path) -> np.ndarray:
    """[H, W] bool, True where maps have a value: of .npy above 1/2, of a picture every code but 0. Raises ImageError."""
    if path.suffix.lower() == ".npy":
        values = read_npy(path)
        if values.dtype.kind not in "fiub":
            raise ImageError(f"{path}: it holds {values.dtype}; expected a mask, 1 where there is a value")
        return np.nan_to_num(values.astype(np.float32)).squeeze() > 0.5
    return read_mask_picture(path)


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


def _exr_facts(path: Path, name: str) -> Facts | None:
    """What write_map put in the header. Raises ImageError, also where the header claims too many pixels."""
    header = _exr(path, name, header_only=True).header()
    low, high = (np.asarray(corner) for corner in header["dataWindow"])
    check_numbers((high - low + 1).tolist(), name)
    text = header.get("probes-map")
    return None if text is None else read_facts(text, name, codes=False)


def _read_exr(path: Path, name: str) -> np.ndarray:
    file = _exr(path, name, separate_channels=True)
    planes = {key: np.array(channel.pixels, np.float32) for key, channel in file.channels().items()}
    for names in (("R", "G", "B"), ("X", "Y", "Z"), ("Z",), ("Y",), ("V",)):
        if set(names) <= set(planes):
            return np.stack([planes[key] for key in names], -1)
    if len(planes) == 1:
        return next(iter(planes.values()))[..., None]
    raise ImageError(f"{name}: channels {', '.join(sorted(planes))}; expected R, G, B or X, Y, Z, or one channel")


def _exr(path: Path, name: str, **options: bool):
    try:
        import OpenEXR
    except ImportError:
        raise ImageError(f"{name}: OpenEXR is read by a package of its own; `pip install 'probes[exr]'`, or save the map as "
                         ".npy") from None
    if not path.is_file():
        raise ImageError(f"{name}: there is no such file; check the path")
    try:
        return OpenEXR.File(str(path), **options)
    except Exception as error:      # of a damaged file the library raises RuntimeError, ValueError, TypeError, …
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: the file is damaged or incomplete ({reason}); copy it again") from error


def _size(shape) -> str:
    return "×".join(str(n) for n in reversed(list(shape)))

"""From an open Pillow image to numbers: mode, precision, colour profile, transparency and orientation.

Sixteen bits a channel survive. Pillow keeps them for grey only; of colour it keeps the high bytes, and, asked to read the
file as if its bytes were swapped, the low ones. Read twice, a 16-bit PNG or TIFF is whole.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ._colour import SRGB
from ._file import reading
from ._photo import ImageError, check_size

_ORIENTATION = 0x0112
# EXIF orientation -> where the upright picture's rows and columns are in the stored one: (swap axes, flip rows, flip columns)
_UPRIGHT = {1: (0, 0, 0), 2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284  # TIFF tags


@dataclass
class Decoded:
    """colour: [H, W] or [H, W, 3], integers up to `peak` (float for peak 1.0); alpha: [H, W] up to `alpha_peak`, or None."""

    colour: np.ndarray
    peak: float
    alpha: np.ndarray | None = None
    alpha_peak: float = 255
    notes: list[str] = field(default_factory=list)

    def planes(self, background: tuple[float, float, float]) -> Tensor:
        """float32 [3, H, W] in [-1, 1], composited over a background in [0, 1]; the one full-size copy is the result."""
        height, width = self.colour.shape[:2]
        out = np.empty((3, height, width), np.float32)
        for i, level in enumerate(background):
            np.divide(self.colour if self.colour.ndim == 2 else self.colour[..., i], np.float32(self.peak / 2), out=out[i])
            out[i] -= 1
            if self.alpha is not None:
                for row in range(0, height, 256):
                    part = out[i, row:row + 256]
                    over = self.alpha[row:row + 256] / np.float32(self.alpha_peak)
                    part -= np.float32(level * 2 - 1)
                    part *= over
                    part += np.float32(level * 2 - 1)
        return torch.from_numpy(out)


def decode(image: Image.Image, name: str, reopen: Callable[[], Image.Image] | None = None, profile: bool = True) -> Decoded:
    """Decodes an open image.

    Args:
        image: its current frame is read
        name: for errors
        reopen: opens the same file once more; without it 16-bit colour is read as 8 bits, as Pillow keeps it
        profile: False: numbers as they are stored, as maps are read, whatever an embedded colour profile makes of them

    Raises ImageError for a damaged file, or numbers of a kind that has no agreed range.
    """
    check_size(image.height, image.width, name)
    with reading(name):
        stored = _stored_bits(image)  # loading forgets it
        _load(image)
        srgb = SRGB(image, profile)
        result = _sixteen(image, name, stored, srgb, reopen) or _plain(image, name, srgb)
        turn = image.getexif().get(_ORIENTATION, 1)  # after loading: Pillow turns TIFFs itself, and then says 1
    if srgb.note:
        result.notes.append(srgb.note)
    result.colour = upright(result.colour, turn)
    result.alpha = None if result.alpha is None else upright(result.alpha, turn)
    return result


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, …] as stored -> as it should be looked at, for an EXIF orientation; a view. Unknown ones count as 1."""
    swap, rows, columns = _UPRIGHT.get(orientation, _UPRIGHT[1])
    if swap:
        array = array.swapaxes(0, 1)
    return array[::-1 if rows else 1, ::-1 if columns else 1]


def _load(image: Image.Image) -> None:
    """Decodes without mapping the file into memory: Pillow's maps of turned, uncompressed TIFFs mix up height and width."""
    filename = getattr(image, "filename", "")
    try:
        image.filename = ""  # what is not known by name is not mapped
        image.load()
    finally:
        image.filename = filename


def _stored_bits(image: Image.Image) -> dict:
    """Facts that Pillow drops on loading: the raw modes of the tiles, and a TIFF's tags."""
    tags = getattr(image, "tag_v2", {})
    first = [args[0] if isinstance(args, tuple) and args else args for *_, args in getattr(image, "tile", [])]
    modes = [mode if isinstance(mode, str) else "" for mode in first]
    bits = tags.get(_BITS) or (0,)
    return dict(modes=modes, bits=bits[0], photometric=tags.get(_PHOTOMETRIC),
                planar=len(bits) > 1 and tags.get(_PLANAR) == 2)


def _sixteen(image: Image.Image, name: str, stored: dict, srgb: SRGB, reopen) -> Decoded | None:
    """Grey or colour of more than 8 bits; None for what Pillow's own 8 bits say completely."""
    if stored["planar"] and stored["bits"] > 8:
        # Pillow reads such files as if each channel had 8 bits, without a word: noise
        raise ImageError(f"{name}: a {stored['bits']}-bit TIFF with its channels in separate planes, which Pillow misreads; "
                         "expected interleaved channels; save it again with planar configuration 'contiguous'")
    clear = image.info.get("transparency")
    note = "16 bits a channel were read as 8, since its colour profile had to be converted"
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = np.asarray(image)
        peak = 2 ** (stored["bits"] or 16) - 1
        alpha = None if not isinstance(clear, int) else grey != clear
        if stored["photometric"] == 0:  # white is zero
            grey = peak - grey
        if srgb.needed:
            eight = Image.fromarray((grey / np.float32(peak) * 255 + 0.5).astype(np.uint8))
            return Decoded(np.asarray(srgb.convert(eight)), 255, alpha, 1, [note])
        return Decoded(grey, peak, alpha, 1)
    wide = any(";16" in mode for mode in stored["modes"]) or stored["bits"] > 8
    if not wide or image.mode in ("F", "I"):
        return None
    if srgb.needed:
        result = _plain(image, name, srgb)
        result.notes.append(note)
        return result
    low = None if reopen is None or image.mode not in ("RGB", "RGBA") else _low_bytes(reopen(), stored["modes"])
    if low is None:
        result = _plain(image, name, srgb)
        result.notes.append("16 bits a channel were read as 8, as Pillow keeps them for this kind of file")
        return result
    full = np.asarray(image).astype(np.uint16)
    full <<= 8
    full |= low
    colour, alpha = full[..., :3], full[..., 3] if image.mode == "RGBA" else None
    if isinstance(clear, tuple):
        return Decoded(colour, 65535, (colour != np.array(clear, np.uint16)).any(-1), 1)
    return Decoded(colour, 65535, alpha, 65535)


def _low_bytes(image: Image.Image, modes: list[str]) -> np.ndarray | None:
    """The low bytes of a 16-bit RGB(A) file: what Pillow keeps when told that its byte order is the other one."""
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    if not modes or any(mode[:-1] != f"{image.mode};16" for mode in modes):
        return None
    with image:
        tiles = []
        for tile, mode in zip(image.tile, modes, strict=True):
            swapped = mode[:-1] + other[mode[-1]]
            args = swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])
            tiles.append(type(tile)(*tile[:3], args) if hasattr(tile, "_fields") else (*tile[:3], args))
        image.tile = tiles
        return np.asarray(image)


def _plain(image: Image.Image, name: str, srgb: SRGB) -> Decoded:
    """What Pillow holds in 8 bits, and its floating-point grey."""
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (0 <= low and high <= 1):
            raise ImageError(f"{name}: floating-point pixels from {low:g} to {high:g}; expected [0, 1]; scale them, or "
                             "save it as 16-bit PNG")
        return Decoded(values, 1.0)
    if image.mode == "I" or image.mode.startswith("LAB"):
        raise ImageError(f"{name}: pixels of Pillow's mode {image.mode!r}, which has no agreed range here; expected 8 or 16 "
                         "bits of grey, RGB or CMYK; save it as 16-bit PNG")
    alpha = None
    if image.has_transparency_data:
        if image.mode not in ("LA", "RGBA"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "CMYK") or (image.mode == "CMYK" and not srgb.needed):
        image = image.convert("RGB")
    if srgb.needed:
        image = srgb.convert(image)
    return Decoded(np.asarray(image), 255, alpha)

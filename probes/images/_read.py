"""`read_image`: a path, a Pillow image, an array or a tensor, as float32 [3, H, W] in [-1, 1].

Orientation tags are applied, transparency is composited over a background (white unless told), colour profiles are
converted to sRGB, grey and CMYK become RGB, and 16 bits stay 16 bits.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from ._decode import Decoded, decode
from ._file import open_image, reading
from ._photo import ImageError, Photo, check_size

_SLACK = 1e-3  # what rounding may add to a range


def read_image(item: Any, name: str | None = None, background: str = "white") -> Photo:
    """Reads one photograph.

    Args:
        item: one of
            a path (str or PathLike): JPEG, PNG, TIFF, WebP, AVIF, GIF, BMP and the like; of several frames the first;
            a Pillow image: its current frame (16-bit colour has lost its low bytes already when it comes this way);
            an array [H, W] or [H, W, 1 | 3 | 4]: uint8, uint16, or float in [0, 1]; the fourth channel is alpha;
            a tensor [H, W], [1 | 3 | 4, H, W] or [1, 1 | 3 | 4, H, W]: float in [-1, 1], or uint8; on any device; the fourth
            channel is alpha, in the same range: of floats -1 is transparent
        name: what errors call it; by default the path, or "picture", "array", "tensor"
        background: any colour that Pillow knows ("black", "#808080"), shown where the image is transparent

    Returns a Photo. Raises ImageError, a ValueError whose text names the item, what came, what was expected and what to
    do, for anything else: no image, a damaged one, NaN, a range or a shape that does not fit, fewer than 8 pixels a side,
    more pixels than twice PIL.Image.MAX_IMAGE_PIXELS.
    """
    under = _colour(background)
    if isinstance(item, Photo):
        return item
    if isinstance(item, (str, os.PathLike)):
        if not os.fspath(item):
            raise ImageError(f"{name or 'item'}: got an empty path; expected that of an image file")
        return _read_file(Path(item).expanduser(), name or str(item), under)
    if isinstance(item, Image.Image):
        name = name or getattr(item, "filename", "") or "picture"
        decoded = decode(item, str(name), None)
        return Photo(decoded.planes(under), str(name), tuple(decoded.notes))
    if isinstance(item, np.ndarray):
        return _read_array(item, name or "array", under)
    if isinstance(item, Tensor):
        return _read_tensor(item, name or "tensor", under)
    raise ImageError(f"{name or 'item'}: expected a path, a Pillow image, an array or a tensor, got {type(item).__name__}; "
                     "a file object or bytes can be opened with PIL.Image.open first")


def _read_file(path: Path, name: str, background: tuple[float, float, float]) -> Photo:
    image = open_image(path, name)
    with image:
        notes = _frames(image, name)
        decoded = decode(image, name, lambda: open_image(path, name))
    del image  # its pixels are copied by now
    return Photo(decoded.planes(background), name, (*notes, *decoded.notes))


def _frames(image: Image.Image, name: str) -> list[str]:
    with reading(name):
        count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":  # a phone's photograph with its previews
        return []
    return [f"the first of {count} {'pages' if image.format == 'TIFF' else 'frames'} was read"]


def _colour(background: str) -> tuple[float, float, float]:
    try:
        return tuple(level / 255 for level in ImageColor.getrgb(background)[:3])
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"background: expected a colour such as 'white' or '#808080', got {background!r}") from None


def _read_array(array: np.ndarray, name: str, background: tuple[float, float, float]) -> Photo:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name}: got an array of shape {list(array.shape)}; expected channels last, [H, W, 3]; use "
                         "array.transpose(1, 2, 0)")
    if array.ndim == 4:
        raise ImageError(f"{name}: got an array of shape {list(array.shape)}; expected one image, [H, W] or "
                         "[H, W, 1 | 3 | 4]; pass list(array) for several")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: got an array of shape {list(array.shape)}; expected [H, W] or [H, W, 1 | 3 | 4]")
    check_size(array.shape[0], array.shape[1], name)
    if array.dtype in (np.uint8, np.uint16):
        peak = float(np.iinfo(array.dtype).max)
    elif array.dtype.kind == "f":
        peak = 1.0
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        low, high = _check_range(float(array.min()), float(array.max()), 0, name)
        if low < 0 or high > 1:
            array = array.clip(0, 1)
    else:
        scaled = "array.astype(numpy.uint8)" + (" * 255" if array.dtype == bool else " if its values are 0 … 255")
        raise ImageError(f"{name}: got an array of {array.dtype}; expected uint8, uint16, or float in [0, 1]; use {scaled}")
    alpha = array[..., 3] if array.ndim == 3 and array.shape[2] == 4 else None
    colour = array if array.ndim == 2 else array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return Photo(Decoded(colour, peak, alpha, peak).planes(background), name)


def _read_tensor(tensor: Tensor, name: str, background: tuple[float, float, float]) -> Photo:
    value = tensor.detach()
    if value.ndim == 4 and len(value) == 1:
        value = value[0]
    elif value.ndim == 2:
        value = value[None]
    if value.ndim == 4:
        raise ImageError(f"{name}: got a batch of {len(value)}, shape {list(value.shape)}; expected [1 | 3 | 4, H, W]; pass "
                         "list(tensor) for several")
    if value.ndim != 3 or value.shape[0] not in (1, 3, 4):
        advice, one = "", "tensor[0]" if tensor.ndim == 4 else "tensor"
        if value.ndim == 3 and value.shape[2] in (1, 3, 4):
            advice = f"; use {one}.permute(2, 0, 1)"
        elif value.ndim == 3 and value.shape[0] > 4:
            advice = f"; use {one}[:3] for the first three channels"
        raise ImageError(f"{name}: got a tensor of shape {list(tensor.shape)}; expected [H, W] or [1 | 3 | 4, H, W]{advice}")
    check_size(value.shape[1], value.shape[2], name)
    if value.dtype == torch.uint8:
        return Photo(_three(value.to("cpu", torch.float32).div_(127.5).sub_(1), background), name)
    if not value.is_floating_point():
        scaled = "tensor.to(torch.uint8)" + (" * 255" if value.dtype == torch.bool else " if its values are 0 … 255")
        raise ImageError(f"{name}: got a tensor of {value.dtype}; expected float in [-1, 1], or uint8; use {scaled}")
    low, high = _check_range(*(float(end) for end in value.aminmax()), -1, name)
    notes = () if low < 0 else (f"its values run from {low:.3g} to {high:.3g} and were taken as [-1, 1]; if they mean [0, 1], "
                                "pass tensor * 2 - 1",)
    if not notes and len(value) == 4 and 0 <= (least := float(value[3].min())) < 1:
        notes = (f"its alpha runs from {least:.3g} on and was taken as [-1, 1]; if it means [0, 1], pass it * 2 - 1",)
    return Photo(_three(value.to("cpu", torch.float32, copy=True).clamp_(-1, 1), background), name, notes)


def _three(values: Tensor, background: tuple[float, float, float]) -> Tensor:
    """[1 | 3 | 4, H, W] in [-1, 1] -> [3, H, W]; what is transparent shows the background. Works in place."""
    if len(values) == 1:
        return values.repeat(3, 1, 1)
    if len(values) == 3:
        return values
    under = values.new_tensor(background).mul_(2).sub_(1)[:, None, None]
    opaque = values[3].add(1).div_(2)
    return values[:3].sub_(under).mul_(opaque).add_(under).clone(memory_format=torch.contiguous_format)


def _check_range(low: float, high: float, bottom: int, name: str) -> tuple[float, float]:
    """The ends of a float image; NaN anywhere makes both NaN."""
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name}: it holds NaN or infinite values; expected finite ones in [{bottom}, 1]; find out where they "
                         "come from, or replace them (nan_to_num)")
    if low < bottom - _SLACK or high > 1 + _SLACK:
        if high > 2 and low >= 0:
            advice = "divide by 255" + ("" if bottom == 0 else " * 2 - 1") + ", or pass uint8"
        else:
            advice = "(x + 1) / 2 if it is in [-1, 1]" if bottom == 0 else "scale it first"
        raise ImageError(f"{name}: its values run from {low:.4g} to {high:.4g}; expected floats in [{bottom}, 1]; {advice}")
    return low, high

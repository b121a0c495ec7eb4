"""Colour profiles: what an embedded ICC profile makes of a picture's numbers, in sRGB, where all else here lives."""
from __future__ import annotations

import io

import numpy as np
from PIL import Image

_EXACT = 0x0100  # LittleCMS's cmsFLAGS_NOOPTIMIZE: its shortened grey curves are up to 10 levels off in the darks
_SAME = 2  # levels of 255: profiles that differ by no more are two vendors' sRGB


class SRGB:
    """The way from one image's numbers to sRGB.

    Args:
        image: its embedded profile is looked at
        used: False where the numbers stand for something else than colour, whatever profile a program left with them

    Attributes:
        needed: False where the numbers are sRGB already: no profile, sRGB's own, or one that cannot be used
        note: "" or why a profile was not used
    """

    def __init__(self, image: Image.Image, used: bool = True):
        self.needed, self.note, self._transform = False, "", None
        profile = image.info.get("icc_profile") if used else None
        if not profile:
            return
        try:
            from PIL import ImageCms
        except ImportError:
            self.note = "its colour profile was not used, since this Pillow is built without LittleCMS"
            return
        mode = _plain(image.mode)
        try:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = opened.profile.xcolor_space.strip()
            if space == "RGB" and mode == "L":  # grey pictures often carry their camera's RGB profile
                mode = "RGB"
            if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != mode:
                self.note = f"its colour profile is for {space}, the picture is {image.mode}; sRGB was assumed"
                return
            self._mode = mode
            flags = _EXACT if mode == "L" else 0
            self._transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            self.note = f"its colour profile is damaged ({error}); sRGB was assumed"
            return
        self.needed = mode == "CMYK" or _moves(self._apply, mode)

    def convert(self, image: Image.Image) -> Image.Image:
        """An 8-bit L, RGB or CMYK image -> the RGB image it stands for."""
        return self._apply(image if image.mode == self._mode else image.convert(self._mode))

    def _apply(self, image: Image.Image) -> Image.Image:
        return self._transform.apply(image)


def _plain(mode: str) -> str:
    """The mode of what is left of a picture without its alpha, once widths and palettes are gone."""
    if mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


def _moves(apply, mode: str) -> bool:
    """Does the profile change a grid of colours that spans the cube (or the grey ramp)?"""
    if mode == "L":
        grid = np.arange(256, dtype=np.uint8)[None]
        expected = np.repeat(grid[..., None], 3, 2)
    else:
        levels = np.linspace(0, 255, 17).round().astype(np.uint8)
        grid = expected = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(17, 289, 3)
    out = np.asarray(apply(Image.fromarray(grid))).astype(int)
    return int(np.abs(out - expected).max()) > _SAME

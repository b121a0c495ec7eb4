"""Opening an image file: only formats that hold pixels, and for everything else what it is and what to do.

Pillow would hand a PostScript file to Ghostscript and show the thumbnail of a camera's raw file as if it were the
photograph; the formats here are those that are neither.
"""
from __future__ import annotations

import importlib
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL
from PIL import Image, UnidentifiedImageError

from ._photo import ImageError, check_size

FORMATS = ("JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000", "BMP", "DIB", "GIF", "PPM", "TGA",
           "PCX", "SGI")
RAW_SUFFIXES = frozenset((".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"))
_SIGNED = ("JPEG", "PNG", "TIFF", "GIF", "WEBP")     # what the first bytes tell for sure, and any Pillow reads
_HEAD = 512
_TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")
_PLUGINS = {  # format -> (module, how to register it, what to install)
    "HEIF": ("pillow_heif", "register_heif_opener", "pillow-heif"),
    "JXL": ("pillow_jxl", None, "pillow-jxl-plugin"),
}


def formats() -> list[str]:
    """Those of FORMATS that this Pillow, with the plugins imported so far, can open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def suffixes() -> frozenset[str]:
    """The file name endings, in lower case, that count as images in a folder; HEIC and its like always do, so that
    leaving one out is never silent."""
    known = set(formats())
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in known}
    return frozenset(registered | {".heic", ".heif", ".hif", ".avif", ".jxl"})


def open_image(path: Path, name: str) -> Image.Image:
    """Opens a file, its pixels not yet decoded. Raises ImageError that names it as `name`."""
    if path.suffix.lower() in RAW_SUFFIXES:
        raise ImageError(f"{name}: this is a camera's raw file; expected a developed picture; export it from your raw "
                         "converter as 16-bit TIFF or PNG")
    head = _head(path, name)
    _register_plugin(_kind(head), name)
    with reading(name):
        try:
            # a TGA file has no signature: by its first bytes alone, much that is no image would pass for one
            return Image.open(path, formats=[f for f in formats() if f != "TGA" or path.suffix.lower() in _TGA_SUFFIXES])
        except UnidentifiedImageError:
            raise ImageError(f"{name}: {_explain(head)}") from None


def check_file(path: Path, name: str) -> None:
    """Raises what `open_image` does for a file that is no image by its first bytes, and for one without pixels; a tenth of the
    time of opening it, which is left to files whose first bytes leave doubt."""
    head = _head(path, name)
    if len(head) == _HEAD and _kind(head) in _SIGNED and path.suffix.lower() not in RAW_SUFFIXES:
        return
    with open_image(path, name) as image:
        check_size(image.height, image.width, name)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises while it reads `name` into an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes below the limit, and of metadata that nobody asked for
            yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: it claims more than {limit / 1e6:.0f} million pixels, the limit against files made to "
                         "exhaust the memory; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS first, or make it "
                         "smaller") from error
    except Exception as error:  # a damaged file leads Pillow's readers to any exception there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: the file is damaged or incomplete ({reason}); expected a whole image; copy or download "
                         "it again") from error


def _head(path: Path, name: str) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                head = file.read(_HEAD)
    except FileNotFoundError:
        web = "download it first and give the file" if "://" in name or ":/" in name else "check the path"
        raise ImageError(f"{name}: there is no such file; {web}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name}: the file cannot be read ({reason}); check the path and its permissions") from error
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name}: this is a folder; expected an image file; give the folder to gather()")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{name}: this is not a regular file; expected an image file")
    if not head:
        raise ImageError(f"{name}: the file is empty; expected an image; copy or download it again")
    return head


def _kind(head: bytes) -> str:
    """What a file is, from its first bytes; "" for what is not recognised."""
    if head[4:8] == b"ftyp":
        brands = {head[i:i + 4] for i in range(8, max(12, min(len(head), int.from_bytes(head[:4], "big"))), 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}:
            return "HEIF"
        return "video"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"\xff\x0a" or head[4:8] == b"JXL ":
        return "JXL"
    signatures = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF",
                  b"v/1\x01": "EXR", b"%PDF": "PDF", b"%!PS": "PostScript", b"version https://git-lfs": "LFS",
                  b"PK\x03\x04": "zip", b"\x93NUMPY": "npy"}
    for signature, kind in signatures.items():
        if head.startswith(signature):
            return kind
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if start.startswith(b"<svg") or b"<svg" in start:
        return "SVG"
    return "text" if not set(head) & set(range(9)) and _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode()  # the last character may be cut in two
    except UnicodeDecodeError:
        return False
    return True


def _register_plugin(kind: str, name: str) -> None:
    """HEIC and JPEG XL are read by packages of their own; an installed one is used, a missing one named."""
    if kind not in _PLUGINS or kind in formats():
        return
    module, register, package = _PLUGINS[kind]
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        what = {"HEIF": "a HEIC/HEIF picture, as phones write them", "JXL": "a JPEG XL picture"}[kind]
        raise ImageError(f"{name}: this is {what}, which needs a plugin; `pip install {package}` and run again, or "
                         "convert it to JPEG or PNG") from None
    if register:
        getattr(plugin, register)()


def _explain(head: bytes) -> str:
    kind = _kind(head)
    known = {
        "HTML": "this is a web page, not an image; the download went wrong; fetch the picture itself",
        "LFS": "this is a Git LFS pointer, not the image; run `git lfs pull`",
        "text": "this is a text file; expected an image such as JPEG, PNG, TIFF or WebP",
        "SVG": "this is a vector drawing; expected pixels; export it as PNG",
        "PDF": "this is a PDF; expected an image; export the page as PNG",
        "PostScript": "this is PostScript; expected an image; export it as PNG",
        "EXR": "this is OpenEXR, scene-linear light; expected a display-referred image; tone-map it to PNG or TIFF, or pass a "
               "float array [H, W, 3] in [0, 1]",
        "npy": "this is a NumPy file; expected an image; pass numpy.load(path) itself",
        "zip": "this is an archive; expected an image; unpack it first",
        "video": "this is a video, or a picture of an unknown kind; expected an image; export a frame as PNG",
        "AVIF": "this is AVIF, which Pillow reads from 11.3 on; `pip install -U pillow`, or convert it to PNG",
    }
    if kind in known:
        return known[kind]
    if kind:
        return (f"it begins as {kind}, but its header is damaged or of a variety that Pillow {PIL.__version__} does not "
                "read (floating point, for one); save it again as 8- or 16-bit PNG")
    return (f"this is no image that Pillow {PIL.__version__} can read; expected JPEG, PNG, TIFF, WebP or another of "
            f"{', '.join(formats())}")

"""Which images are meant: a folder, a pattern, a list, or one; and a name for the output of each."""
from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ._file import RAW_SUFFIXES, suffixes
from ._photo import ImageError, Photo

_SINGLE = (Image.Image, np.ndarray, Tensor, Photo)


def gather(items: Any, say: Callable[[str], None] | None = None, skip: Callable[[Path], bool] | None = None,
           named: bool = True) -> list:
    """What `read_image` takes, one entry an image, in the order given.

    Args:
        items: one item of `read_image`, or a list of items (or any iterable), in which a string or path may also be
            a folder: its images by name, without its subfolders and hidden files; other files are left out;
            a pattern such as "photos/*.jpg" or "photos/**/*.png", where no file has that very name: its files, sorted
        say: called with a line for each folder in which something was left out, with the count
        skip: whether a file is no photograph but a map that was made of one; it is passed over and not counted
        named: whether `skip` holds for a file that is given by itself too, not only for those found in a folder or by a pattern

    Files become Path; everything else stays as it is. Nothing is opened. Raises ImageError for an empty path, and if a folder,
    a pattern or the whole holds no image; a single path that does not exist is left for `read_image` to name.
    """
    say, skip = say or (lambda line: None), skip or (lambda path: False)
    if isinstance(items, _SINGLE):
        return [items]
    if isinstance(items, (str, os.PathLike)):
        items = [items]
    if not isinstance(items, Iterable) or isinstance(items, (bytes, dict)):
        raise ImageError(f"images: expected a folder, a path, a pattern, an image or a list of these, got "
                         f"{type(items).__name__}")
    found, passed = [], None
    for item in items:
        if not isinstance(item, (str, os.PathLike)):
            found.append(item)
            continue
        own = Path(item).expanduser()
        for path in _expand(item, say, skip):
            if skip(path) and (named or path != own):
                passed = path
            else:
                found.append(path)
    if passed is not None and not found:
        raise ImageError(f"images: expected photographs, got only maps that were made of some ({passed}, for one); give the "
                         "photographs themselves")
    if not found:
        raise ImageError("images: expected at least one, got an empty list; give paths, a folder such as photos/, or images")
    return found


def stems(items: list) -> list[str]:
    """A file name without ending for the output of each item, unique also where upper and lower case are one.

    A file gives its own name without the ending, or with it ("a.png") where two differ only there; what has no name is
    numbered by its place: "image-0003". What is still taken gets "-2", "-3", ….
    """
    paths = [Path(item) if isinstance(item, (str, os.PathLike)) else None for item in items]
    short = Counter(path.stem.lower() for path in paths if path)
    taken, names = set(), []
    for i, path in enumerate(paths):
        if path is None:
            base = f"image-{i:04d}"
        else:
            base = path.stem if short[path.stem.lower()] == 1 else path.name
        name, count = base, 1
        while name.lower() in taken:
            count += 1
            name = f"{base}-{count}"
        taken.add(name.lower())
        names.append(name)
    return names


def _expand(item: str | os.PathLike, say: Callable[[str], None], skip: Callable[[Path], bool]) -> list[Path]:
    if not os.fspath(item):
        raise ImageError("images: got an empty path; expected a folder, a file or a pattern; give . for the current folder")
    path = Path(item).expanduser()
    if path.is_dir():
        return _folder(path, str(item), say, skip)
    if glob.has_magic(str(path)) and not path.exists():
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        if not found:
            raise ImageError(f"{item}: no file matches this pattern; check it, or give the folder itself")
        return found
    return [path]


def _folder(folder: Path, name: str, say: Callable[[str], None], skip: Callable[[Path], bool]) -> list[Path]:
    try:
        there = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file())
    except OSError as error:
        raise ImageError(f"{name}: the folder cannot be read ({error.strerror}); check its permissions") from error
    files = [file for file in there if not skip(file)]
    endings = suffixes()
    images = [file for file in files if file.suffix.lower() in endings and file.suffix.lower() not in RAW_SUFFIXES]
    taken = set(images)
    others = [file.name for file in files if file not in taken]
    if not images:
        what = f"{len(others)} other files" if others else "no files"
        what += " besides maps made of photographs" if len(files) < len(there) else ""
        inside = "; its subfolders are not searched: give " + str(folder / "**" / "*.jpg") if any(
            entry.is_dir() for entry in folder.iterdir()) else ""
        raise ImageError(f"{name}: this folder holds no image ({what}); expected JPEG, PNG, TIFF, WebP and the like{inside}")
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        say(f"note: {name}: {len(images)} images; {len(others)} other file{'s' * (len(others) > 1)} left out ({shown})")
    return images

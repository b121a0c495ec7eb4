"""Probes on photographs: any size in, the map at that size out, one at a time, a folder with resume."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._intrinsics import Intrinsic
from .images import FORMATS, Photo, fit, gather, read_image, stems, write_map

if TYPE_CHECKING:
    from ._probe import Probe

_FIRST = {"npy": ".npy", "exr": ".exr", "png16": "-16bit.png", "png": ".png"}


@dataclass(frozen=True)
class PhotoPrediction:
    """What a probe says about one photograph.

    Args:
        name: of the photograph
        image: as it was read: float32 [3, H, W] in [-1, 1], upright
        map: the physical map at the photograph's size, float32 [C, H, W]; unit and frame as its intrinsic says
        intrinsic: which
        notes: what a person should know of how the photograph was read
    """

    name: str
    image: Tensor
    map: Tensor
    intrinsic: Intrinsic
    notes: tuple[str, ...] = ()

    def save(self, stem: str | Path, formats: Sequence[str] = ("npy", "png")) -> list[Path]:
        """Writes STEM.npy, STEM.png, …: see `probes.images.write_map`."""
        relative = self.intrinsic.options.get("encoding") == "relative"
        return write_map(stem, self.map, self.intrinsic.name, formats, unit="relative" if relative else None)


def predict_photos(probe: Probe, items: Any, size: int | None = None, policy: str = "resize") -> Iterator[PhotoPrediction]:
    """The probe's map of each photograph in turn; see `Probe.predict`."""
    for item in gather(items):
        yield _one(probe, read_image(item), size, policy)


def _one(probe: Probe, photo: Photo, size: int | None, policy: str) -> PhotoPrediction:
    generator = probe.generator
    fitted = fit(photo, generator.multiple, generator.resolution if size is None else size, policy)
    state = generator.prepare(generator.encode(fitted.pixels[None]))
    values = probe.intrinsic.to_map(probe.emit(state))
    values = fitted.restore(values, probe.intrinsic.name)[0]
    return PhotoPrediction(photo.name, photo.pixels, values, probe.intrinsic, photo.notes)


def predict_folder(probe: Probe, items: Any, output: str | Path, formats: Sequence[str] = ("npy", "png"),
                   size: int | None = None, policy: str = "resize", overwrite: bool = False,
                   progress: Callable[[int, int, str], None] | None = None,
                   say: Callable[[str], None] | None = None) -> tuple[int, list[str]]:
    """Writes the map of each photograph under `output`, as PHOTO-INTRINSIC.npy and so on; what is there already is kept.

    Args:
        probe: of a generator that is driven by images
        items: what `probes.images.gather` takes: a folder, a pattern, a list
        output: folder
        formats: of `probes.images.FORMATS`
        size, policy: see `Probe.predict`
        overwrite: make again what is there
        progress: called with (done, all, name)
        say: called with a line about what was left out

    Returns (how many were written, one line for each photograph that could not be read).
    """
    found = gather(items, say)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"formats: there is no {', '.join(unknown)}; choose of {', '.join(FORMATS)}")
    written, failed = 0, []
    for i, (item, stem) in enumerate(zip(found, stems(found), strict=True)):
        target = f"{stem}-{probe.intrinsic.name}"
        # A file appears whole or not at all, and the last format is written last.
        if overwrite or not all((Path(output) / (target + _FIRST[name])).exists() for name in formats):
            try:
                photo = read_image(item)
            except (ValueError, OSError) as error:
                failed.append(str(error))
            else:
                done = _one(probe, photo, size, policy)
                done.save(Path(output) / target, formats)
                written += 1
                if say:
                    for note in done.notes:
                        say(f"note: {done.name}: {note}")
        if progress:
            progress(i + 1, len(found), stem)
    return written, failed

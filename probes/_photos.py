"""Probes on photographs: any size in, the map at that size out, one at a time, a folder with resume."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._files import write_text_atomically
from ._intrinsics import Intrinsic
from .images import FORMATS, Photo, fit, gather, read_image, stems, write_map

if TYPE_CHECKING:
    from ._probe import Probe

_FIRST = {"npy": ".npy", "exr": ".exr", "png16": "-16bit.png", "png": ".png"}
_ADVICE = "choose another folder with --output"


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
        meaning = self.intrinsic.meaning
        return write_map(stem, self.map, self.intrinsic.name, formats, unit=None if meaning in ("", "metric") else meaning)


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

    maps-INTRINSIC.json beside them says which probe made them and how; those of another are never taken for its own.

    Args:
        probe: of a generator that is driven by images
        items: what `probes.images.gather` takes: a folder, a pattern, a list
        output: folder
        formats: of `probes.images.FORMATS`
        size, policy: see `Probe.predict`
        overwrite: make again what is there
        progress: called with (done, all, name)
        say: called with a line about what was left out, and about what was kept

    Returns (how many were written, one line for each photograph that could not be read).

    Raises ValueError where the folder holds maps of another probe, or made in another way: with `overwrite` only if it holds
    such maps of other photographs.
    """
    found = gather(items, say)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"formats: there is no {', '.join(unknown)}; choose of {', '.join(FORMATS)}")
    output, names = Path(output), stems(found)
    targets = [f"{stem}-{probe.intrinsic.name}" for stem in names]
    manifest = _Manifest(output, probe, size, policy, targets, overwrite)
    written, kept, failed = 0, 0, []
    for i, (item, stem, target) in enumerate(zip(found, names, targets, strict=True)):
        # A file appears whole or not at all, and the last format is written last.
        if overwrite or not all((output / (target + _FIRST[name])).exists() for name in formats):
            try:
                photo = read_image(item)
            except (ValueError, OSError) as error:
                failed.append(str(error))
            else:
                done = _one(probe, photo, size, policy)
                if not written:
                    manifest.write()
                done.save(output / target, formats)
                written += 1
                if say:
                    for note in done.notes:
                        say(f"note: {done.name}: {note}")
        else:
            kept += 1
        if progress:
            progress(i + 1, len(found), stem)
    if kept and say:
        say(f"note: {kept} of {len(found)} maps are kept, they were in {output} already")
    return written, failed


class _Manifest:
    """maps-INTRINSIC.json: what the maps of an intrinsic in a folder were made by, all of them."""

    def __init__(self, folder: Path, probe: Probe, size: int | None, policy: str, targets: Sequence[str], overwrite: bool):
        name = probe.intrinsic.name
        self.path = folder / f"maps-{name}.json"
        self.about = _made_by(probe, size, policy)
        endings = (".npy", ".exr", "-16bit.json", "-16bit.png", ".png")
        self.stale: set[Path] = set()
        try:
            before = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            before = {}
        self.told = before == self.about
        if self.told:
            return
        self.stale = {path for ending in endings for path in folder.glob(f"*-{name}{ending}")}
        others = self.stale - {folder / (target + ending) for target in targets for ending in endings}
        if others and overwrite:
            raise ValueError(f"output: {folder} holds maps of other photographs too ({min(others).name}), "
                             f"{_unlike(before, self)}; {_ADVICE}")
        if self.stale and not overwrite:
            raise ValueError(f"output: {folder} holds maps of {name} {_unlike(before, self)}; {_ADVICE}, or make them again "
                             "with --overwrite true")

    def write(self) -> None:
        """Says so before the first map, and removes those that would be taken for this probe's if it was cut short."""
        if self.told:
            return
        for path in self.stale:
            path.unlink()
        write_text_atomically(self.path, json.dumps(self.about, indent=2))


def _made_by(probe: Probe, size: int | None, policy: str) -> dict:
    adapter = probe.adapter
    decides = [adapter.config.lora_alpha, adapter.config.r] if adapter.method == "lora" else [adapter.method, adapter.options]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for name, value in sorted(probe.adapter.state().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    sampled = dict(sampling=probe.generator.sampling) if probe.generator.sampling else {}
    return dict(adapter=digest.hexdigest(), prompt=probe.adapter.prompt, generator=probe.generator.fingerprint, **sampled,
                intrinsic=probe.intrinsic.name, options=probe.intrinsic.options,
                size=probe.generator.resolution if size is None else size, policy=policy)


def _unlike(before: dict, now: _Manifest) -> str:
    changed = [name for name, value in now.about.items() if before.get(name) != value]
    return f"made with another {', '.join(changed)}" if before else f"without a {now.path.name} that says what made them"

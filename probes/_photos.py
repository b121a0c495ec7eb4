"""Probes on photographs: any size in, the map at that size out, one at a time, a folder with resume."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from generators._files import file_sha256

from ._files import write_text_atomically
from ._intrinsics import Intrinsic
from ._rows import holding
from .images import FORMATS, ImageError, MapError, Photo, fit, gather, read_image, stems, write_map
from .images._fit import size_used
from .images._made import made_of_photographs, map_files, read_manifest

if TYPE_CHECKING:
    from ._probe import Probe

_ADVICE = "choose another folder with --output"
_PARTS = 1000           # the manifest is written whole each time: after each map, or in a large folder after this part of them


@dataclass(frozen=True)
class PhotoPrediction:
    """What a probe says about one photograph.

    Args:
        name: of the photograph
        image: as it was read: float32 [3, H, W] in [-1, 1], upright
        map: the physical map at the photograph's size, float32 [C, H, W]; unit and frame as its intrinsic says
        intrinsic: which
        notes: what a person should know of how the photograph was read, and of its size
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
    note = _size_note(probe, size, policy)
    for item in gather(items, skip=made_of_photographs(), named=False):
        done = _one(probe, read_image(item), size, policy)
        yield replace(done, notes=(*done.notes, *note))


def _one(probe: Probe, photo: Photo, size: int | None, policy: str) -> PhotoPrediction:
    generator = probe.generator
    fitted = fit(photo, generator.multiple, generator.resolution if size is None else size, policy)
    emitted = probe.emit(generator.prepare(generator.encode(fitted.pixels[None])))
    _check_finite(emitted, probe, photo.name)       # here: an intrinsic of one's own may decode to NaN, which is no value
    values = fitted.restore(probe.intrinsic.to_map(emitted), probe.intrinsic.name)[0]
    return PhotoPrediction(photo.name, photo.pixels, values, probe.intrinsic, photo.notes)


def _check_finite(emitted: Tensor, probe: Probe, name: str) -> None:
    """Raises MapError where an emission holds NaN or infinite values."""
    finite = torch.isfinite(emitted).all(1)
    if finite.all():
        return
    advice = ("fp16 overflows, fit it again with --generator_options.precision fp32"
              if probe.generator.options.get("precision") == "fp16" else
              "did its fit diverge? fit it again, with a lower --learning_rate")
    raise MapError(f"{name}: the {probe.intrinsic.name} that the probe emits is NaN or infinite at {int((~finite).sum()):,} of "
                   f"{finite.numel():,} pixels; expected finite values; {advice}")


def _size_note(probe: Probe, size: int | None, policy: str) -> tuple[str, ...]:
    used = None if size is None else size_used(size, probe.generator.multiple, policy)
    return () if used in (None, size) else (f"size {size} became {used}: {probe.generator.name} takes multiples of "
                                            f"{probe.generator.multiple}",)


def predict_folder(probe: Probe, items: Any, output: str | Path, formats: Sequence[str] = ("npy", "png"),
                   size: int | None = None, policy: str = "resize", overwrite: bool = False,
                   progress: Callable[[int, int, str], None] | None = None,
                   say: Callable[[str], None] | None = None) -> tuple[int, list[str]]:
    """Writes the map of each photograph under `output`, at the photograph's own size; called again it goes on where it was.

        OUTPUT/PHOTO-INTRINSIC.npy       float32 [C, H, W], in the unit, range and frame of the probe's intrinsic
        OUTPUT/PHOTO-INTRINSIC.png, …    the other formats: see `probes.images.FORMATS`
        OUTPUT/maps-INTRINSIC.json       which probe made them, at which size, and of which photographs

    PHOTO is the photograph's name without its ending, with it where two differ only there. A map is kept if the manifest says
    that this probe made it of this very photograph, which it knows by the bytes; a photograph that has changed, or another of
    the same name, gets a new one. `output` may be the folder of the photographs: maps are never taken for photographs.

    Args:
        probe: of a generator that is driven by images
        items: what `probes.images.gather` takes: a folder, a pattern, an image, a list of these
        output: folder; made if it is not there
        formats: of `probes.images.FORMATS`
        size, policy: see `Probe.predict`; a size that is no multiple of what the generator takes becomes the nearest
        overwrite: make again what is there
        progress: called with (done, all, name) after each photograph
        say: called with a line about what was left out, what was kept, what is made again, and a size that was rounded

    Returns (how many were written, one line for each photograph that was left out): those that cannot be read, are too long
    and thin, do not fit into the memory, or whose map is not finite or does not fit into a format.

    Raises ValueError for formats, a size or a policy that do not exist, where there is no photograph, where a map would replace
    a photograph, where another process is writing the folder, and where the folder holds maps of another probe, or made in
    another way (with `overwrite` only if it holds such maps of other photographs); OutputError where a file cannot be written.
    """
    say = say or (lambda line: None)
    found = gather(items, say, made_of_photographs())
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"formats: there is no {', '.join(unknown)}; choose of {', '.join(FORMATS)}")
    output, names, made_by = Path(output), stems(found), _made_by(probe, size, policy)
    targets = {f"{stem}-{probe.intrinsic.name}": item for stem, item in zip(names, found, strict=True)}
    _check_apart(output, targets)
    with holding(output, "predict"):
        manifest = _Manifest(output, made_by, targets, formats, overwrite)
        for note in _size_note(probe, size, policy):
            say(f"note: {note}")
        if manifest.again:
            say(f"note: made again: {len(manifest.again)} maps in {output} that are not known to be of these photographs "
                f"({manifest.again[0]}, for one)")
        written, failed = 0, []
        try:
            for i, (target, item) in enumerate(targets.items()):
                if target not in manifest.kept:
                    try:
                        photo = read_image(item)
                        mark = _mark(item, photo)
                        done = _one(probe, photo, size, policy)
                    except (ImageError, MapError, OSError) as error:
                        failed.append(str(error))
                    except (MemoryError, RuntimeError) as error:
                        if not _is_memory(error):
                            raise
                        failed.append(f"{item if isinstance(item, Path) else names[i]}: it does not fit into the memory with "
                                      f"--policy {policy}; give a smaller --size, with --policy resize or square")
                    else:
                        manifest.begin()
                        try:
                            done.save(output / target, formats)
                        except MapError as error:
                            failed.append(f"{done.name}: {error}")
                        else:
                            manifest.add(target, mark)
                            written += 1
                            for note in done.notes:
                                say(f"note: {done.name}: {note}")
                if progress:
                    progress(i + 1, len(targets), names[i])
        finally:
            manifest.finish()
    if manifest.kept:
        say(f"note: {len(manifest.kept)} of {len(targets)} maps are kept, they were in {output} already")
    return written, failed


def _is_memory(error: Exception) -> bool:
    """Whether there was not enough memory; torch has no class of its own for that on a processor."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def _check_apart(output: Path, items: Mapping[str, Any]) -> None:
    """Raises ValueError where a photograph has the name of a map, of whatever format: it could be replaced, or removed."""
    folder, photographs = output.resolve(), {str(i.resolve()).lower() for i in items.values() if isinstance(i, Path)}
    for name in (name for target in items for name in map_files(target, FORMATS)):
        if str(folder / name).lower() in photographs:
            raise ValueError(f"output: the photograph {output / name} has the name of a map, which would replace it; {_ADVICE}")


def _seen(path: Path) -> dict:
    """What is the same of a file that nobody touched since, so that its bytes need not be read."""
    about = path.stat()
    return dict(photograph=str(path.resolve()), bytes=about.st_size, modified=about.st_mtime_ns, changed=about.st_ctime_ns)


def _mark(item: Any, photo: Photo | None = None) -> dict:
    """What tells a photograph from every other."""
    if isinstance(item, Path):
        return dict(_seen(item), sha256=file_sha256(item))
    pixels = (photo or read_image(item)).pixels
    return dict(sha256=hashlib.sha256(f"{list(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes()).hexdigest())


class _Manifest:
    """maps-INTRINSIC.json: what all the maps of an intrinsic in a folder were made by, and each of which photograph.

    Args:
        folder: which
        about: of `_made_by`
        items: {name of a map without ending: its photograph}
        formats: to be written
        overwrite: keep none

    `kept`: the maps that are there; `again`: those that are there of another photograph, or of nobody knows which.
    """

    def __init__(self, folder: Path, about: dict, items: Mapping[str, Any], formats: Sequence[str], overwrite: bool):
        name = about["intrinsic"]
        self.folder, self.path, self.about, self.formats = folder, folder / f"maps-{name}.json", about, formats
        before = read_manifest(self.path)
        self.told = {key: value for key, value in before.items() if key != "photographs"} == json.loads(json.dumps(about))
        self.photographs: dict[str, dict] = before["photographs"] if self.told else {}
        self.begun, self.behind, self.added = False, False, 0
        same = {target: self._same(target, item) for target, item in items.items()}
        self.kept = {target for target, known in same.items() if known and not overwrite and self._holds(target)}
        self.open = {target: known for target, known in same.items() if target not in self.kept}
        self.again = [target for target, known in self.open.items() if known is False and not overwrite
                      and any((folder / file).exists() for file in map_files(target, formats))]
        self.stale: set[Path] = set()
        if self.told:
            return
        self.stale = {path for file in map_files(f"*-{name}", FORMATS) for path in folder.glob(file)}
        others = self.stale - {folder / file for target in items for file in map_files(target, FORMATS)}
        if others and overwrite:
            raise ValueError(f"output: {folder} holds maps of other photographs too ({min(others).name}), "
                             f"{_unlike(before, self)}; {_ADVICE}")
        if self.stale and not overwrite:
            raise ValueError(f"output: {folder} holds maps of {name} {_unlike(before, self)}; {_ADVICE}, or make them again "
                             "with --overwrite true")

    def _same(self, target: str, item: Any) -> bool | None:
        """Whether a map is known to be of this photograph; None where that cannot be read now, which is no reason to discard
        the map."""
        about = self.photographs.get(target, {})
        if "sha256" not in about:
            return False
        try:
            seen = _seen(item) if isinstance(item, Path) else {}
            if seen and seen.items() <= about.items():
                return True
            same = _mark(item)["sha256"] == about["sha256"]
        except (ValueError, OSError, MemoryError):
            return None
        if same and seen:
            about.update(seen)
            self.behind = True
        return same

    def _holds(self, target: str) -> bool:
        known = self.photographs[target]["formats"]
        there = all((self.folder / file).exists() for file in map_files(target, self.formats))
        return there and set(self.formats) <= set(known)

    def begin(self) -> None:
        """Says what is to be made before the first of it is there, so that it is never taken for a photograph, and removes what
        would be taken for it if this was cut short."""
        if self.begun:
            return
        stale = {self.folder / file for target, known in self.open.items() if known is False and target in self.photographs
                 for file in map_files(target, self.photographs[target]["formats"])}
        for path in self.stale | stale:
            path.unlink(missing_ok=True)
        for target, known in self.open.items():
            about = {} if known is False else self.photographs[target]
            self.photographs[target] = {**about, "formats": self._united(about)}
        self.begun = True
        self._write()

    def add(self, target: str, mark: dict) -> None:
        """Says of which photograph a map was made, which is there by now."""
        before = self.photographs[target]
        formats = self._united(before if before.get("sha256") == mark["sha256"] else {})
        self.photographs[target] = {**mark, "formats": formats}
        self.behind, self.added = True, self.added + 1
        if self.added % (1 + len(self.photographs) // _PARTS) == 0:
            self._write()

    def finish(self) -> None:
        """Writes what is not written yet."""
        if self.behind:
            self._write()

    def _united(self, about: dict) -> list[str]:
        return [name for name in FORMATS if name in self.formats or name in about.get("formats", ())]

    def _write(self) -> None:
        write_text_atomically(self.path, json.dumps({**self.about, "photographs": self.photographs}, indent=2))
        self.behind = False


def _made_by(probe: Probe, size: int | None, policy: str) -> dict:
    adapter = probe.adapter
    decides = [adapter.config.lora_alpha, adapter.config.r] if adapter.method == "lora" else [adapter.method, adapter.options]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for name, value in sorted(probe.adapter.state().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    sampled = dict(sampling=probe.generator.sampling) if probe.generator.sampling else {}
    size = size_used(probe.generator.resolution if size is None else size, probe.generator.multiple, policy)
    return dict(adapter=digest.hexdigest(), prompt=probe.adapter.prompt, generator=probe.generator.fingerprint, **sampled,
                intrinsic=probe.intrinsic.name, options=probe.intrinsic.options, size=size, policy=policy)


def _unlike(before: dict, now: _Manifest) -> str:
    changed = [name for name, value in now.about.items() if before.get(name) != value]
    return f"made with another {', '.join(changed)}" if before else f"without a {now.path.name} that says what made them"

"""The Bank: what the frozen prefix and the teacher say, computed once, memory-mapped, shared by every fit that asks.

A bank holds, for a run of seeds (or of images, by their number), the generator's state (everything before the adapted part),
the encoded target and, for training in another space than pixels, the target there. It
lives in a folder named by the fingerprints of all that made it, so a second fit on the same pairs starts at once, and
a change in any of them makes another bank. Building is resumable (`_bank_part`), and two processes that want the same bank
build it once: the second waits.
"""
from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from generators import Generator, State
from generators._files import cache_folder, file_sha256

from . import _depth
from ._bank_part import Part, check_seal, json_sha256, storing
from ._files import OutputError
from ._intrinsics import Intrinsic
from .data import Data
from .teachers import Teacher

_VERSION = 2
_LATENT = "latent-target"


class BankError(RuntimeError):
    """A stored bank is not what its manifest says; the message names the file and what to do."""


@dataclass(frozen=True)
class Request:
    """All that decides what is in a bank.

    Args:
        generator: draws the images, with adapters off; or takes them
        teacher, intrinsic: label them
        first_seed, samples: which seeds, or which images of `data`
        classes: of a conditional generator, the labels its images have, taken in turn by the seed; None for the
            seed modulo their number
        dtype: of the stored targets: float16 for training, float32 for evaluation
        physical: keep the physical maps themselves, unencoded: an encoding may cut off what a score must see
        data: the images of a generator that is driven by images
        latents: keep the targets in the generator's output space too, which is what training reads
    """

    generator: Generator
    teacher: Teacher
    intrinsic: Intrinsic
    first_seed: int
    samples: int
    classes: Sequence[int] | None = None
    dtype: str = "float16"
    data: Data | None = None
    latents: bool = False
    physical: bool = False

    def identity(self) -> dict:
        about = dict(version=_VERSION, generator=self.generator.prefix_fingerprint, teacher=self.teacher.fingerprint,
                     intrinsic=self.intrinsic.name, options=self.intrinsic.options, first_seed=self.first_seed,
                     samples=self.samples, classes=None if self.classes is None else list(self.classes), dtype=self.dtype)
        if self.data is not None:
            about |= dict(data=self.data.fingerprint, latents=self.latents)
        if self.physical:
            del about["options"]
        return about | (dict(physical=True) if self.physical else {})

    @property
    def key(self) -> str:
        return _key(self.identity())

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.samples)

    @torch.no_grad()
    def pairs(self, seeds: range) -> tuple[State, Tensor, float]:
        """(states, targets [n, C, H, W], the share of their pixels that the encoding cuts off) of `seeds`; raises BankError
        where the teacher says what is no number, unless it is NaN and that is how it says that a pixel has no value."""
        labels = None if self.classes is None else [self.classes[s % len(self.classes)] for s in seeds]
        state, image = drawn(self.generator, seeds, labels, self.data)
        values = self.teacher.label_indexed(image, self.intrinsic.name, seeds)
        wrong = (values.isinf() if self.teacher.masked else ~values.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
        if wrong:
            raise BankError(f"teacher: {self.teacher.name} returned values that are not finite for "
                            f"{self._called(seeds, wrong)}; mend the teacher, or the files that its maps come from. "
                            + ("NaN is how it says that a pixel has no value, infinity is none" if self.teacher.masked else
                               "One that leaves pixels out says NaN there, and that it does so with masked = True"))
        if self.physical:
            return state, values, 0.0
        cut = _depth.outside(values, self.intrinsic.options) if self.intrinsic.name == "depth" else 0.0
        return state, self.intrinsic.encode(values, self.intrinsic.options), cut

    def _called(self, seeds: range, wrong: Sequence[int]) -> str:
        """Some of the seeds, or images by their names, in words."""
        names = [str(seeds[i]) if self.data is None else self.data.sample_name(seeds[i]) for i in wrong[:3]]
        what = "seed" if self.data is None else "image"
        return f"{what}{'s' * (len(wrong) > 1)} {', '.join(names)}{' …' if len(wrong) > 3 else ''}"

    def in_output_space(self, encoded: Tensor, seeds: range) -> Tensor:
        """Encoded targets as training compares with them. A latent that shows a pixel without a value, or is next to one that
        does, has none itself: its encoder saw there what stands in, the mean of what the image says."""
        encoded = encoded.expand(-1, 3, -1, -1).float()
        missing = encoded.isnan().any(1, keepdim=True)
        if not missing.any():
            return self.generator.to_target(encoded, seeds)
        mean = encoded.nanmean((2, 3), keepdim=True).nan_to_num(0.0)
        target = self.generator.to_target(torch.where(missing, mean, encoded), seeds)
        spoilt = F.max_pool2d(F.adaptive_max_pool2d(missing.float(), target.shape[2:]), 3, 1, 1) > 0
        return target.masked_fill(spoilt.to(target.device), torch.nan)


def _key(identity: dict) -> str:
    return json_sha256(identity)[:32]


@torch.no_grad()
def drawn(generator: Generator, seeds: Sequence[int], classes: Sequence[int] | None = None,
          data: Data | None = None) -> tuple[State, Tensor]:
    """(states, images [n, 3, H, W] in [-1, 1]): what `generator` draws from `seeds`, or those images of `data`. Raises
    ValueError for numbers of which `data` has no image."""
    if data is None:
        state = generator.prepare(generator.sample(seeds, classes))
        return state, generator.image(state)
    data.check(seeds)
    image = data.images(seeds, generator.resolution)
    return generator.prepare(generator.encode(image)), image


class Bank:
    """Stored pairs. `bank.batch(indices)` -> (state, target [n, 3, H, W] in [-1, 1]); `bank.lesson(indices)` the same with the
    target in the generator's output space."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.states = {n: _map(folder, n, s) for n, s in manifest["arrays"].items() if n.startswith("state.")}
        self.targets = _map(folder, "target", manifest["arrays"]["target"])
        spec = manifest["arrays"].get(_LATENT)
        self.latents = None if spec is None else _map(folder, _LATENT, spec)
        self.mean = torch.from_numpy(np.load(folder / "mean.npy"))

    @property
    def key(self) -> str:
        return self.folder.name

    def __len__(self) -> int:
        return len(self.targets)

    def state(self, indices: np.ndarray | slice) -> dict[str, Tensor]:
        return {n.removeprefix("state."): torch.from_numpy(np.array(a[indices])) for n, a in self.states.items()}

    def target(self, indices: np.ndarray | slice) -> Tensor:
        """Encoded targets, float32 [n, 3, H, W]; one-channel intrinsics repeated; NaN where there is no value."""
        return torch.from_numpy(self.targets[indices].astype(np.float32)).expand(-1, 3, -1, -1)

    def batch(self, indices: np.ndarray | slice) -> tuple[dict[str, Tensor], Tensor]:
        return self.state(indices), self.target(indices)

    def lesson(self, indices: np.ndarray | slice) -> tuple[State, Tensor]:
        if self.latents is None:
            return self.batch(indices)
        return self.state(indices), torch.from_numpy(np.array(self.latents[indices]))

    def truth(self, rows: np.ndarray | slice) -> Tensor:
        """What a bank of physical maps holds: float32 [n, C, H, W], NaN where there is no value."""
        return torch.from_numpy(self.targets[rows].astype(np.float32))

    def filled(self, rows: np.ndarray | slice, columns: slice = slice(None)) -> Tensor:
        """Encoded targets, flat: float32 [n, C · H · W] or some of their columns; the mean where there is no value."""
        values = torch.from_numpy(self.targets.reshape(len(self), -1)[rows, columns].astype(np.float32))
        return torch.where(values.isnan(), self.mean.reshape(-1)[columns], values)

    @property
    def trivial(self) -> Tensor:
        """The mean encoded target [1, 3, H, W]: what a predictor that looks at nothing would answer."""
        return self.mean[None].expand(1, 3, -1, -1)


def batch_size(generator: Generator) -> int:
    """How many images to draw and label at once: as many pixels as 64 images of 64 px, and at least four images."""
    return max(4, 64 * 64**2 // generator.resolution**2)


def open_bank(request: Request, folder: str | Path | None = None, batch: int | None = None,
              progress: Callable[[int, int], None] | None = None) -> Bank:
    """Returns the bank of a request: the stored one if there is one, else built now.

    Args:
        request: what should be in it
        folder: where banks live; the cache by default
        batch: images labelled at once while building; by default what `batch_size` says
        progress: called with (done, all) while building

    Raises BankError if the stored bank was truncated or altered, OutputError where one that is not finished cannot be written.
    """
    target = (Path(folder) if folder else cache_folder("banks")) / request.key
    with _held(target):
        if not (target / "manifest.json").exists():
            _build(request, target, batch or batch_size(request.generator), progress)
        return _verified(target, request)


def _held(target: Path) -> AbstractContextManager:
    """Keeps a bank for this process. A finished one is never written again, so where its folder takes no lock (a shared cache
    that is read-only, a full disk) it is used without."""
    lock = target.with_suffix(".lock")
    try:
        with storing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            return FileLock(lock).acquire()
    except OutputError:
        if os.path.exists(target / "manifest.json"):
            return nullcontext()
        raise


def _build(request: Request, target: Path, batch: int, progress: Callable[[int, int], None] | None) -> None:
    total = request.samples
    part = Part(target.with_suffix(".part"), total)
    cut = part.cut
    for start in range(part.done, total, batch):
        stop = min(start + batch, total)
        seeds = request.seeds[start:stop]
        state, encoded, share = request.pairs(seeds)
        cut += share * len(seeds)
        values = {f"state.{k}": (v.float() if v.is_floating_point() else v).cpu().numpy() for k, v in state.items()}
        values["target"] = encoded.cpu().numpy().astype(request.dtype)
        if request.latents:
            values[_LATENT] = request.in_output_space(encoded, seeds).cpu().numpy()
        part.write(start, values)
        if stop == total or (start // batch) % 8 == 7:
            part.keep(stop, cut)
        if progress:
            progress(stop, total)
    mean = part.mean()
    if mean is None:
        part.discard()                  # its maps may be mended under the same name
        raise BankError(f"teacher: {request.teacher.name} gave no pixel of {total} images a value for "
                        f"{request.intrinsic.name}; mend the teacher, or the files that its maps come from")
    part.finish(target, mean, dict(identity=request.identity(), cut=cut / total,
                                   teacher=f"{request.teacher.name} {request.teacher.version}"))


def _verified(folder: Path, request: Request) -> Bank:
    path, advice = folder / "manifest.json", f"delete {folder} and run again to rebuild it"
    try:
        manifest = json.loads(path.read_text())
        files, identity = dict(manifest["files"]), manifest["identity"]
        if not {"target.npy", "mean.npy", *(f"{name}.npy" for name in manifest["arrays"])} <= set(files):
            raise KeyError("files")
    except (ValueError, KeyError, TypeError) as error:
        raise BankError(f"bank: {path} is damaged; {advice}") from error
    try:
        if "sha256" in manifest:        # banks of before have none, and are told from others by their identity alone
            check_seal(manifest)
        if _key(identity) != request.key:
            raise ValueError("its identity is another bank's")
    except ValueError as error:
        raise BankError(f"bank: {path} was altered since it was written; {advice}") from error
    for name, digest in files.items():
        path = folder / name
        if not path.exists() or _sha256(path) != digest:
            raise BankError(f"bank: {path} was truncated or altered since it was written; {advice}")
    return Bank(folder, manifest)


_seen: dict[Path, tuple[tuple[int, ...], str]] = {}


def _sha256(path: Path) -> str:
    """`file_sha256`, remembered as long as nobody touches the file: a fit opens its banks several times."""
    about = path.stat()
    mark = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
    found, digest = _seen.get(path, (None, ""))
    if found != mark:
        recent = time.time() - about.st_mtime < 2       # a file system may count in steps of two seconds
        digest = file_sha256(path)
        if not recent:
            _seen[path] = mark, digest
    return digest


def _map(folder: Path, name: str, spec: dict) -> np.ndarray:
    array = np.load(folder / f"{name}.npy", mmap_mode="r")
    if list(array.shape) != spec["shape"] or str(array.dtype) != spec["dtype"]:
        raise BankError(f"bank: {folder / name}.npy is {array.shape} {array.dtype}, its manifest says {spec['shape']} "
                        f"{spec['dtype']}; delete {folder} and run again to rebuild it")
    return array

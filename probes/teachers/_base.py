"""The teacher interface and its registry."""
from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from generators._names import unknown

from ..data import Data

EXACT = "exact"


class Teacher(ABC):
    """Labels images with intrinsic maps.

    Attributes:
        name, version, licence: kept in every record of a result
        intrinsics: names of the intrinsics it can label
        worlds: what its images may show ("scenes", "photographs")
    """

    name: str
    version: str
    licence: str
    intrinsics: tuple[str, ...]
    worlds: tuple[str, ...]

    @abstractmethod
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        """image: float [N, 3, H, W] in [-1, 1] -> physical map [N, C, H, W] (see `probes._intrinsics`)."""

    def label_indexed(self, image: Tensor, intrinsic: str, indices: Sequence[int]) -> Tensor:
        """`label`, for a teacher that knows the images by their number rather than by looking."""
        return self.label(image, intrinsic)

    def options(self, intrinsic: str) -> dict:
        """Options of the intrinsic's encoding that this teacher decides: for depth, `near` and `far`."""
        return {}

    def exact_errors(self, intrinsic: str) -> dict[str, float] | None:
        """Its own error against exact ground truth, {what: value}, or None where nobody has measured it."""
        return None

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that decides its labels; by default its name and version."""
        return hashlib.sha256(f"{self.name} {self.version}".encode()).hexdigest()

    def to(self, device: str | torch.device) -> Teacher:
        """Moves its weights, if it has any; returns self."""
        return self


class Exact(Teacher):
    """No teacher at all: the exact maps of data that has them. As a teacher, what is fitted knows the truth; as a judge, skill
    is against the truth.

    Raises ValueError for data without exact maps.
    """

    name, licence = EXACT, "as the data"

    def __init__(self, data: Data | None):
        if data is None or not data.exact:
            of = "a generator that draws its own images" if data is None else data.name
            raise ValueError(f"teacher: nobody knows the exact maps of {of}; name a teacher that looks at the images")
        self.data, self.intrinsics, self.worlds = data, data.exact, (data.world,)
        self.version = data.fingerprint[:8]

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        raise TypeError("teacher: the exact maps go by an image's number, not by its pixels; use label_indexed")

    def label_indexed(self, image: Tensor, intrinsic: str, indices: Sequence[int]) -> Tensor:
        return self.data.truth(indices, image.shape[-1], intrinsic)

    def options(self, intrinsic: str) -> dict:
        return self.data.options(intrinsic)

    def exact_errors(self, intrinsic: str) -> dict[str, float]:
        return {}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"exact {self.data.fingerprint}".encode()).hexdigest()


class Unsaid(Teacher):
    """Stands for the teacher of an adapter that came without its story."""

    name, version, licence, intrinsics, worlds = "unsaid", "", "", (), ()

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        raise ValueError(_UNSAID)


_UNSAID = ("teacher: this probe came as a LoRA file, which does not say what taught it; name a teacher and data to compare "
           "with when importing it")
_FACTORIES: dict[str, Callable[[], Teacher]] = {}
_ABOUT: dict[str, str] = {}
_DEFAULTS = {"scenes": "scenes", "photographs": "retinex"}


def register_teacher(name: str, factory: Callable[[], Teacher], about: str = "") -> None:
    """Makes a teacher known by its name; `factory()` builds it when it is first used."""
    if name in _FACTORIES:
        raise ValueError(f"teacher: {name!r} is already registered")
    _FACTORIES[name], _ABOUT[name] = factory, about


def get_teacher(teacher: str | Teacher, intrinsic: str, data: Data | None = None) -> Teacher:
    """By name, or the teacher itself; "exact" is what `data` knows. Raises UnknownNameError, or ValueError if it cannot label
    `intrinsic`."""
    if isinstance(teacher, Unsaid) or teacher == Unsaid.name:
        raise ValueError(_UNSAID)
    if teacher == EXACT:
        teacher = Exact(data)
    elif isinstance(teacher, str):
        if teacher not in _FACTORIES:
            raise unknown("teacher", teacher, teachers())
        teacher = _FACTORIES[teacher]()
    if intrinsic not in teacher.intrinsics:
        raise ValueError(f"teacher: {teacher.name} cannot label {intrinsic}, only {', '.join(teacher.intrinsics)}; "
                         "choose another with --teacher (`probes list teachers`), or register one with "
                         "probes.register_teacher")
    return teacher


def default_teacher(world: str) -> str:
    """The teacher that `teacher="auto"` means for generators of a world. Raises ValueError if there is none."""
    if world not in _DEFAULTS:
        raise ValueError(f"teacher: there is no default for a generator that draws {world}; name one with --teacher (`probes "
                         "list teachers`), or register one with probes.register_teacher")
    return _DEFAULTS[world]


def teachers() -> dict[str, str]:
    """{name: one line about it} of every registered teacher."""
    return {**_ABOUT, EXACT: "no teacher: the exact maps of data that has them"}


def _register_builtin() -> None:
    def scenes() -> Teacher:
        from ._scenes import ScenesTeacher

        return ScenesTeacher()

    def retinex() -> Teacher:
        from ._retinex import RetinexTeacher

        return RetinexTeacher()

    register_teacher("scenes", scenes, "normal, depth, albedo, shading of rendered rooms; trained on exact maps")
    register_teacher("retinex", retinex, "albedo, shading of photographs by colour Retinex; classical, no weights")


_register_builtin()

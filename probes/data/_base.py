"""Where the images of an image-driven generator come from, and what is known about them exactly."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from generators._names import unknown


class Data(ABC):
    """Numbered images, some with exact maps beside them.

    Attributes:
        name: how it is asked for: a registered name, or a folder's path
        world: what the images show, which decides the default teacher: "scenes" or "photographs"
        count: how many there are; None for no end
        exact: intrinsics whose exact map is known for every image
    """

    name: str
    world: str
    count: int | None = None
    exact: tuple[str, ...] = ()

    @abstractmethod
    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """float [N, 3, size, size] in [-1, 1]."""

    def truth(self, indices: Sequence[int], size: int, intrinsic: str) -> Tensor:
        """The exact physical map [N, C, size, size] (see `probes._intrinsics`) of an intrinsic in `exact`."""
        raise NotImplementedError(f"data: {self.name} knows no exact {intrinsic}")

    def options(self, intrinsic: str) -> dict:
        """Options of the intrinsic's encoding that the exact maps need: for depth, `near` and `far`."""
        return {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when an image does."""

    @property
    def first_training_index(self) -> int:
        """Images before this one are held out for evaluation: a fifth, or a million where there is no end."""
        return 1_000_000 if self.count is None else max(1, self.count // 5)

    def training(self, most: int) -> range:
        """The first images that are not held out, by number: `most`, or what there is."""
        first = self.first_training_index
        return range(first, first + (most if self.count is None else min(most, self.count - first)))

    def check(self, indices: Iterable[int]) -> None:
        """Raises ValueError where there is no image of some number: negative ones do not count from the end."""
        wrong = next((i for i in indices if i < 0 or (self.count is not None and i >= self.count)), None)
        if wrong is not None:
            there = "from 0 on, without end" if self.count is None else f"0 … {self.count - 1}"
            raise ValueError(f"seeds: there is no image {wrong} in data {self.name}; its images are numbered {there}")


_FACTORIES: dict[str, Callable[[], Data]] = {}
_ABOUT: dict[str, str] = {}


def register_data(name: str, factory: Callable[[], Data], about: str = "") -> None:
    """Makes images known by a name; `factory()` builds them when they are first used."""
    if name in _FACTORIES:
        raise ValueError(f"data: {name!r} is already registered")
    _FACTORIES[name], _ABOUT[name] = factory, about


def get_data(data: str | Path | Data) -> Data:
    """By name, by the path of a folder of images, or the data itself. Raises UnknownNameError with the nearest names."""
    if isinstance(data, Data):
        return data
    if str(data) in _FACTORIES:
        return _FACTORIES[str(data)]()
    if Path(data).is_dir():
        from ._folder import ImageFolder

        return ImageFolder(data)
    raise unknown("data", str(data), _FACTORIES, "`probes list data`, or the path of a folder of images")


def known_data() -> dict[str, str]:
    """{name: one line about it} of all that is registered."""
    return dict(_ABOUT)


def default_data(world: str) -> str:
    """What `data="auto"` means for a generator of a world. Raises ValueError if there is nothing."""
    if world != "scenes":
        raise ValueError(f"data: a generator that maps images of {world} needs some; give the path of a folder with --data")
    return "scenes"


def _scenes() -> Data:
    from ._scenes import Scenes

    return Scenes()


register_data("scenes", _scenes, "rendered rooms with exact normal, depth, albedo, shading; without end")

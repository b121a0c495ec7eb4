"""Where the images of an image-driven generator come from, and what is known about them exactly."""
from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from generators._names import unknown

from ._options import decoded, named, place_of
from ._sample import Sample

LEAST = 10      # images that a fit can be made of


class Data(ABC):
    """Numbered images, some with exact maps beside them.

    Attributes:
        name: what `get_data` finds it by: a registered name, or KIND:PATH,OPTION=VALUE,…
        world: what the images show, which decides the default teacher: "scenes" or "photographs"
        count: how many there are; None for no end
        exact: intrinsics whose map is known for every image
        masked: whether those maps may have holes: NaN where there is no value
        made_by: the teacher whose word the maps are, where they are no measurement
        size: of the shorter side at which `sample` gives its images; None where they differ
    """

    name: str
    world: str
    count: int | None = None
    exact: tuple[str, ...] = ()
    masked: bool = False
    made_by: str = ""
    size: int | None = None

    @abstractmethod
    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """float [N, 3, size, size] in [-1, 1]."""

    def truth(self, indices: Sequence[int], size: int, intrinsic: str) -> Tensor:
        """The exact physical map [N, C, size, size] (see `probes._intrinsics`) of an intrinsic in `exact`."""
        self.require((intrinsic,))
        raise NotImplementedError(f"data: {type(self).__name__} must define truth for {intrinsic}, or not name it in exact")

    def require(self, intrinsics: Iterable[str]) -> None:
        """Raises ValueError where the map of some intrinsic is not known."""
        wrong = next((name for name in intrinsics if name not in self.exact), None)
        if wrong is not None:
            known = f"it knows {', '.join(self.exact)}" if self.exact else "it knows images only"
            raise ValueError(f"data: {self.name} has no map of {wrong}; {known}")

    def sample(self, index: int, intrinsics: Sequence[str] = ()) -> Sample:
        """One image at its own size with these of its maps; by default square, of side `size`."""
        if self.size is None:
            raise NotImplementedError(f"data: {type(self).__name__} must define sample, or say its size")
        maps = {name: self.truth([index], self.size, name)[0] for name in intrinsics}
        return Sample(self.sample_name(index), self.images([index], self.size)[0], maps)

    def sample_name(self, index: int) -> str:
        """What an image is called in tables and files, unique within this data."""
        return f"{index:06d}"

    def group(self, index: int) -> str:
        """What an image must not be parted from, a scan or a scene: a group is held out as a whole, or not at all."""
        return self.sample_name(index)

    def options(self, intrinsic: str) -> dict:
        """Options of the intrinsic's encoding that the exact maps need: for depth, `near` and `far`."""
        return {}

    def meaning(self, intrinsic: str) -> str:
        """What its depth is: "metric" (metres), "relative" (up to a scale and a shift) or "disparity" (inverse depth,
        likewise); "" for other intrinsics."""
        return "metric" if intrinsic == "depth" else ""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when an image does."""

    @property
    def first_training_index(self) -> int:
        """Images before this one are held out for evaluation: about a fifth, in whole groups; a million where there is no
        end."""
        return 1_000_000 if self.count is None else max(1, self.count // 5)

    def check_training(self) -> None:
        """Raises ValueError where there are too few images to fit a probe on, and to score it by others."""
        if self.count is not None and (self.count < LEAST or self.count <= self.first_training_index):
            raise ValueError(f"data: {self.name} holds {self.count} image{'s' * (self.count != 1)}; a probe needs at least "
                             f"{LEAST}, a fifth of which are held out to score it")

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


@dataclass(frozen=True)
class Reader:
    """A layout of files that images come in.

    Args:
        open: (path, **options) -> Data; options are the keyword arguments that may follow the path. Data that does not name
            itself is named KIND:PATH,OPTION=VALUE,…, as it was asked for
        about: one line
        recognises: whether what lies at a path is of this layout
    """

    open: Callable[..., Data]
    about: str
    recognises: Callable[[Path], bool]


_FACTORIES: dict[str, Callable[[], Data]] = {}
_ABOUT: dict[str, str] = {}
_READERS: dict[str, Reader] = {}


def register_data(name: str, factory: Callable[[], Data], about: str = "") -> None:
    """Makes images known by a name; `factory()` builds them when they are first used."""
    if name in _FACTORIES:
        raise ValueError(f"data: {name!r} is already registered")
    _FACTORIES[name], _ABOUT[name] = factory, about


def register_reader(kind: str, reader: Reader) -> None:
    """Makes a layout known, for KIND:PATH and, where it recognises itself, for PATH alone; the first registered that does so
    reads it."""
    if kind in _READERS:
        raise ValueError(f"data: the layout {kind!r} is already registered")
    _READERS[kind] = reader


def get_data(data: str | Path | Data) -> Data:
    """Images, from what a user writes.

    Args:
        data: the images themselves; a registered name; the path of a folder or file, whose layout is recognised; or
            KIND:PATH,OPTION=VALUE,… where the layout shall not be guessed, or has options: diode:/data/diode,split=val.
            A comma within a path or a value is written %2C, and %, if need be, %25

    Raises UnknownNameError with the nearest names, ValueError for a path that does not exist and for options that the layout
    does not have.
    """
    if isinstance(data, Data):
        return data
    text = str(data)
    if text in _FACTORIES:
        return _FACTORIES[text]()
    kind, colon, rest = text.partition(":")
    if colon and kind in _READERS:
        return _opened(kind, rest)
    path = Path(text).expanduser()
    if not text or not path.exists():                           # PATH,OPTION=VALUE with the layout recognised
        path = place_of(_there(text.partition(",")[0], text))
    if path.exists():
        kind = layout_of(path)
        if kind is None:
            raise ValueError(f"data: {path} is of no layout known here ({', '.join(_READERS)}); `probes list data` tells what "
                             "each looks like")
        return _opened(kind, text)
    if "/" in text or text.startswith((".", "~")):
        hub = f", or hf:{text} for a dataset of the Hugging Face hub" if not text.startswith((".", "~", "/")) else ""
        raise ValueError(f"data: there is no {path.resolve()}; check the path{hub}")
    raise unknown("data", text, [*_FACTORIES, *(f"{kind}:PATH" for kind in _READERS), "the path of a folder or file"])


def layout_of(path: Path) -> str | None:
    """The kind of the first layout that recognises what lies at a path."""
    return next((kind for kind, reader in _READERS.items() if reader.recognises(path)), None)


def _opened(kind: str, text: str) -> Data:
    path, *pairs = [text] if Path(text).expanduser().exists() else text.split(",")
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise ValueError(f"data: expected OPTION=VALUE behind the path of {kind}:{path}, got {wrong!r}; for instance "
                         f"{kind}:{path},split=val (a comma within a path is written %2C)")
    options = {key: decoded(value) for key, value in (pair.split("=", 1) for pair in pairs)}
    known = list(inspect.signature(_READERS[kind].open).parameters)[1:]
    if unknown_ones := sorted(set(options) - set(known)):
        raise unknown(f"data: {kind}", unknown_ones[0], known)
    place = place_of(_there(path, f"{kind}:{text}"))
    opened = _READERS[kind].open(place, **options)
    if not getattr(opened, "name", ""):
        opened.name = named(kind, place.resolve() if place.exists() else path, **options)
    return opened


def _there(path: str, text: str) -> str:
    if not path:
        raise ValueError(f"data: the path in {text!r} is empty; expected a folder or a file; the current folder is '.'")
    return path


def known_data() -> dict[str, str]:
    """{name: one line about it} of all that is registered, layouts as KIND:PATH."""
    return {**_ABOUT, **{f"{kind}:PATH": reader.about for kind, reader in _READERS.items()}}


def default_data(world: str) -> str:
    """What `data="auto"` means for a generator of a world. Raises ValueError if there is nothing."""
    if world != "scenes":
        raise ValueError(f"data: a generator that maps images of {world} needs some; give the path of a folder with --data")
    return "scenes"


def _scenes() -> Data:
    from ._scenes import Scenes

    return Scenes()


register_data("scenes", _scenes, "rendered rooms with exact normal, depth, albedo, shading; without end")

"""The teacher interface; and two that are none: the truth, and nobody knows who."""
from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import Data

EXACT = "exact"


class Teacher(ABC):
    """Labels images with intrinsic maps.

    Attributes:
        name, version, licence: kept in every record of a result
        source: the paper or page that describes it
        intrinsics: names of the intrinsics it can label
        worlds: what its images may show ("scenes", "photographs")
        resolution: of the shorter side at which it looks at an image, whatever the image's own; None: at its own
        batch: images that it is best given at once
        masked: whether its maps may have holes, NaN; a teacher that looks at images always has an answer
    """

    name: str
    version: str
    licence: str
    intrinsics: tuple[str, ...]
    worlds: tuple[str, ...]
    source: str = ""
    resolution: int | None = None
    batch: int = 8
    masked: bool = False

    @abstractmethod
    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        """image: float [N, 3, H, W] in [-1, 1] -> physical map [N, C, H, W] of that size (see `probes._intrinsics`); normals
        in our frame, unit length."""

    def label_indexed(self, image: Tensor, intrinsic: str, indices: Sequence[int]) -> Tensor:
        """`label`, for a teacher that knows the images by their number rather than by looking."""
        return self.label(image, intrinsic)

    def options(self, intrinsic: str) -> dict:
        """Options of the intrinsic's encoding that suit this teacher: for metric depth `near` and `far`, for another the
        `encoding`."""
        return {}

    def meaning(self, intrinsic: str) -> str:
        """What its depth is: "metric", "relative" (up to a scale and a shift) or "disparity" (inverse depth, likewise); "" for
        other intrinsics."""
        return "metric" if intrinsic == "depth" else ""

    def exact_errors(self, intrinsic: str) -> dict[str, float | str] | None:
        """Its own error against exact ground truth, {what: value}, with remarks on where that was measured as text; None where
        nobody has measured it."""
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
        if data.made_by:
            raise ValueError(f"teacher: the maps of {data.name} are the word of {data.made_by}, not the truth; to be taught by "
                             "them, give teacher='labels:FOLDER' with their folder")
        self.data, self.intrinsics, self.worlds = data, data.exact, (data.world,)
        self.version, self.masked = data.fingerprint[:8], data.masked

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        raise TypeError("teacher: the exact maps go by an image's number, not by its pixels; use label_indexed")

    def label_indexed(self, image: Tensor, intrinsic: str, indices: Sequence[int]) -> Tensor:
        return self.data.truth(indices, image.shape[-1], intrinsic)

    def options(self, intrinsic: str) -> dict:
        return self.data.options(intrinsic)

    def meaning(self, intrinsic: str) -> str:
        return self.data.meaning(intrinsic)

    def exact_errors(self, intrinsic: str) -> dict[str, float]:
        return {}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"exact {self.data.fingerprint}".encode()).hexdigest()


UNSAID = ("teacher: this probe came as a LoRA file, which does not say what taught it; name a teacher and data to compare "
           "with when importing it")


class Unsaid(Teacher):
    """Stands for the teacher of an adapter that came without its story."""

    name, version, licence, intrinsics, worlds = "unsaid", "", "", (), ()

    def label(self, image: Tensor, intrinsic: str) -> Tensor:
        raise ValueError(UNSAID)

"""What teachers with a network share: it is loaded when the first image comes, and its files are what identifies its labels.

A name may carry options as a web address does: `zoedepth:Intel/zoedepth-nyu?flip=false&revision=main`.
"""
from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators._names import unknown

from .. import _depth
from ._base import Teacher

MEANINGS = tuple(dict.fromkeys(_depth.MEANINGS.values()))
# How depth that is not metric is encoded, by its meaning.
ENCODINGS = {"relative": dict(encoding="percentile"), "disparity": dict(encoding="inverse")}
LARGEST = 4096      # pixels along a side: no teacher looks closer, and much more fits no memory
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NetworkTeacher(Teacher):
    """A teacher whose maps a network makes.

    Args:
        name: kept in every record of a result
        options: whatever decides the labels beside the files
        dtype: of weights and activations: "float32", "bfloat16" or "float16"; maps are float32 in any case

    Attributes:
        kind: what stands before the colon of a name: "transformers"
        choices: {option: type} that may stand behind the question mark

    Labels of an image do not depend on the images beside it in a batch, but for rounding.
    """

    worlds = ("photographs",)
    kind: ClassVar[str]
    choices: ClassVar[Mapping[str, type]] = {}

    def __init__(self, name: str, options: Mapping[str, Any], dtype: str = "float32"):
        if dtype not in DTYPES:
            raise unknown("teacher: dtype", dtype, DTYPES)
        self.name, self.kept_options, self.dtype = name, {**options, "dtype": dtype}, DTYPES[dtype]
        self.device = torch.device("cpu")
        self._networks: dict[str, nn.Module] = {}

    @classmethod
    def from_argument(cls, argument: str) -> NetworkTeacher:
        """The teacher called KIND:ARGUMENT, where ARGUMENT is a place and perhaps options behind a question mark. A place on
        this machine is in its name with its whole path, so that the name is good in any folder.

        Raises as `split_options` and the teacher itself do.
        """
        given, options = split_options(argument, cls.choices)
        where = located(given)
        return cls(where, name=f"{cls.kind}:{where}{argument[len(given):]}", **options)

    def _check(self, intrinsic: str) -> None:
        """Raises ValueError for what it does not predict."""
        if intrinsic not in self.intrinsics:
            raise ValueError(f"intrinsic: {self.name} predicts {' and '.join(self.intrinsics)}, not {intrinsic}")

    @abstractmethod
    def _load(self, which: str) -> nn.Module:
        """The network, on the CPU; `which` is told by those teachers that have several."""

    @abstractmethod
    def _digests(self) -> dict[str, str]:
        """{file: sha256} of what was read."""

    def network(self, which: str = "") -> nn.Module:
        """Loads it when it is first asked for."""
        if which not in self._networks:
            self._networks[which] = self._load(which).requires_grad_(False).eval().to(self.device, self.dtype)
        return self._networks[which]

    @property
    def fingerprint(self) -> str:
        """Over the kind of teacher, its options and the content of its files, wherever they lie."""
        told = dict(kind=type(self).__name__, options=self.kept_options, files=self._digests())
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def to(self, device: str | torch.device) -> NetworkTeacher:
        self.device = torch.device(device)
        for network in self._networks.values():
            network.to(self.device)
        return self


def unit_image(image: Tensor, device: torch.device) -> Tensor:
    """[-1, 1] -> [0, 1] in float32."""
    return (image.to(device, torch.float32).clamp(-1, 1) + 1) / 2


def resized(x: Tensor, size: tuple[int, int], enlarge: str = "bicubic") -> Tensor:
    """[N, C, h, w] -> [N, C, *size]: averaging where it shrinks, `enlarge` where it grows, within the values there were."""
    if x.shape[-2:] == size:
        return x
    if size[0] < x.shape[-2] or size[1] < x.shape[-1]:
        return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return F.interpolate(x, size, mode=enlarge, align_corners=False).clamp(low, high)


def unit_normals(x: Tensor) -> Tensor:
    """[N, 3, H, W] -> unit length; where there is no direction at all, towards the viewer."""
    length = x.norm(dim=1, keepdim=True)
    towards = x.new_tensor([0.0, 0.0, -1.0])[:, None, None]
    return torch.where(length > 1e-4, x / length.clamp_min(1e-4), towards)


def located(where: str | os.PathLike) -> str:
    """A file or folder by its whole path; anything else, such as an id on the hub, as it is."""
    path = os.path.expanduser(where)
    return os.path.abspath(path) if os.path.exists(path) else str(where)


def whole(name: str, value: Any, low: int, high: int, source: str = "teacher: ") -> int:
    """`value`, or a ValueError where it is no whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{source}{name}={value!r:.60}, expected a whole number from {low} to {high}")
    return value


def split_options(argument: str, allowed: Mapping[str, type]) -> tuple[str, dict[str, Any]]:
    """`PATH?flip=false&steps=4` -> ("PATH", {"flip": False, "steps": 4}); a path that exists is taken as it is.

    Raises UnknownNameError for options that are not in `allowed`, ValueError for values that are not of its type.
    """
    path, mark, query = argument.rpartition("?")
    if not mark or os.path.exists(os.path.expanduser(argument)):
        return argument, {}
    options = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in allowed:
            raise unknown("teacher: option", key, allowed)
        options[key] = _typed(key, value, allowed[key])
    return path, options


def _typed(key: str, value: str, kind: type) -> Any:
    if kind is bool and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    try:
        if kind is not bool:
            return kind(value)
    except ValueError:
        pass
    expected = "true or false" if kind is bool else {int: "a whole number", float: "a number"}.get(kind, "a word")
    raise ValueError(f"teacher: option {key}={value!r:.60}, expected {expected}")

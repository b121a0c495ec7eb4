"""The families of generators: which package reads, builds and publishes which. A new family is a package and a line here.

A package has `GENERATOR`, the class; `build(name, checkpoint, **options)`, which makes one; `_format.py`, the names and
shapes of its weights and how foreign weights become its own; and `_public.py`, the checkpoints that others publish.
Where they lie on a hub, `_public.py` also has `resolved(entry, revision, variant) -> path`, and where that knows more of them,
`hub(name, revision, variant) -> path`, or None for what is no name there. A family with file formats of its own has
`_reader.py` and a line in `READERS`: `reads(path) -> bool` and `read(path, config) -> Checkpoint`, with a third argument,
`variant`, where a checkpoint may hold several sets of weights.
"""
from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

PACKAGES = {"stylegan2": "stylegan2", "stylegan3": "stylegan_xl", "stylegan-xl": "stylegan_xl", "vqgan": "vqgan",
            "stable-diffusion": "stable_diffusion"}

# Which formats a package's reader may know. Asked in this order: taming's files say least of themselves, so VQGAN, the last,
# takes what nobody else knows.
READERS = {"stable_diffusion": ("folder", "safetensors", "torch"), "vqgan": ("folder", "torch")}


def package(family: str, part: str = "") -> ModuleType:
    """The package of a family, or one of its modules; imported when it is first asked for."""
    return import_module(f".{PACKAGES[family]}{part}", __package__)


def published() -> Iterator[ModuleType]:
    """The `_public.py` of every package, in the order of `PACKAGES`."""
    return (import_module(f".{name}._public", __package__) for name in dict.fromkeys(PACKAGES.values()))


def readers(kind: str) -> Iterator[ModuleType]:
    """The readers to ask about a file of this format, "folder", "safetensors" or "torch"; imported when their turn comes."""
    return (import_module(f".{name}._reader", __package__) for name, kinds in READERS.items() if kind in kinds)

"""The families of generators: which package reads, builds and publishes which. A new family is a package and a line here.

A package has `GENERATOR`, the class; `build(name, checkpoint, **options)`, which makes one; `_format.py`, the names and
shapes of its weights and how foreign weights become its own; and `_public.py`, the checkpoints that others publish.
"""
from __future__ import annotations

from importlib import import_module
from types import ModuleType

PACKAGES = {"stylegan2": "stylegan2", "stylegan3": "stylegan_xl", "stylegan-xl": "stylegan_xl", "vqgan": "vqgan",
            "stable-diffusion": "stable_diffusion"}


def package(family: str, part: str = "") -> ModuleType:
    """The package of a family, or one of its modules; imported when it is first asked for."""
    return import_module(f".{PACKAGES[family]}{part}", __package__)

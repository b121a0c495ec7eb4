"""What a study is: one question, a grid of fits, and a plot, a page and a verdict made from their rows alone.

    class Rank(Study):
        name, question = "rank", "How small may the adapter be?"
        def cells(self, small): return [Cell(dict(generator="stylegan2-scenes", rank=r)) for r in (1, 2, 4, 8)]
        ...

A Cell is one call of `probes.fit`. Its key is a digest of what it asks for, so that a row that is there already is known by
it, in whatever order and on whatever machine the fits run.
"""
from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import signature
from typing import Any

import adapters

from . import _page
from ._verdict import Asked, Verdict, judge

Row = dict[str, Any]

PAPER = "arXiv 2311.17137"
# Of a --small study: minutes for all of its fits together. A U-Net learns more slowly.
SMALL = dict(samples=96, steps=60, evaluate=32)
SMALL_DIFFUSION = dict(SMALL, steps=150)
_TRUNK = ("random", "crossed")
# The embedded StyleGAN2 that studies are about: a fit on it takes a fifth of the final level's time, and its kept rows hold
# whatever the final level is.
STYLEGAN2 = "stylegan2-scenes@760k"


class StudyError(ValueError):
    """A study cannot be run as asked, or its folder holds something else; nothing in the folder was changed."""


@dataclass(frozen=True)
class Cell:
    """One fit of a grid.

    Args:
        fit: arguments of `probes.fit`, plain JSON types
        tags: further columns of its row, by which `--only` may choose too
        sampled_by: those of its generator's options that say how it is sampled: cells that differ in these alone are one fit,
            scored several times
    """

    fit: Mapping[str, Any]
    tags: Mapping[str, Any] = field(default_factory=dict)
    sampled_by: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON of fit and tags."""
        return _digest([dict(self.fit), dict(self.tags)])

    @property
    def measured(self) -> str:
        """The same for cells that are one fit, whatever they are called, whichever controls stand beside it, and whether its
        defaults are said or not."""
        said = {k: v for k, v in self.fit.items() if k != "controls" and v not in (None, defaults().get(k))}
        return _digest([said])

    @property
    def place(self) -> str:
        """The name of the folder in which its fit lies: the key, or of cells that share a fit one for all of them."""
        if not self.sampled_by:
            return self.key
        options = {k: v for k, v in self.fit.get("generator_options", {}).items() if k not in self.sampled_by}
        return _digest([{**self.fit, "generator_options": options}, "shared"])

    @property
    def labels(self) -> dict[str, Any]:
        """What `--only` may ask for."""
        plain = {k: v for k, v in self.fit.items() if isinstance(v, (str, int, float, bool))}
        return {**plain, **self.tags}

    def with_options(self, options: Mapping[str, Any]) -> Cell:
        """The cell with further arguments of `fit`, which win; dictionaries among them are merged, and how to train is not
        said to a method that trains nothing."""
        merged = dict(self.fit)
        for name, value in options.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
            merged[name] = {**merged[name], **value} if both else value
        method = adapters.methods().get(merged.get("method", "lora"))
        if method and not method.trained:
            merged = {k: v for k, v in merged.items() if k not in ("steps", "learning_rate")}
        return replace(self, fit=merged)

    def at_seed(self, seed: int) -> Cell:
        """The cell with this seed; control networks, of the generator or of a method, are drawn from the same one."""
        fit = {**self.fit, "seed": seed}
        if fit.get("weights") in _TRUNK:
            fit["weights"] = f"{fit['weights']}:{seed}"
        if fit.get("method_options", {}).get("weights") == "random":
            fit["method_options"] = {**fit["method_options"], "weights": f"random:{seed}"}
        return replace(self, fit=fit)


@cache
def defaults() -> dict[str, Any]:
    """Of the arguments of `probes.fit` that a cell may leave out."""
    from .._fit import fit

    return {name: p.default for name, p in signature(fit).parameters.items()} | {"rank": 8}


def _digest(about: list) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Study(ABC):
    """A question and how it is put to the embedded generators.

    Attributes:
        name: `probes study NAME`
        question: one sentence
        finding: what the paper reports, in our words, with its place
        rule: when the verdict is "reproduced"
        version: raised when the grid or the meaning of a row changes; folders of another version are refused
        tags: columns of its rows beside those that every study has
        seeds: of each cell, where the caller does not say: (small, full)
        as_a_whole: an incomplete grid cannot refute the rule either
        isolated: every fit in a process of its own, so that its peak memory is its own
    """

    name: str
    question: str
    finding: str
    rule: str
    version: int = 1
    tags: tuple[str, ...] = ()
    seeds: tuple[int, int] = (1, 3)
    as_a_whole: bool = False
    isolated: bool = False

    @abstractmethod
    def cells(self, small: bool) -> list[Cell]:
        """The grid, without seeds. `small` is for minutes instead of hours."""

    @abstractmethod
    def plot(self, rows: Sequence[Row]) -> bytes:
        """A PNG of finished rows, readable at a phone's width."""

    @abstractmethod
    def verdict(self, rows: Sequence[Row]) -> Verdict:
        """By `rule`, from finished rows; "not testable here" where they do not suffice."""

    @abstractmethod
    def tables(self, rows: Sequence[Row]) -> str:
        """Markdown tables of what was measured, with intervals."""

    def page(self, rows: Sequence[Row], asked: Asked | None = None) -> str:
        """The study's README.md: question, finding, verdict, plot, tables, how it was made. `asked` says of which grid."""
        done = finished(rows)
        return _page.compose(self, rows, done, judge(self, done, asked), asked)


def finished(rows: Sequence[Row]) -> list[Row]:
    """Rows whose fit ended and has a finite skill, in an order that does not depend on which fit ended first."""
    def known(skill: Any) -> bool:
        return isinstance(skill, (int, float)) and math.isfinite(skill)

    return sorted((r for r in rows if r["status"] == "ok" and known(r["skill"])), key=lambda r: r["key"])

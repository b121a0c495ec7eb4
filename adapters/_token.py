"""Asking in words: a learnt prompt (textual inversion: Gal et al. 2022, arXiv 2208.01618), and the prompt alone.

A model that reads text may be asked for an intrinsic without any weight being touched. `token` learns the embeddings of words
that no vocabulary has, as they enter the frozen text encoder, and `prompt` learns nothing: what the words "surface normal" call
up by themselves is what every other method on such a model starts from.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from generators import Generator

from ._base import Adapter


class Prompt(Adapter):
    """The prompt and nothing else; no parameters, no training. Raises ValueError for a generator that reads no text."""

    method = "prompt"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None):
        super().__init__(generator, name, prompt)
        if not generator.reads_text:
            raise ValueError(f"method: {self.method} asks in words, and {generator.name} reads no text; choose another method")

    def parameters(self) -> dict[str, nn.Parameter]:
        return {}


class Token(Prompt):
    """k word vectors, which start as the prompt's own words, in turn.

    Args:
        tokens: k
        place: "behind" the prompt's words, or "instead" of them

    Raises ValueError for a generator that reads no text, for options out of range, and where prompt and vectors are more than
    its text encoder holds.
    """

    method = "token"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, tokens: int = 4, place: str = "instead"):
        super().__init__(generator, name, prompt)
        if place not in ("instead", "behind"):
            raise ValueError(f"place: expected 'instead' of the prompt's words, or 'behind' them, got {place!r}")
        self._learn(prompt or "", tokens, place)
        self._options = dict(tokens=tokens, place=place)

    def _learn(self, text: str, tokens: int | None, place: str) -> None:
        """Makes the vectors, of the words of `text` in turn: `tokens` of them, or where that is None one a word."""
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise ValueError(f"tokens: expected a number of vectors of at least 1, got {tokens!r}")
        words = self.generator.words(text)
        if not len(words):
            raise ValueError("prompt: the vectors start as the words of a prompt, and this one has none; pass prompt='…'")
        start = words[torch.arange(len(words) if tokens is None else tokens) % len(words)].clone()
        self._vectors, self._where = nn.Parameter(start.to(self.generator.device), requires_grad=False), place
        with self._applied(), torch.no_grad():
            self.generator.context(1)           # which says where they are too many

    @property
    def options(self) -> dict:
        return dict(self._options)

    def parameters(self) -> dict[str, nn.Parameter]:
        """tokens: [k, D], as they enter the text encoder."""
        return {"tokens": self._vectors}

    @contextmanager
    def _applied(self) -> Iterator[None]:
        with self.generator.prompted(self.prompt, self._vectors, self._where == "instead"):
            yield

"""The methods by name: what `probes fit --method` may be, which arguments mean something to each, and how each is built.

A method beside these is a subclass of `Adapter` and one `register_method`.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from generators import Generator
from generators._names import unknown

from ._base import Adapter, living
from ._edit import Edit, Visii
from ._full import Full
from ._linear import Linear
from ._lora import attach
from ._offset import Offset
from ._pixels import Pixels
from ._sdedit import SDEdit
from ._token import Prompt, Token


@dataclass(frozen=True)
class Method:
    """One kind of adapter.

    Args:
        name: as `--method` takes it
        description: in a line
        build: called with (generator, name, prompt=…), those of `shared` and the method's options
        options: the names of its own options
        shared: which of scope, rank, alpha, sites and seed mean something to it
        learning_rate: Adam's at its peak, where none is given
        relative: that number is a multiple of the rate that the generator recommends for its LoRA
        trained: whether there is anything to train
    """

    name: str
    description: str
    build: Callable[..., Adapter]
    options: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    learning_rate: float = 1.0
    relative: bool = True
    trained: bool = True

    def rate(self, recommended: float) -> float:
        """The learning rate where none is given, for a generator that recommends `recommended` for its LoRA."""
        return float(f"{self.learning_rate * (recommended if self.relative else 1.0):.6g}") if self.trained else 0.0


_SITED = ("scope", "rank", "sites", "seed")
_METHODS: dict[str, Method] = {}


def register_method(method: Method) -> None:
    """Adds a method. Raises ValueError for a name in use."""
    if method.name in _METHODS:
        raise ValueError(f"method: {method.name!r} is registered already; choose another name")
    _METHODS[method.name] = method


def methods() -> dict[str, Method]:
    """All methods, by name."""
    return dict(_METHODS)


def get_method(name: str) -> Method:
    """Raises UnknownNameError for a method that nobody registered."""
    if name not in _METHODS:
        raise unknown("method", name, _METHODS, "probes list methods")
    return _METHODS[name]


def check_method(name: str, options: dict[str, Any] | None, given: dict[str, Any]) -> Method:
    """The method, if it has these options and all that is given means something to it.

    Args:
        name: of the method
        options: `method_options` of a fit
        given: arguments of a fit that only some methods have (rank, alpha, scope), None where they were left out

    Raises UnknownNameError for a method or an option that does not exist, ValueError for an argument that says nothing to it.
    """
    method = get_method(name)
    for option in options or {}:
        if option not in method.options:
            if not method.options:
                raise ValueError(f"method_options: {name} has none, got {option!r}; leave them out")
            raise unknown("method_options", option, method.options)
    for argument, value in given.items():
        if value is not None and argument not in method.shared:
            takers = ", ".join(m.name for m in _METHODS.values() if argument in m.shared)
            raise ValueError(f"{argument}: method {name!r} has no {argument}; leave it out (it means something to {takers})")
    return method


def build(method: str, generator: Generator, name: str, prompt: str | None = None, options: dict[str, Any] | None = None,
          **shared: Any) -> Adapter:
    """Puts a fresh adapter on a generator. It changes nothing until it is active.

    Args:
        method: from `methods`
        generator: what it goes on
        name: of the adapter; each on a generator needs its own
        prompt: what a generator that reads text is told while the adapter is active
        options: the method's own
        shared: scope, rank, alpha, sites, seed: those that mean nothing to the method, or are None, are passed over

    Raises UnknownNameError and ValueError for what `check_method` refuses, and for values that the method cannot have.
    """
    found = check_method(method, options, {})
    own = {k: v for k, v in shared.items() if k in found.shared and v is not None}
    before = living(generator)
    try:
        return found.build(generator, name, prompt=prompt, **own, **(options or {}))
    except BaseException:               # a traceback that somebody keeps would keep what is half made, and its name
        for half in living(generator) - before:
            Adapter.remove(half)
        raise


def _own_options(kind: Callable) -> tuple[str, ...]:
    """The parameters of a builder that are neither shared nor every adapter's."""
    general = ("self", "generator", "name", "prompt", "scope", "rank", "alpha", "sites", "seed")
    return tuple(p for p in inspect.signature(kind).parameters if p not in general)


def _register(name: str, description: str, kind: Callable, shared: tuple[str, ...] = (), **about: Any) -> None:
    register_method(Method(name, description, kind, _own_options(kind), shared, **about))


# Learning rates, by a grid on stylegan2-scenes@760k (normals, 1024 pairs, 600 steps, seed 0): full 0.0003 … 0.003, offset
# 0.01 … 1, pixels 0.003 … 0.03; with 512 pairs and 300 steps linear 0.001 … 0.01, encoder 0.001 … 0.03. The best of each, but
# of offset, where 1 is hardly better than 0.3: a latent that is moved by its own size. Full's is a multiple of LoRA's, which
# is 0.01 there.
_register("lora", "low-rank update of the sites' weights (PEFT)", attach, (*_SITED, "alpha"))
_register("full", "every weight of the part that draws the picture", Full, learning_rate=0.3)
_register("linear", "a linear map of the frozen features (layers: all, or one by name or number)", Linear,
          learning_rate=0.003, relative=False)
_register("offset", "one vector added to the latent code (per_layer, per_position)", Offset, learning_rate=0.3, relative=False)
_register("token", "word vectors instead of the prompt's, or behind them (tokens, place)", Token, learning_rate=0.01,
          relative=False)
_register("prompt", "the prompt alone: nothing is trained", Prompt, trained=False)
_register("sdedit", "the image half drowned in noise and denoised as the prompt says (strength, steps, guidance): nothing is "
          "trained", SDEdit, trained=False)
_register("edit", "what an InstructPix2Pix makes of the image when told to (instruction, guidance, image_guidance): nothing is "
          "trained", Edit, trained=False)
_register("visii", "a learnt instruction for an InstructPix2Pix (instruction, tokens)", Visii, learning_rate=0.001,
          relative=False)
_register("pixels", "a convolutional network on the generator's output, of the LoRA's size: what the picture shows", Pixels,
          _SITED, learning_rate=0.01, relative=False)

"""What a fit was asked for: the arguments that decide its result, checked."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adapters
from generators import Generator
from generators._names import unknown

from ._controls import CLOSED_FORM, TRAINED

_LATER = ("mixed_precision", "method_options", "shuffled")     # left out where they say nothing, as before there were any
CHECKPOINTS = (".safetensors", ".pickle", ".pkl", ".ckpt", ".bin", ".pt")


@dataclass(frozen=True)
class Settings:
    """The arguments of `fit` that decide its result."""

    generator: str
    intrinsic: str
    teacher: str
    method: str
    rank: int | None
    alpha: float | None
    scope: str | None
    weights: str
    samples: int
    steps: int
    batch: int
    learning_rate: float
    evaluate: int
    controls: list[str]
    seed: int
    classes: list[int] | None = None
    generator_options: dict = field(default_factory=dict)
    data: str | None = None
    prompt: str | None = None
    against: str | None = None
    mixed_precision: str | None = None
    method_options: dict = field(default_factory=dict)
    shuffled: bool = False

    def as_dict(self) -> dict:
        """All of them, as probe.json keeps them."""
        return {k: v for k, v in self.__dict__.items() if v or k not in _LATER}

    def of_the_weights(self, generator: Generator) -> dict:
        """Those that the fitted weights depend on: all but how they are scored, and those options of the generator that it has
        as `sampled_by` or `costs`."""
        about = dict(self.as_dict(), mixed_precision=self.mixed_precision,
                     generator_options=learnt_with(self.generator_options, generator))
        return {k: v for k, v in about.items() if k not in ("evaluate", "controls", "against")}


def learnt_with(options: dict, generator: Generator) -> dict:
    """Those options of a generator that a fit depends on."""
    return {k: v for k, v in options.items() if k not in (*generator.sampled_by, *generator.costs)}


def check_arguments(method: str, method_options: dict[str, Any] | None, rank: int | None, alpha: float | None, scope: str,
                    controls: Sequence[str], counts: dict[str, int | None], learning_rate: float | None, evaluate: int,
                    seed: int) -> adapters.Method:
    """The method of a fit. Raises ValueError, or UnknownNameError, for arguments of `fit` that no generator could take;
    `counts` are those that are at least 1, where they are given."""
    given = dict(rank=rank, alpha=alpha, scope=None if scope == "auto" else scope)
    found = adapters.check_method(method, method_options, given)
    for name, value in dict(steps=counts["steps"], learning_rate=learning_rate).items():
        if value is not None and not found.trained:
            raise ValueError(f"{name}: method {method!r} trains nothing; leave {name} out")
    for control in controls:
        if control not in (*CLOSED_FORM, *TRAINED):
            raise unknown("controls", control, (*CLOSED_FORM, *TRAINED))
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if alpha is not None and not 0 < alpha < float("inf"):
        raise ValueError(f"alpha: expected a positive number, got {alpha}; leave it out for the rank, as in the paper")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate}; leave it out for the "
                         "generator's own")
    if counts["samples"] is not None and counts["samples"] < 10:
        raise ValueError(f"samples: expected at least 10 pairs, got {counts['samples']}; leave it out for the generator's own")
    if seed < 0:
        raise ValueError(f"seed: expected a number of at least 0, got {seed}")
    if evaluate < 0:
        raise ValueError(f"evaluate: expected a number of seeds of at least 0, got {evaluate}")
    return found


def default_folder(settings: Settings) -> Path:
    """runs/GENERATOR-INTRINSIC, with the method where it is another than LoRA and the weights where they are a control's; the
    ending of a file's name is left out."""
    tail = "" if settings.method in (None, "lora") else f"-{settings.method}"
    tail += "" if settings.weights == "pretrained" else "-" + settings.weights.replace(":", "")
    path = Path(settings.generator)          # or a name of the hub, which may end in v1.5
    name = path.stem if path.suffix.lower() in CHECKPOINTS else path.name
    return Path("runs") / f"{name}-{settings.intrinsic}{tail}"

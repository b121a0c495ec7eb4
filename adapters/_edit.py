"""Asking by instruction, on a model that was trained to edit images as it is told: in words, and in words that are learnt.

`edit` tells an InstructPix2Pix (Brooks et al. 2023, arXiv 2211.09800) "turn it into a surface normal" and trains nothing.
`visii` finds the instruction that turns images into their maps, from pairs (Visual Instruction Inversion: Nguyen et al. 2023,
arXiv 2307.14331). Both need a generator whose U-Net reads the image beside the noise because it was trained so, and both are
sampled alike, guided by the image and by the words.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from generators import Generator, State

from ._token import Prompt, Token

# Nobody wrote down with which words the paper on Intrinsic LoRA asked an editing model; these are ours.
INSTRUCTION = "turn it into a {prompt}"


class Edit(Prompt):
    """The image, edited as an instruction says.

    Args:
        instruction: in which {prompt} stands for the prompt
        steps: of DPM-Solver++
        guidance: by the instruction; 1 for none. This and the next are what diffusers' own pipeline has for defaults
        image_guidance: by the image; 1 for none
        noise_seed: of the noise that sampling starts from, which is the same for every image

    Raises ValueError for a generator that reads no text, or was not trained to edit images, and for options out of range.
    """

    method = "edit"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, instruction: str = INSTRUCTION,
                 steps: int = 25, guidance: float = 7.5, image_guidance: float = 1.5, noise_seed: int = 0):
        super().__init__(generator, name, prompt)
        sampling = dict(steps=steps, guidance=guidance, image_guidance=image_guidance, noise_seed=noise_seed)
        self._editing = _editing(self, sampling)
        self.instruction = _told(instruction, prompt)
        self._options = dict(instruction=instruction, **sampling)
        with self._applied(), torch.no_grad():
            generator.context(1)                # which says where a word is none of its vocabulary

    @property
    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def forward(self, state: State) -> Tensor:
        return self._editing.generate(self.generator, state["latent"].to(self.generator.device))

    @contextmanager
    def _applied(self) -> Iterator[None]:
        with self.generator.prompted(self.instruction):
            yield


class Visii(Token):
    """An instruction that is learnt: k word vectors, which start as the words of one in words, in turn.

    They are trained as the U-Net was: to say the noise in a noisy map whose image lies beside it, at every timestep. The paper
    adds a loss on the direction of the edit in CLIP's space of images, at 0.1 beside 4 for this one (its released
    configuration), which would need a second network that knows what images show; it is left out. The paper has one pair, or a
    few, and 1,000 steps at a learning rate of 0.001; here it is the pairs and steps of every other method.

    Args:
        instruction: where the vectors start, {prompt} standing for the prompt
        tokens: k; by default the number of the instruction's words
        steps, guidance, image_guidance, noise_seed: of sampling, as for `Edit`

    Raises ValueError as `Edit` and `Token`.
    """

    method = "visii"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, instruction: str = INSTRUCTION,
                 tokens: int | None = None, steps: int = 25, guidance: float = 7.5, image_guidance: float = 1.5,
                 noise_seed: int = 0):
        Prompt.__init__(self, generator, name, prompt)
        sampling = dict(steps=steps, guidance=guidance, image_guidance=image_guidance, noise_seed=noise_seed)
        self._editing = _editing(self, sampling)
        self.instruction = _told(instruction, prompt)
        self._learn(self.instruction, tokens, "instead")
        self._options = dict(instruction=instruction, tokens=len(self._vectors), **sampling)

    def forward(self, state: State) -> Tensor:
        return self._editing.generate(self.generator, state["latent"].to(self.generator.device))


def _editing(adapter: Prompt, sampling: dict[str, Any]) -> Any:
    """How an adapter's generator is sampled when it edits; raises ValueError where it cannot edit."""
    generator = adapter.generator
    if not hasattr(generator, "editing"):
        raise ValueError(f"method: {adapter.method} needs a model that edits images, and {generator.name} is none; give an "
                         "InstructPix2Pix, or choose another method")
    try:
        return generator.editing(**sampling)
    except ValueError as error:
        if not str(error).startswith("generator:"):
            raise
        raise ValueError(f"method: {adapter.method} needs a model that edits images. {error}") from None


def _told(instruction: str, prompt: str | None) -> str:
    if not isinstance(instruction, str) or not instruction.strip():
        raise ValueError(f"instruction: expected words, such as {INSTRUCTION!r}, got {instruction!r}")
    return instruction.replace("{prompt}", prompt or "")

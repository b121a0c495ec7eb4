"""Asking by redrawing: SDEdit (Meng et al. 2022, arXiv 2108.01073), an image half drowned in noise and denoised as a map.

The prompt says what the picture shall become, and what the noise has left of the image says where things are. Nothing is
trained, so whatever comes out is what a text-to-image model makes of the words "surface normal" by itself. It is the baseline
that everybody has at hand; but a strength that keeps the layout keeps the colours too, and a map is written in colours.
"""
from __future__ import annotations

from typing import Any

from torch import Tensor

from generators import Generator, State

from ._token import Prompt


class SDEdit(Prompt):
    """The image, redrawn as the prompt says.

    Args:
        strength: how much of the noise schedule the image goes through, 0 … 1: at 0 it stays as the autoencoder has it, at 1
            nothing of it is left
        steps: of DPM-Solver++ for the whole schedule, of which the last `strength` · `steps` are taken
        guidance: of classifier-free guidance by the prompt; 1 for none
        noise_seed: of the noise, which is the same for every image

    Raises ValueError for a generator that reads no text or cannot denoise an image by itself, and for options out of range.
    """

    method = "sdedit"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, strength: float = 0.5, steps: int = 25,
                 guidance: float = 3.0, noise_seed: int = 0):
        super().__init__(generator, name, prompt)
        if not hasattr(generator, "redrawing"):
            raise ValueError(f"method: sdedit denoises images, and {generator.name} is no diffusion model; choose another "
                             "method")
        self._options = dict(strength=strength, steps=steps, guidance=guidance, noise_seed=noise_seed)
        self._redrawing = generator.redrawing(**self._options)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def forward(self, state: State) -> Tensor:
        return self._redrawing.generate(self.generator, state["latent"].to(self.generator.device))

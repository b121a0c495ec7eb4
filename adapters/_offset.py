"""One direction of latent space for an intrinsic: G(w + d), with the same d for every picture.

"StyleGAN knows Normal, Depth, Albedo, and More" (Bhattad et al., arXiv 2306.00987) found that a fixed offset of a StyleGAN's w
per intrinsic makes it draw that intrinsic of the same scene, no weight touched. It trains a few hundred numbers, the least of
all methods that use the generator's own head.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from generators import Generator, State

from ._base import Adapter


class Offset(Adapter):
    """A vector added to the latent code of every state: w [w_dim] of a StyleGAN, a number a channel of a VQGAN's codes or of a
    Stable Diffusion's latent.

    Args:
        per_layer: an offset for every layer that reads w: [num_ws, w_dim] ("w+")
        per_position: an offset for every position of codes or latents: [C, h, w]

    Raises ValueError for a generator without a latent code that is one tensor, or for an option its code cannot have.
    """

    method = "offset"

    def __init__(self, generator: Generator, name: str, prompt: str | None = None, per_layer: bool = False,
                 per_position: bool = False):
        super().__init__(generator, name, prompt)
        self._key, self._options = generator.latent_key, dict(per_layer=per_layer, per_position=per_position)
        if self._key is None:
            raise ValueError(f"method: offset moves the latent code, and {generator.name} names no tensor of its state as that "
                             f"({type(generator).__name__}.latent_key); choose another method")
        shape = generator.example()[self._key].shape[1:]
        if per_layer and (len(shape) != 1 or generator.latent_layers == 1):
            raise ValueError(f"per_layer: {generator.name} reads {self._key} in one place; leave per_layer out")
        if per_position and len(shape) == 1:
            raise ValueError(f"per_position: {self._key} of {generator.name} is a vector and has no positions; leave "
                             "per_position out")
        if len(shape) == 1:
            shape = (generator.latent_layers, *shape) if per_layer else shape
        elif not per_position:
            shape = (shape[0], *[1] * (len(shape) - 1))
        self._offset = nn.Parameter(torch.zeros(*shape, device=generator.device), requires_grad=False)

    @property
    def options(self) -> dict:
        return {k: v for k, v in self._options.items() if v}

    def parameters(self) -> dict[str, nn.Parameter]:
        """offset: [D], [layers, D], [C, 1, 1] or [C, h, w]."""
        return {"offset": self._offset}

    def moved(self, state: State) -> State:
        """The state with the offset in it."""
        code = state[self._key].to(self._offset.device)
        if self._options["per_layer"] and code.ndim == 2:
            code = code[:, None]
        if self._options["per_position"] and code.shape[1:] != self._offset.shape:
            raise ValueError(f"size: this offset has a number for each of {list(self._offset.shape[1:])} positions, and the "
                             f"image's code has {list(code.shape[2:])}; give images of the size it was fitted on, or fit it "
                             "without per_position")
        return {**state, self._key: code + self._offset}

    def forward(self, state: State) -> Tensor:
        return self.generator.forward(self.moved(state))

    def regress(self, state: State, target: Tensor, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
        return self.generator.regress(self.moved(state), target, seeds)

"""Going on with a wider network where a narrower one's training ended, as Net2Net does (Chen et al. 2016, arXiv 1511.05641)."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ._gan import Trainer
from ._training import check_recipe, load_state


def widened(narrow: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of a wider `network` that draws the very pictures of the narrow one.

    The channels it has more keep the fresh weights that they have in `network`, and no old channel reads them yet: unlike the
    copies of Net2Net they need no noise to become different, and demodulation, which looks at the weights that read, is the
    same as before.

    Args:
        narrow: state of a StyleGAN2 with fewer channels at some resolutions, otherwise the same
        network: the wider one, freshly initialised

    Raises ValueError if another size differs, or a width is smaller.
    """
    fresh = network.state_dict()
    if unknown := sorted(set(narrow) - set(fresh)):
        raise ValueError(f"widen: the narrower training has {unknown[0]}, which this network has not; only channels may differ")
    state = {}
    for name, value in fresh.items():
        old, value = narrow.get(name), value.clone()
        grows = 2 if value.ndim == 4 else 1         # weights of a convolution: what it draws, what it reads
        if old is None or old.shape[grows:] != value.shape[grows:] or old.ndim != value.ndim or any(
                a > b for a, b in zip(old.shape, value.shape, strict=True)):
            raise ValueError(f"widen: {name} is {'missing' if old is None else list(old.shape)} in the narrower training, "
                             f"{list(value.shape)} here; only channels may be more")
        if value.ndim == 4:
            value[:old.shape[0], old.shape[1]:] = 0
            value[:old.shape[0], :old.shape[1]] = old
        elif value.ndim:
            value[:old.shape[0]] = old
        else:
            value.copy_(old)
        state[name] = value
    return state


def take_over(trainer: Trainer, folder: Path) -> None:
    """Starts `trainer` where the training in `folder` ended: its pictures, its discriminator, its count of images.

    The generator's optimiser starts anew. Raises FileNotFoundError if no training is there, ValueError if it is of another
    recipe or not a narrower one of the same network.
    """
    state = load_state(folder / "state.pt")
    if state is None:
        raise FileNotFoundError(f"widen: {folder} has no state.pt; give the folder of a training of zoo.train_stylegan2")
    check_recipe(state["recipe"], trainer.recipe, free=("decay_from",))
    with torch.no_grad():
        for part, name in ((trainer.generator, "generator"), (trainer.ema, "ema")):
            part.load_state_dict(widened(state[name], part))
    trainer.discriminator.load_state_dict(state["discriminator"])
    trainer.optimiser_d.load_state_dict(state["optimiser_d"])
    trainer.rng.set_state(state["rng"])
    trainer.step, trainer.seconds = state["step"], state["seconds"]
    trainer.about = dict(widened=dict(images=trainer.images, minutes=round(trainer.seconds / 60, 1),
                                      decay_from=state["recipe"]["decay_from"]))

"""Trains `stylegan-xl-scenes` the way StyleGAN-XL is trained (arXiv 2202.00273, section 3.2): a stem of low resolution first,
then layers for the full one behind the frozen stem. Resumable, keeping snapshots: its quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_stylegan_xl --data scenes --out runs/stylegan-xl-16 --resolution 16 --kimg 300
    python -m zoo.train_stylegan_xl --data scenes --out runs/stylegan-xl-scenes --stem runs/stylegan-xl-16/snapshot-000300.pt

The training itself is `zoo._gan`, with the discriminator of the other recipe: StyleGAN-XL's projected discriminator needs a
network that was trained on photographs, and one trained on scenes would carry the answers into the question.
"""
from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli

from generators.stylegan_xl import StyleGANXLConfig, StyleGANXLNetwork, learning_rate_scales, schedule
from probes.data.scenes._store import Store

from ._gan import Recipe, Trainer, train
from ._training import chosen_device

WIDTHS = dict(channel_base=2048, channel_max=96, margin_size=4)
LAYERS = {"stem": 6, "head": 5}


def network_config(resolution: int, stem: StyleGANXLConfig | None = None) -> StyleGANXLConfig:
    entry, layers = schedule(resolution, LAYERS["stem" if stem is None else "head"], stem=stem, **WIDTHS)
    return StyleGANXLConfig(img_resolution=resolution, z_dim=128, w_dim=128, mapping_layers=4, input=entry, layers=layers,
                            output_scale=0.25)


def grown(stem: Path, resolution: int, seed: int) -> StyleGANXLNetwork:
    """A network of `resolution` whose mapping, input and first layers are those of the snapshot, frozen."""
    saved = torch.load(stem, weights_only=True)
    network = StyleGANXLNetwork(network_config(resolution, StyleGANXLConfig.from_dict(saved["config"])), seed=seed)
    own = dict(network.named_parameters())
    kept = {name: value for name, value in saved["ema"].items() if name in network.state_dict()}
    network.load_state_dict(kept, strict=False)
    for name in kept:
        if name in own:
            own[name].requires_grad_(False)
    return network


def trainer(store: Store, resolution: int, stem: Path | None, recipe: Recipe, device: torch.device, fast: bool) -> Trainer:
    if stem is None:
        network = StyleGANXLNetwork(network_config(resolution), seed=recipe.seed)
    else:
        network = grown(stem, resolution, recipe.seed)
    # The layers' running magnitudes must fit their inputs from the start.
    z = torch.randn(64, network.config.z_dim, generator=torch.Generator().manual_seed(recipe.seed))
    network.synthesis.calibrate([network.mapping(z)])
    return Trainer("stylegan-xl", network, learning_rate_scales(network), store, recipe, device, fast,
                   draw=partial(network.synthesis, update_emas=True))


def main(data: str, out: str, resolution: int = 64, stem: str | None = None, kimg: float = 200,
         recipe: Recipe = Recipe(), snapshots: tuple[float, ...] = (8, 16, 32, 64, 128), device: str = "auto",  # noqa: B008
         fast: bool = True) -> None:
    """Trains until `kimg` thousand images; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for state, snapshots, samples and the log
        resolution: of the images; scenes that are larger are averaged down
        stem: snapshot of a lower resolution to grow; its weights stay as they are, its layers' magnitudes are measured anew
        kimg: where to stop
        recipe: what decides the result
        snapshots: at which kimg to keep the averaged weights
        device: cpu, cuda or auto
        fast: compile the discriminator (needs a C++ compiler)
    """
    path = None if stem is None else Path(stem)
    train(trainer(Store(data), resolution, path, recipe, chosen_device(device), fast), out, kimg, snapshots)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

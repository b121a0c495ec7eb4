"""Trains `stylegan2-scenes` on rendered scenes, resumable, keeping snapshots: its quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_stylegan2 --data scenes --out runs/stylegan2-scenes

No noise inputs: the image is a function of w alone. The training itself is `zoo._gan`.
"""
from __future__ import annotations

import torch
from jsonargparse import auto_cli

from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, learning_rate_scales
from probes.data.scenes._store import Store

from ._gan import Recipe, Trainer, train
from ._training import chosen_device

CHANNELS = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32}


def network_config(resolution: int) -> StyleGAN2Config:
    channels = {r: CHANNELS.get(r, max(16, 2048 // r)) for r in (2**k for k in range(2, resolution.bit_length()))}
    return StyleGAN2Config(img_resolution=resolution, z_dim=128, w_dim=128, mapping_layers=4, channels=channels,
                           use_noise=False)


def trainer(store: Store, recipe: Recipe, device: torch.device, fast: bool) -> Trainer:
    network = StyleGAN2Network(network_config(store.manifest["size"]), seed=recipe.seed)
    return Trainer("stylegan2", network, learning_rate_scales(network), store, recipe, device, fast)


def main(data: str, out: str, kimg: float = 600, recipe: Recipe = Recipe(),  # noqa: B008
         snapshots: tuple[float, ...] = (8, 16, 32, 64, 128, 256, 400, 512), device: str = "auto",
         fast: bool = True) -> None:
    """Trains until `kimg` thousand images; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for state, snapshots, samples and the log
        kimg: where to stop
        recipe: what decides the result
        snapshots: at which kimg to keep the averaged weights
        device: cpu, cuda or auto
        fast: compile the networks (needs a C++ compiler)
    """
    train(trainer(Store(data), recipe, chosen_device(device), fast), out, kimg, snapshots)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

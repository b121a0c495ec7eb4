"""Trains `stylegan2-scenes` on rendered scenes, resumable, keeping snapshots: its quality levels.

    python -m zoo.render_scenes --out scenes
    python -m zoo.train_stylegan2 --data scenes --out runs/narrow --kimg 440 --recipe.decay_from 330
    python -m zoo.train_stylegan2 --data scenes --out runs/narrow --kimg 760 --recipe.decay_from 640
    python -m zoo.train_stylegan2 --data scenes --out runs/wide --widen runs/narrow --kimg 945 --recipe.decay_from 890

The learning rate fell three times: 440k and 760k images were each the end, until more was wanted, and then it was as before.
No noise inputs: the image is a function of w alone. The training itself is `zoo._gan`.
"""
from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import auto_cli

from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network, learning_rate_scales
from probes.data.scenes._store import Store

from ._gan import Recipe, Trainer, train
from ._training import chosen_device
from ._widen import take_over

CHANNELS = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32}
WIDE = {32: 256, 64: 128}


def network_config(resolution: int, widths: dict[int, int] = CHANNELS) -> StyleGAN2Config:
    channels = {r: widths.get(r, max(16, 2048 // r)) for r in (2**k for k in range(2, resolution.bit_length()))}
    return StyleGAN2Config(img_resolution=resolution, z_dim=128, w_dim=128, mapping_layers=4, channels=channels,
                           use_noise=False)


def trainer(store: Store, recipe: Recipe, device: torch.device, fast: bool, widths: dict[int, int] = CHANNELS) -> Trainer:
    # The channels that are new in a wider one are not drawn as the narrow one's were.
    network = StyleGAN2Network(network_config(store.manifest["size"], widths), seed=recipe.seed + (widths != CHANNELS))
    return Trainer("stylegan2", network, learning_rate_scales(network), store, recipe, device, fast)


def main(data: str, out: str, kimg: float = 600, recipe: Recipe = Recipe(),  # noqa: B008
         snapshots: tuple[float, ...] = (8, 16, 32, 64, 128, 256, 400, 512), device: str = "auto",
         fast: bool = True, widen: str | None = None, widths: dict[int, int] = WIDE) -> None:  # noqa: B006
    """Trains until `kimg` thousand images; run again to go on from the last state.

    Args:
        data: scene store, from `python -m zoo.render_scenes`
        out: folder for state, snapshots, samples and the log
        kimg: where to stop
        recipe: what decides the result
        snapshots: at which kimg to keep the averaged weights
        device: cpu, cuda or auto
        fast: compile the networks (needs a C++ compiler)
        widen: folder of a finished training, to go on from with the channels that `widths` gives
        widths: {resolution: channels} with `widen`; those that are not named stay as they are
    """
    training = trainer(Store(data), recipe, chosen_device(device), fast, CHANNELS if widen is None else CHANNELS | widths)
    if widen is not None and not (Path(out) / "state.pt").exists():
        take_over(training, Path(widen))
    train(training, out, kimg, snapshots)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

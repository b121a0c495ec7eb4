"""Turns snapshots of a training into embedded generators, each with its card.

    python -m zoo.export_stylegan2 --run runs/stylegan2-scenes --levels '{"16k": 16, "64k": 64}' --final 512

The card is written here and nowhere else: recipe, seed, steps, hardware and data from the training, the Fréchet distance
measured now.
"""
from __future__ import annotations

import json
from pathlib import Path

import torch
from jsonargparse import auto_cli

from generators.checkpoints import write_native
from generators.stylegan2 import StyleGAN2Config, StyleGAN2Network
from probes._frechet import DETECTOR, frechet_distance, scene_features
from probes.data.colour import linear_to_srgb
from probes.data.scenes import render

NAME = "stylegan2-scenes"
_SAMPLES = 2500


def _real_features(first: int, size: int) -> torch.Tensor:
    batches = (render(range(i, i + 100), size, compile=_SAMPLES >= 2500)["image"] for i in range(first, first + _SAMPLES, 100))
    return scene_features(linear_to_srgb(x) * 2 - 1 for x in batches)


@torch.no_grad()
def _drawn(network: StyleGAN2Network):
    for i in range(0, _SAMPLES, 100):
        z = torch.randn(100, network.config.z_dim, generator=torch.Generator().manual_seed(10**9 + i))
        yield network(z)


def export(snapshot: Path, name: str, target: Path, real: torch.Tensor, floor: float) -> dict:
    saved = torch.load(snapshot, weights_only=True)
    # What ships is half precision, and what is measured is what ships.
    state = {k: v.half() for k, v in saved["ema"].items()}
    network = StyleGAN2Network(StyleGAN2Config.from_dict(saved["config"]), seed=0)
    network.load_state_dict({k: v.float() for k, v in state.items()})
    distance = frechet_distance(scene_features(_drawn(network.eval())), real)
    card = dict(name=name, family="stylegan2", world="scenes", resolution=network.config.img_resolution,
                licence="Apache-2.0", parameters=sum(p.numel() for p in network.parameters()),
                **json.loads(snapshot.with_suffix(".json").read_text()),
                frechet=dict(value=round(distance, 4), real_against_real=round(floor, 4), detector=DETECTOR,
                             resize="none", samples=_SAMPLES))
    target.mkdir(parents=True, exist_ok=True)
    write_native(target / f"{name}.safetensors", "stylegan2", saved["config"], state, overwrite=True)
    (target / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def main(run: str, levels: dict[str, int], final: int, target: str = "generators/embedded") -> None:
    """Exports `final` as stylegan2-scenes, and every level as stylegan2-scenes@LEVEL.

    Args:
        run: folder of `python -m zoo.train_stylegan2`
        levels: {name of the level: its snapshot in kimg}
        final: snapshot of the best level, in kimg
        target: where the weights and cards go
    """
    folder, size = Path(run), 64
    real, more = _real_features(2000, size), _real_features(2000 + _SAMPLES, size)
    floor = frechet_distance(real, more)
    print(f"real against real: {floor:.4f}")
    for name, kimg in {**{f"{NAME}@{k}": v for k, v in levels.items()}, NAME: final}.items():
        card = export(folder / f"snapshot-{kimg:06d}.pt", name, Path(target), real, floor)
        print(f"{name}: Fréchet distance {card['frechet']['value']}", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""Turns snapshots of a training into embedded generators, each with its card.

    python -m zoo.export --run runs/narrow --name stylegan2-scenes --levels '{"16k": 16, "64k": 64, "256k": 256, "760k": 760}'
    python -m zoo.export --run runs/wide --name stylegan2-scenes --levels '{}' --final 945

The card is written here and nowhere else: recipe, seed, steps, hardware and data from the training, the Fréchet distance
measured now, on what ships: half precision, loaded as a user loads it.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor

import generators
from generators import Generator
from generators._files import file_sha256
from generators.checkpoints import write_native
from probes.data.colour import linear_to_srgb
from probes.data.scenes import captions, render
from probes.frechet import ScenesDetector, frechet_distance, scene_features

from ._diffusion import draw

_SAMPLES = 2500
_FIRST_SEED = 10**9
_SAMPLER = dict(steps=10, guidance=3.0)


def real_features(first: int, size: int) -> Tensor:
    """Features of freshly rendered scenes, [2500, 160]."""
    batches = (render(range(i, i + 100), size, compile=_SAMPLES >= 2500)["image"] for i in range(first, first + _SAMPLES, 100))
    return scene_features(linear_to_srgb(x) * 2 - 1 for x in batches)


@torch.no_grad()
def drawn(generator: Generator) -> Iterator[Tensor]:
    """What the generator draws by itself; where it reads text, from the captions of scenes that no training saw."""
    for i in range(_FIRST_SEED, _FIRST_SEED + _SAMPLES, 100):
        if generator.reads_text:
            yield draw(generator.network, captions(range(i, i + 100)), seed=i, **_SAMPLER)
        else:
            yield generator.to_image(generator.forward(generator.prepare(generator.sample(range(i, i + 100)))))


def export(snapshot: Path, name: str, target: Path, real: Tensor, floor: float) -> dict:
    """Writes `target`/NAME.safetensors and its card; returns the card."""
    saved = torch.load(snapshot, weights_only=True)
    family, state = saved["family"], {k: v.half() if v.is_floating_point() else v for k, v in saved["ema"].items()}
    target.mkdir(parents=True, exist_ok=True)
    path = write_native(target / f"{name}.safetensors", family, saved["config"], state, overwrite=True)
    generator = generators.load(path)
    distance = frechet_distance(scene_features(drawn(generator)), real)
    card = dict(name=name, family=family, world="scenes", resolution=generator.resolution, licence="Apache-2.0",
                sha256=file_sha256(path),
                parameters=sum(p.numel() for p in generator.network.parameters()),
                **json.loads(snapshot.with_suffix(".json").read_text()),
                frechet=dict(value=round(distance, 4), real_against_real=round(floor, 4), detector=ScenesDetector.name,
                             resize="none", samples=_SAMPLES, **(_SAMPLER if generator.reads_text else {})))
    (target / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def main(run: str, name: str, levels: dict[str, int], final: int | None = None, target: str = "generators/embedded",
         size: int = 64) -> None:
    """Exports snapshot `final` as NAME, and every level as NAME@LEVEL.

    Args:
        run: folder of a training
        name: of the generator
        levels: {name of the level: its snapshot in kimg}
        final: snapshot of the best level, in kimg; None to export levels only
        target: where the weights and cards go
        size: of the images
    """
    folder = Path(run)
    real, more = real_features(2000, size), real_features(2000 + _SAMPLES, size)
    floor = frechet_distance(real, more)
    print(f"real against real: {floor:.4f}")
    best = {} if final is None else {name: final}
    for level, kimg in {**{f"{name}@{k}": v for k, v in levels.items()}, **best}.items():
        card = export(folder / f"snapshot-{kimg:06d}.pt", level, Path(target), real, floor)
        print(f"{level}: Fréchet distance {card['frechet']['value']}", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""Which generators there are, and how a name, a path or a checkpoint becomes one.

Embedded generators ship with the package (`stylegan2-scenes`, and its quality levels `stylegan2-scenes@64k`, ...);
public ones are fetched once into the cache; any other file is given by its path.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from . import checkpoints
from ._base import Generator
from ._names import unknown
from ._public import PUBLIC

EMBEDDED = Path(__file__).parent / "embedded"
_SUFFIXES = (".pkl", ".safetensors", ".pickle")


@dataclass(frozen=True)
class Entry:
    """A line of the catalog."""

    name: str
    family: str
    resolution: int
    kind: str          # "embedded" or "public"
    world: str         # what it draws: "scenes" or "photographs"
    license: str
    source: str        # file or URL
    description: str


@lru_cache(maxsize=1)
def catalog() -> dict[str, Entry]:
    """Every generator known by name, embedded ones first."""
    entries = {}
    for card_path in sorted(EMBEDDED.glob("*.json"), key=lambda p: json.loads(p.read_text())["images"], reverse=True):
        card = json.loads(card_path.read_text())
        name = card_path.stem
        entries[name] = Entry(name, card["family"], card["resolution"], "embedded", card["world"], card["licence"],
                              str(card_path.with_suffix(".safetensors")),
                              f"trained on {card['images'] // 1000}k images, "
                              f"Fréchet distance {card['frechet']['value']:.3g}")
    for name, public in PUBLIC.items():
        entries[name] = Entry(name, public.family, public.resolution, "public", "photographs", public.license,
                              public.url, public.description)
    return entries


def card(name: str) -> dict:
    """The card of an embedded generator: recipe, seed, steps, hardware, figures."""
    path = EMBEDDED / f"{name}.json"
    if not path.exists():
        raise unknown("generator", name, [e.name for e in catalog().values() if e.kind == "embedded"])
    return json.loads(path.read_text())


def load(generator: str | Path | Generator, weights: str = "pretrained", device: str = "cpu", **options) -> Generator:
    """Builds a generator.

    Args:
        generator: a name of the catalog, the path of a checkpoint, or a Generator, which is returned as it is
        weights: "pretrained"; "random" or "random:SEED" for the control with fresh weights; "crossed" or
            "crossed:SEED" for trained latents in front of a fresh network
        device: where the network goes
        options: of the family: for StyleGAN2 `truncation_psi`, `noise_mode`

    Raises:
        UnknownNameError: neither a known name nor a file
        CheckpointError, OfflineError: see `generators.checkpoints` and `generators._download`
    """
    if isinstance(generator, Generator):
        if options:
            raise ValueError(f"generator_options: {', '.join(options)} cannot be changed on a generator that is already "
                             "built; build it with them")
        built = generator
    else:
        name, path, world = _locate(generator)
        checkpoint = checkpoints.read_checkpoint(path).require_supported()
        built = _FAMILIES[checkpoint.family](name, checkpoint, world=world, **options)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but this torch sees no CUDA device; use device='cpu' or 'auto'")
    kind, _, seed = weights.partition(":")
    if kind not in ("pretrained", "random", "crossed") or (seed and (kind == "pretrained" or not seed.isdigit())):
        raise ValueError(f"weights: expected 'pretrained', 'random', 'random:SEED', 'crossed' or 'crossed:SEED', "
                         f"got {weights!r}")
    if kind != "pretrained":
        built = (built.randomised if kind == "random" else built.crossed)(int(seed or 0))
    return built.to(device)


def _locate(generator: str | Path) -> tuple[str, Path, str]:
    """(name, file, world) of a catalog name or a path."""
    entry = catalog().get(str(generator))
    if entry is None:
        path = Path(generator)
        if path.suffix not in _SUFFIXES and not path.is_file():
            raise unknown("generator", str(generator), catalog(), "probes list generators")
        return path.name, path, "photographs"
    if entry.kind == "embedded":
        return entry.name, Path(entry.source), entry.world
    from ._download import fetch

    public = PUBLIC[entry.name]
    return entry.name, fetch(public.url, sha256=public.sha256, filename=f"{entry.name}.pkl"), entry.world


def _stylegan2(name: str, checkpoint: checkpoints.Checkpoint, **options) -> Generator:
    from .stylegan2 import StyleGAN2, StyleGAN2Config, StyleGAN2Network

    config, state = checkpoints.native_state(checkpoint)
    network = StyleGAN2Network(StyleGAN2Config.from_dict(config))
    network.load_state_dict(state)
    return StyleGAN2(name, network, **options)


_FAMILIES = {"stylegan2": _stylegan2}

"""Which generators there are, and how a name, a path or a checkpoint becomes one.

Embedded generators ship with the package (`stylegan2-scenes`, and its quality levels `stylegan2-scenes@64k`, ...);
public ones are fetched once into the cache; any other file is given by its path.
"""
from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import checkpoints
from ._base import Generator
from ._device import chosen
from ._families import package, published
from ._names import unknown
from ._public import PublicCheckpoint, public

EMBEDDED = Path(__file__).parent / "embedded"
_SUFFIXES = (".pkl", ".safetensors", ".pickle", ".ckpt", ".pt")


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
    cards = {path: json.loads(path.read_text()) for path in EMBEDDED.glob("*.json")}
    for card_path, card in sorted(cards.items(), key=lambda item: (item[0].stem.partition("@")[0], -item[1]["images"])):
        name = card_path.stem
        entries[name] = Entry(name, card["family"], card["resolution"], "embedded", card["world"], card["licence"],
                              str(card_path.with_suffix(".safetensors")),
                              f"trained on {card['images'] // 1000}k images, "
                              f"Fréchet distance {card['frechet']['value']:.3g}")
    for name, entry in public().items():
        entries[name] = Entry(name, entry.family, entry.resolution, "public", "photographs", entry.license, entry.url,
                              entry.description)
    return entries


def card(name: str) -> dict:
    """The card of an embedded generator: recipe, seed, steps, hardware, figures."""
    path = EMBEDDED / f"{name}.json"
    if not path.exists():
        raise unknown("generator", name, [e.name for e in catalog().values() if e.kind == "embedded"])
    return json.loads(path.read_text())


def load(generator: str | Path | Generator, weights: str = "pretrained", device: str = "cpu",
         config: str | Path | None = None, revision: str | None = None, variant: str | None = None, **options) -> Generator:
    """Builds a generator.

    Args:
        generator: a name of the catalog, the path of a checkpoint, or a Generator, which is returned as it is
        weights: "pretrained"; "random" or "random:SEED" for the control with fresh weights; "crossed" or
            "crossed:SEED" for trained latents in front of a fresh network
        device: where the network goes: cpu, cuda, cuda:1, …, or auto for a GPU where there is one
        config: what a checkpoint is that does not say so itself: the .yaml of one of taming's, where that does not lie beside
            it; for a single file of Stable Diffusion "sd15", "sd21-base", "sd21" or a diffusers folder
        revision: branch, tag or commit of a model on the hub; by default its newest
        variant: of the weights in a diffusers folder or on the hub: "fp16" takes half the download; by default full precision
        options: of the family: for StyleGAN2 `truncation_psi`, `noise_mode`, `precision`

    Raises:
        UnknownNameError: neither a known name nor a file
        ValueError: weights, a device or an option that does not exist
        CheckpointError, OfflineError: see `generators.checkpoints` and `generators._download`
    """
    place = chosen(device)
    kind, _, seed = weights.partition(":")
    if kind not in ("pretrained", "random", "crossed") or (seed and (kind == "pretrained" or not seed.isdigit())):
        raise ValueError(f"weights: expected 'pretrained', 'random', 'random:SEED', 'crossed' or 'crossed:SEED', "
                         f"got {weights!r}")
    if not isinstance(generator, (str, Path, Generator)):
        raise ValueError(f"generator: expected a name, the path of a checkpoint or a Generator, got {generator!r:.80}; `probes "
                         "list generators` shows the names")
    if isinstance(generator, Generator):
        if fixed := [*options, *(k for k, v in dict(config=config, revision=revision, variant=variant).items() if v)]:
            raise ValueError(f"generator_options: {', '.join(fixed)} cannot be changed on a generator that is already built; "
                             "build it with them")
        built, address, origin = generator, generator.address, generator.origin
    else:
        name, path, found, world = _locate(generator, revision, variant)
        checkpoint = checkpoints.read_checkpoint(path, config or found, variant)
        known = catalog().get(str(generator))
        if known and known.kind == "embedded":
            checkpoints.check_shipped(path, card(name), checkpoint.sha256)
        family = package(checkpoint.family)
        _check_options(family.GENERATOR, checkpoint.family, options)
        built = family.build(name, checkpoint, world=world, **options)
        address = name if known or not Path(generator).exists() else str(Path(generator).resolve())     # or on the hub
        # A family may know configurations by name, as Stable Diffusion's "sd21": only of a path the place is fixed.
        config = str(Path(config).resolve() if Path(config).exists() else config) if config else None
        origin = {k: v for k, v in dict(config=config, revision=revision, variant=variant).items() if v is not None}
    if kind != "pretrained":
        built = (built.randomised if kind == "random" else built.crossed)(int(seed or 0))
        built.weights = f"{kind}:{int(seed or 0)}"
    built.address, built.origin = address, origin
    return built.to(place)


def _check_options(kind: type[Generator], family: str, options: dict) -> None:
    known = [p for p in inspect.signature(kind).parameters if p not in ("name", "network", "about")]
    if wrong := [name for name in options if name not in known]:
        raise ValueError(f"generator_options: a {family} has no option {', '.join(wrong)}; it has {', '.join(known)}")


def _locate(generator: str | Path, revision: str | None = None,
            variant: str | None = None) -> tuple[str, Path, Path | None, str]:
    """(name, file, configuration if it is known, world) of a catalog name or a path."""
    entry = catalog().get(str(generator))
    if entry is None:
        path = Path(generator)
        if path.suffix not in _SUFFIXES and not path.exists():
            return str(generator), _hub(str(generator), revision, variant), None, "photographs"
        name, world, known = path.name, "photographs", None
    else:
        name, world, path = entry.name, entry.world, Path(entry.source)
        known = public()[name] if entry.kind == "public" else None
        own = getattr(package(entry.family, "._public"), "resolved", None)
        if known and own:
            return name, own(known, revision, variant), None, world
    if known and variant is not None:
        raise ValueError(f"variant: {generator} has one set of weights; leave variant out")
    if revision is not None:
        raise ValueError(f"revision: {generator} is not on the Hugging Face hub, so there is but one of it; leave revision out")
    return name, *(_fetch(known) if known else (path, None)), world


def _fetch(entry: PublicCheckpoint) -> tuple[Path, Path | None]:
    """The file in the cache and, where one is published, its configuration."""
    from ._download import fetch

    suffix = next((suffix for suffix in _SUFFIXES if suffix in entry.url), "")      # which may lie within a query
    config = fetch(entry.config_url, filename=f"{entry.name}.yaml") if entry.config_url else None
    return fetch(entry.url, sha256=entry.sha256, filename=entry.name + suffix), config


def _hub(name: str, revision: str | None, variant: str | None) -> Path:
    """What the hub of some family has under a name that is neither in the catalog nor a path."""
    for hub in (module.hub for module in published() if hasattr(module, "hub")):
        if path := hub(name, revision, variant):
            return path
    raise unknown("generator", name, catalog(), "probes list generators")

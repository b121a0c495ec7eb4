"""Renders the training scenes to disk: `python -m zoo.render_scenes --out scenes`. Seeds below 1,000,000 are never
trained on; they are what evaluations use."""
from __future__ import annotations

from jsonargparse import auto_cli

from probes.data.scenes._store import write_store

TRAINING_SEEDS = 1_000_000


def main(out: str, count: int = 50_000, size: int = 64, first_seed: int = TRAINING_SEEDS) -> None:
    """Renders `count` scenes of `size`×`size` pixels.

    Args:
        out: folder of the store
        count: how many scenes
        size: height and width in pixels
        first_seed: the first scene's seed; the others follow
    """
    write_store(out, first_seed, count, size, progress=lambda n: print(f"{n}/{count} scenes", flush=True))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

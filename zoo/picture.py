"""Draws the README's picture: what a generator draws from some seeds, and what its probes say of the same seeds.

    python -m zoo.picture --runs '{"normal": "runs/normal", "depth": "runs/depth"}' --out assets/samples.png
"""
from __future__ import annotations

from jsonargparse import auto_cli

import generators
import probes
from probes.report import display, sheet


def main(runs: dict[str, str], out: str, seeds: list[int] = list(range(6))) -> None:  # noqa: B006
    """Writes a contact sheet, one row a seed.

    Args:
        runs: {title of the column: run folder}, all on one generator
        out: the PNG
        seeds: which, unseen by the fits
    """
    columns, generator = {}, None
    for title, folder in runs.items():
        probe = probes.load(folder, generator=generator)
        generator = probe.generator
        said = probe.predict(seeds)
        columns.setdefault("image", said.image)
        columns[title] = display(probe.intrinsic.name, said.map, meaning=probe.intrinsic.meaning)
    sheet(columns, out, [f"seed {seed}" for seed in seeds])
    print(f"{out}: {generators.card(generator.name)['images']} images of training, seeds {seeds}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

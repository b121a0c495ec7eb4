"""Which depth encoding serves a probe best: the same fit with each, scored by several protocols on the same unseen images.

    python -m benchmarks.encodings --options "{samples: 1024, steps: 1000}"

Encodings that keep no metres can only be compared after an alignment, so all are scored by `depth-affine`, and those in metres
by `depth-metric` too. Finished fits under `out` are not repeated.
"""
from __future__ import annotations

import torch
from jsonargparse import auto_cli

import probes
from probes._depth import MEANINGS
from probes.metrics import aggregate, get_protocol
from probes.teachers import get_teacher

ENCODINGS = [name for name, meaning in MEANINGS.items() if meaning != "disparity"]      # what metric depth can be written as
SHOWN = {"depth-affine": ("abs_rel", "delta1", "rms"), "depth-metric": ("abs_rel", "rms")}


def scored(probe: probes.Probe, teacher: str, count: int) -> dict[str, dict]:
    """{protocol: figures} on images 0 … count-1."""
    judge = get_teacher(teacher, "depth", probe.images)
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    for i in range(0, count, 50):
        seeds = range(i, min(i + 50, count))
        predicted = probe.predict(seeds)
        truth = judge.label_indexed(predicted.image, "depth", seeds)
        for name in SHOWN:
            if name == "depth-affine" or probe.intrinsic.meaning == "metric":
                found.setdefault(name, []).append(get_protocol(name).score(predicted.map, truth))
    return {name: aggregate(get_protocol(name), {k: torch.cat([p[k] for p in parts]).numpy() for k in parts[0]})
            for name, parts in found.items()}


def main(generator: str = "stylegan2-scenes@760k", teacher: str = "scenes", out: str = "runs/encodings", count: int = 500,
         options: dict | None = None) -> None:
    """Fits and scores.

    Args:
        generator: to fit on
        teacher: in metres; exact for a generator that is driven by images
        out: folder of the fits
        count: unseen images
        options: further arguments of `probes.fit`
    """
    print("| encoding | " + " | ".join(f"{p} {m}" for p, ms in SHOWN.items() for m in ms) + " |")
    print("| --- " * (1 + sum(map(len, SHOWN.values()))) + "|")
    for encoding in ENCODINGS:
        probe = probes.fit(generator, "depth", teacher, encoding=encoding, evaluate=0, quiet=True,
                           out=f"{out}/{generator}-{encoding}", **(options or {}))
        figures = scored(probe, teacher, count)
        cells = [f"{figures[p][m]['value']:.4f} [{figures[p][m]['ci95'][0]:.4f}, {figures[p][m]['ci95'][1]:.4f}]"
                 if p in figures else "–" for p, ms in SHOWN.items() for m in ms]
        print(f"| {encoding} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)

"""What a probe returns: predictions for seeds or images, and the scores of an evaluation."""
from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from ._intrinsics import Intrinsic
from ._record import RunError

Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """What a probe says about some seeds, or some images of its data.

    Args:
        image: the generator's own image, adapters off, or the one it was given: float [N, 3, H, W] in [-1, 1]
        map: the physical map, float [N, C, H, W]; unit and frame as its intrinsic says
        intrinsic: which
        seeds: of the rows
    """

    image: Tensor
    map: Tensor
    intrinsic: Intrinsic
    seeds: tuple[int, ...]

    def save_picture(self, path: str | Path) -> None:
        """Writes a labelled PNG: one row a seed, image and prediction."""
        from .report import display, sheet

        picture = display(self.intrinsic.name, self.map, meaning=self.intrinsic.meaning)
        sheet({"image": self.image, self.intrinsic.name: picture}, path,
              captions=[f"seed {s}" for s in self.seeds])


@dataclass
class Evaluation:
    """Scores of a probe and its controls on unseen seeds.

    Args:
        metrics: the contents of metrics.json
        rows: one a sample: its seed and every score
        scores, trivial: of the probe and of the trivial predictor as `Protocol.score` gave them; of a loaded run empty
    """

    metrics: dict
    rows: list[dict]
    scores: Scores = field(default_factory=dict)
    trivial: Scores = field(default_factory=dict)

    @property
    def skill(self) -> float:
        """Skill on the protocol's primary metric."""
        return self.metrics["metrics"][self.metrics["primary"]]["skill"]


def read_evaluation(folder: Path) -> Evaluation | None:
    """What the run folder says of its evaluation, if it was evaluated. Raises RunError where its files are damaged."""
    try:
        with open(folder / "samples.csv", newline="") as file:
            rows = [{k: int(v) if k == "seed" else float(v or "nan") for k, v in row.items()}
                    for row in csv.DictReader(file)]
        metrics = json.loads((folder / "metrics.json").read_text())
        return Evaluation(dict(metrics), rows)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RunError(f"run: {folder / 'metrics.json'}, or samples.csv beside it, is damaged: {error}; remove both, and "
                       "evaluate again") from error

"""What a probe returns: predictions for seeds or images, and the scores of an evaluation."""
from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from os.path import splitext
from pathlib import Path

import numpy as np
from torch import Tensor

from ._intrinsics import Intrinsic
from ._record import RunError

Scores = dict[str, np.ndarray]


def check_picture(path: str | Path) -> None:
    """Raises ValueError where a picture is to have another ending than .png."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"output: expected a .png, got {path}; write {splitext(path)[0] or 'prediction'}.png")


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

    def __repr__(self) -> str:
        count = len(self.seeds)
        return (f"Prediction({self.intrinsic.name} of {count} {'image' if count == 1 else 'images'}, map "
                f"{list(self.map.shape)}, image {list(self.image.shape)})")

    def save_picture(self, path: str | Path) -> None:
        """Writes a labelled PNG: one row a seed, image and prediction. Raises ValueError for another ending than .png."""
        check_picture(path)
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

    def __repr__(self) -> str:
        from .report._text import decimals, estimate, fixed, primary, range_text

        try:
            found = primary(self.metrics)
            places = decimals(found)
            return (f"Evaluation({self.metrics['protocol']}: {found['label']} {estimate(found, places, found.get('unit', ''))} "
                    f"{range_text(found['ci95'], places)}, skill {fixed(found['skill'])} {range_text(found['skill_ci95'])}, "
                    f"n = {found['n']})").replace(" ,", ",")
        except (ValueError, KeyError, TypeError, AttributeError):       # of a metrics.json that says less
            return f"Evaluation({len(self.rows)} samples)"

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

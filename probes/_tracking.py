"""Where a fit reports to while it runs: TensorBoard or Weights & Biases, through accelerate's trackers; nowhere by default."""
from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from generators._names import unknown

# name -> packages of which one is enough, the first being the one to install
TRACKERS = {"none": (), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
_PROJECT = "probes"


def check_report_to(name: str) -> None:
    """Raises ValueError for a tracker that is not known, or whose package is not there."""
    if name not in TRACKERS:
        raise unknown("report_to", name, TRACKERS)
    packages = TRACKERS[name]
    if packages and not any(find_spec(package) for package in packages):
        raise ValueError(f"report_to: {name} is not installed; pip install {packages[0]}, or leave report_to out")


class Tracker:
    """One fit's line in a tracker. Numbers that are logged:

        train/loss, train/learning_rate, train/pairs_per_second      every 20 steps
        score/METRIC, skill/METRIC                                   at the end, where the probe is evaluated
    """

    def __init__(self, tracker=None):
        self._tracker = tracker

    def training(self, step: int, loss: float, learning_rate: float, pairs_per_second: float) -> None:
        """What `train` calls along the loss curve."""
        if self._tracker:
            self._tracker.log({"train/loss": loss, "train/learning_rate": learning_rate,
                               "train/pairs_per_second": pairs_per_second}, step=step)

    def scores(self, step: int, metrics: dict) -> None:
        """The evaluation's value and skill on every metric; `metrics` as in metrics.json."""
        if self._tracker:
            found = metrics["metrics"].items()
            self._tracker.log({f"score/{name}": entry["value"] for name, entry in found}
                              | {f"skill/{name}": entry["skill"] for name, entry in found if entry.get("skill") is not None},
                              step=step)

    def close(self) -> None:
        if self._tracker:
            self._tracker.finish()
            self._tracker = None


def start_tracker(name: str, folder: Path, settings: dict) -> Tracker:
    """The tracker of the run in `folder`: TensorBoard's files go to folder/tensorboard, Weights & Biases lists it by the
    folder's name in its project "probes". `settings`, those that are text or numbers, are kept with it."""
    if name == "none":
        return Tracker()
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    if kind.requires_logging_directory:
        tracker = kind("tensorboard", str(folder))
    else:
        where = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]      # a fit that goes on is the same run
        tracker = kind(_PROJECT, name=folder.name, dir=str(folder), id=where, resume="allow")
    if hasattr(tracker, "start"):       # older releases start in the constructor
        tracker.start()
    tracker.store_init_configuration({k: v for k, v in settings.items() if isinstance(v, (str, int, float))})
    return Tracker(tracker)

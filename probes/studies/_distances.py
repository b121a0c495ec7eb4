"""The Fréchet distance beside every row: from the generator's card, or measured once a generator with a named detector.

Measured ones are known by what they are of, the generator's fingerprint and the detector's digest, not by names.
"""
from __future__ import annotations

import json
import warnings
from pathlib import Path

import generators

from .._files import write_text_atomically
from ._base import Row, StudyError

CARD = "card"


class Distances:
    """Fréchet distances of a study's generators; measured ones are kept in frechet.json.

    Args:
        folder: of the study
        detector: "card", or a name from `probes.frechet.detectors()`

    Raises UnknownNameError or DetectorError, before any fit, for a detector that is not there.
    """

    def __init__(self, folder: Path, detector: str = CARD):
        self.path, self.name, self.detector = folder / "frechet.json", detector, None
        if detector != CARD:
            from ..frechet import get_detector

            self.detector = get_detector(detector)
        self.known: dict[str, dict] = {}
        self._keys: dict[str, str | None] = {}

    def open(self) -> None:
        """Reads what was measured before. Raises StudyError where that is damaged."""
        if not self.path.exists():
            return
        try:
            self.known = json.loads(self.path.read_text())
            whole = all({"value", "detector", "samples"} <= known.keys() for known in self.known.values())
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise StudyError(f"out: {self.path} is damaged; remove it, and its distances are measured again")

    def beside(self, row: Row) -> Row:
        """The row with the distance of its generator as it was trained, where there is one; control networks have none."""
        if row["status"] != "ok" or str(row.get("weights")) != "pretrained":
            return row
        found = self._card(row["generator"]) if self.detector is None else self._measured(row["generator"])
        return {**row, **found}

    @staticmethod
    def _card(generator: str) -> Row:
        try:
            frechet = generators.card(generator)["frechet"]
        except (generators.UnknownNameError, KeyError):
            return {}
        return dict(frechet=frechet["value"], detector=frechet["detector"], frechet_samples=frechet["samples"])

    def _measured(self, generator: str) -> Row:
        from ..frechet import measure

        if generator not in self._keys:
            self._keys[generator] = None
            try:
                built = generators.load(generator)
                key = None if built.driven_by == "images" else f"{built.fingerprint}:{self.detector.digest}"   # draws nothing
                if key is not None and key not in self.known:
                    self.known[key] = dict(generator=generator, **measure(built, self.detector))
                    write_text_atomically(self.path, json.dumps(self.known, indent=2) + "\n")
                self._keys[generator] = key
            except ValueError as error:         # of this generator alone: its fits are rows all the same
                warnings.warn(f"{generator} has no Fréchet distance: {error}", UserWarning, stacklevel=2)
        key = self._keys[generator]
        if key is None:
            return {}
        found = self.known[key]
        return dict(frechet=found["value"], detector=found["detector"], frechet_samples=found["samples"])

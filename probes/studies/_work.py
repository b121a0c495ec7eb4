"""One cell's work: the fit, scored, as a row. A killed fit is taken up by the next call; one that fails is a row too."""
from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from .._files import OutputError
from ..report import judge_name, teacher_error
from ._base import Cell, Row
from ._folder import CONTROLS


@dataclass(frozen=True)
class Work:
    """What an engine calls for each cell; can be pickled.

    Args:
        study: its name
        fits: folder in which the fits have theirs
        device: of the fits; no part of their keys
    """

    study: str
    fits: Path
    device: str = "auto"

    def __call__(self, cell: Cell) -> Row:
        began, place = time.monotonic(), self.fits / cell.place
        try:
            row = {**self._asked(cell), **score(cell, place, self.device), "status": "ok"}
        except OutputError:                 # a full disk is no property of the cell, and the next would fail too
            raise
        except Exception as error:          # noqa: BLE001 (whatever it is, it must not stop the others)
            row = self.failed(cell, error)
        return {**row, "wall_seconds": round(time.monotonic() - began, 2)}

    def failed(self, cell: Cell, error: BaseException) -> Row:
        """The row of a fit that ended in `error`."""
        return {**self._asked(cell), "status": "failed", "failure": f"{type(error).__name__}: {error}"}

    def _asked(self, cell: Cell) -> Row:
        return {**cell.labels, "key": cell.key, "study": self.study, **_level(str(cell.fit["generator"]))}

    def clear(self, place: str) -> None:
        """Removes a fit's folder; its rows have all that the study needs."""
        shutil.rmtree(self.fits / place, ignore_errors=True)


def _level(generator: str) -> Row:
    name, _, level = generator.partition("@")
    return dict(generator=generator, level=level or "final")


def score(cell: Cell, place: Path, device: str) -> Row:
    """Fits a cell in `place`, or takes up the fit there, and returns the columns that it fills."""
    from .._fit import fit

    probe = fit(**cell.fit, device=device, out=str(place), quiet=True)
    record, metrics = probe.record, probe.last_evaluation.metrics
    generator = record["generator"]
    entry, request, training = metrics["metrics"][metrics["primary"]], record["request"], record["training"]
    (error_low, error_high), (skill_low, skill_high) = (entry[ci] or (None, None) for ci in ("ci95", "skill_ci95"))
    controls = {}
    for name, control in entry["controls"].items():
        if name in CONTROLS:            # a study that has columns for the intervals keeps them
            low, high = control.get("skill_ci95") or (None, None)
            controls |= {f"control_{name}": control["skill"], f"control_{name}_low": low, f"control_{name}_high": high}
    versions = record["versions"]
    seconds = training.get("seconds")
    speed = training.get("steps_per_second") or (request["steps"] / seconds if seconds else None)
    return dict(
        family=generator["family"], fingerprint=generator["fingerprint"], weights=generator["weights"],
        teacher=record["teacher"]["name"], teacher_fingerprint=record["teacher"]["fingerprint"],
        against=judge_name(metrics),
        teacher_error=teacher_error(record["teacher"], request["intrinsic"]).replace("\xa0", " ") or None,
        **{name: request[name] for name in ("intrinsic", "method", "rank", "scope", "samples", "steps", "seed")},
        protocol=metrics["protocol"], metric=metrics["primary"], n=entry["n"], error=entry["value"], error_low=error_low,
        error_high=error_high, trivial=entry["trivial"]["value"], skill=entry["skill"], skill_low=skill_low,
        skill_high=skill_high, **controls, parameters=record["method"]["parameters"], seconds=seconds,
        steps_per_second=None if speed is None else round(speed, 3),
        peak_memory_mib=training.get("peak_memory_mib") or _peak_memory(), hardware=record["hardware"],
        versions=f"probes {versions['probes']}, torch {versions['torch']}, Python {versions['python']}")


def _peak_memory() -> float | None:
    """The most memory this process had, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)

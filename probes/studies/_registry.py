"""Which studies there are."""
from __future__ import annotations

from generators._names import unknown

from ._base import Study

PAGE = "findings"
_STUDIES: dict[str, Study] = {}


def register_study(study: Study) -> Study:
    """Makes a study known by its name, in the command line too, where `findings` means the page of all of them."""
    if study.name == PAGE:
        raise ValueError(f"study: {PAGE!r} is the page of what all studies found; choose another name")
    _STUDIES[study.name] = study
    return study


def studies() -> dict[str, Study]:
    """Every study by name."""
    return dict(_STUDIES)


def get_study(name: str | Study) -> Study:
    """The study of a name. Raises UnknownNameError."""
    if isinstance(name, Study):
        return name
    if name not in _STUDIES:
        raise unknown("study", name, _STUDIES, "probes list studies")
    return _STUDIES[name]

"""Errors for names that nobody registered: every registry of the project words them alike."""
from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnknownNameError(ValueError):
    """A generator, intrinsic, teacher, method, ... that does not exist; the message has the nearest names."""


def unknown(argument: str, name: object, known: Iterable[str], listing: str = "") -> UnknownNameError:
    """The error for `argument=name`: the nearest known names first, then all of them (or where to list them)."""
    known = list(known)
    rest = f"`{listing}` shows all {len(known)}" if listing else f"known: {', '.join(known)}"
    return UnknownNameError(f"{argument}: unknown name {name!r}; {nearest(name, known)}{rest}")


def nearest(name: object, known: Iterable[str]) -> str:
    """"did you mean …? " of the nearest known names; nothing where none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""

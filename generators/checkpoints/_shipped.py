"""Weights that come with the package are those that their card speaks of."""
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .._files import file_sha256
from ._errors import CheckpointError


def check_shipped(path: str | os.PathLike, card: Mapping[str, Any], found: str | None = None) -> str:
    """The sha256 of a file of weights, which is the one in its card.

    Args:
        path: the file
        card: what the recipe wrote beside it, with "sha256"
        found: the file's sha256 where it is known already

    Raises:
        CheckpointError: the file was altered, truncated or damaged since.
    """
    found = found or file_sha256(path)
    if found != card.get("sha256"):
        raise CheckpointError(f"{path} is not the file that its card speaks of (sha256 {found[:12]}, expected "
                              f"{str(card.get('sha256')):.12}): it was altered or damaged since; install probes again")
    return found

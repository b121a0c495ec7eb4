"""Which images are held out, where neighbours show the same thing: whole scans or scenes, never images of one on both sides.

Images before `Data.first_training_index` are held out, so this is an order of the images. About a fifth of each kind
(indoors, outdoors) comes first, in whole groups; which ones, and the order on either side, is decided by sha256 over the
names: the same on every machine and with every version of Python, and a mixture of groups wherever a fit or a score stops.
"""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

SHARE = 5       # one in so many is held out
_SEED = "probes held out 1"


def held_out_first(names: Sequence[str], groups: Sequence[str], kinds: Sequence[str]) -> tuple[list[int], int]:
    """An order of images.

    Args:
        names: of the images, unique
        groups: of each: what must not be divided, a scan say; names repeat from kind to kind without being the same
        kinds: of each: what both sides shall have a like share of

    Returns (numbers of the images, those held out first; how many are held out). Where a kind has groups of unlike sizes, as
    many as come nearest to a fifth of it; where it has one alone, none of it; where that leaves nothing, the smallest group of
    all. A single group cannot be divided by itself: its images stay in the order given, and the first fifth is held out.
    """
    keys = list(zip(kinds, groups, strict=True))
    sizes, wanted = Counter(keys), Counter(kinds)
    if len(sizes) < 2:
        return list(range(len(names))), max(1, len(names) // SHARE)
    held: set[tuple[str, str]] = set()
    taken: Counter[str] = Counter()
    for kind, group in sorted(sizes, key=lambda key: _rank("/".join(key))):
        if taken[kind] + sizes[kind, group] / 2 <= wanted[kind] / SHARE:
            held.add((kind, group))
            taken[kind] += sizes[kind, group]
    held = held or {min(sizes, key=lambda key: (sizes[key], _rank("/".join(key))))}
    order = sorted(range(len(names)), key=lambda i: (keys[i] not in held, _rank(names[i])))
    return order, sum(sizes[key] for key in held)


def _rank(text: str) -> bytes:
    return hashlib.sha256(f"{_SEED} {text}".encode()).digest()

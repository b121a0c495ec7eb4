"""Arguments of `fit`, `predict` and `evaluate` as plain Python values: numbers, seeds, names, options.

A sweep hands over numpy's numbers, which no JSON holds; they become Python's own. Nothing is cut or guessed: 32.0 is no count,
'7' is no seed, True is neither.
"""
from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any


def plain(value: Any) -> Any:
    """A numpy scalar, or an array or tensor without dimensions, as Python's own number; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def whole_numbers(optional: bool = False, /, **given: Any) -> list[int | None]:
    """The values as int, in their order; where they are `optional`, None stays. Raises ValueError for what is none."""
    return [None if optional and value is None else _whole(name, value) for name, value in given.items()]


def numbers(optional: bool = False, /, **given: Any) -> list[float | None]:
    """The values as float, in their order; where they are `optional`, None stays. Raises ValueError for what is none."""
    return [None if optional and value is None else _number(name, value) for name, value in given.items()]


def names(argument: str, value: Any) -> list[str]:
    """Names from a list of them, or from one text with commas. Raises ValueError for anything else."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, Iterable):
        raise ValueError(f"{argument}: expected names, got {value!r}; for none {argument}=()")
    return list(value)


def plain_options(**given: Any) -> list[dict[str, Any]]:
    """Mappings as dicts of plain values, in their order; nothing in one that is None. Raises ValueError for anything else."""
    return [{} if value is None else _plain_dict(argument, value) for argument, value in given.items()]


def _plain_dict(argument: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{argument}: expected a dict, got {value!r}; write {argument}={{'NAME': VALUE}}")
    if wrong := [name for name in value if not isinstance(name, str)]:
        raise ValueError(f"{argument}: expected names, got {wrong[0]!r}; write {argument}={{'NAME': VALUE}}")
    return {name: plain(entry) for name, entry in value.items()}


def label_list(classes: Any) -> list[int] | None:
    """Labels of classes from a list or from one of them; None stays. Raises ValueError for what is none."""
    if classes is None:
        return None
    given = [classes] if isinstance(classes, str) or not _is_iterable(classes) else list(classes)
    for label in given:
        if not _is_whole(label):
            raise ValueError(f"classes: expected whole numbers, got {plain(label)!r}; write classes=[0, 1]")
    return [operator.index(plain(label)) for label in given]


def seed_list(seeds: Any) -> list[int]:
    """Any whole numbers, one at least. Raises ValueError for anything else; a count is no list."""
    if _is_whole(seeds):
        count = operator.index(seeds)
        first = max(count, 1)
        raise ValueError(f"seeds: expected numbers, got {count}; for the first {first} seeds=range({first})")
    found = [seeds] if isinstance(seeds, str) or not _is_iterable(seeds) else list(seeds)
    if not found:
        raise ValueError("seeds: expected at least one, got none; try seeds=range(8)")
    for seed in found:
        if not _is_whole(seed):
            raise ValueError(f"seeds: expected whole numbers, got {plain(seed)!r}; try seeds=range(8)")
    return [operator.index(seed) for seed in found]


def seed_range(seeds: Any, likely: int) -> range:
    """A count, from 0; a range of step 1; or a list of numbers that follow each other, as that range. Raises ValueError, with
    the `likely` count as advice, for anything else and for none."""
    found = seeds
    if _is_whole(seeds):
        found = range(operator.index(seeds))
    elif not isinstance(seeds, (range, str, Mapping)) and _is_iterable(seeds):
        listed = [operator.index(seed) if _is_whole(seed) else None for seed in seeds]
        if listed and None not in listed and listed == list(range(listed[0], listed[0] + len(listed))):
            found = range(listed[0], listed[-1] + 1)
    if not isinstance(found, range) or not found or found.step != 1:
        raise ValueError(f"seeds: expected a count of at least 1 or a range of step 1, got {plain(seeds)!r:.80}; try "
                         f"seeds={likely}")
    return found


def _is_whole(value: Any) -> bool:
    value = plain(value)
    return hasattr(value, "__index__") and not isinstance(value, bool) and not hasattr(value, "ndim")


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _whole(name: str, value: Any) -> int:
    if not _is_whole(value):
        value = plain(value)
        raise ValueError(f"{name}: expected a whole number, got {value!r}; {_advice(name, value, True)}")
    return operator.index(plain(value))


def _number(name: str, value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}: expected a number, got {value!r}; {_advice(name, value, False)}")
    return float(value)


def _advice(name: str, value: Any, whole: bool) -> str:
    """What to type: the number that was meant, where there is one."""
    try:
        meant = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        meant = None
    if meant is None or whole and not meant.is_integer():
        return f"leave {name} out for the default"
    return f"write {name}={int(meant) if whole else value}"

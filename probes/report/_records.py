"""Run records on disk: JSON and CSV that are whole or absent."""
from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_text_atomically


def write_json(path: str | Path, value: Any) -> Path:
    """Writes `value` indented, keys in their order; numpy and torch numbers as numbers, NaN and infinities as null.

    Raises OutputError when the file cannot be written, TypeError for a value JSON cannot say (its place is named).
    """
    return write_text_atomically(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes one line a row; columns in order of first appearance, `seed` first. None and NaN become empty cells.

    Raises OutputError when the file cannot be written.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    columns = ["seed", *(key for key in columns if key != "seed")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _plain(value, f"rows[].{key}") for key, value in row.items()})
    return write_text_atomically(path, text.getvalue())


def _plain(value: Any, where: str = "value") -> Any:
    """What JSON knows; `where` is the path to `value` for the error message."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return _plain(value.tolist(), where)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{where}: expected numbers, strings, lists or dicts, got {type(value).__name__}; "
                    "convert it before it is written")

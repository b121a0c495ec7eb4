"""Results on disk: whole or absent, and an error that says which file could not be written and why."""
from __future__ import annotations

from pathlib import Path

from generators._files import OutputError as OutputError
from generators._files import writing


def write_bytes_atomically(path: str | Path, data: bytes) -> Path:
    """Writes `data` to `path` as `writing` does: readers see the old file or the new one, never half of one."""
    path = Path(path)
    with writing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
    return path


def write_text_atomically(path: str | Path, text: str) -> Path:
    """`write_bytes_atomically` of `text` as UTF-8, line ends as they are."""
    return write_bytes_atomically(path, text.encode())

"""Results on disk: whole or absent, and an error that says which file could not be written and why."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from generators._files import atomic


class OutputError(OSError):
    """A file could not be written; `str()` is one line that names the path, the reason and what to do."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}; free some space or choose another folder"


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A temporary file that becomes `path`, whose folder is created, when the block succeeds; for data that comes in parts.

    Raises OutputError, an OSError with its errno and filename, for a full disk, a read-only folder and the like, also where
    the block meets them. What stood at `path` is then as it was, and no temporary file is left.
    """
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))  # by mkdir: a file stands where a folder should
        reason = "its folder is a file" if blocked else error.strerror or str(error)
        raise OutputError(error.errno, reason, str(path)) from error


def write_bytes_atomically(path: str | Path, data: bytes) -> Path:
    """Writes `data` to `path` as `writing` does: readers see the old file or the new one, never half of one."""
    path = Path(path)
    with writing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
    return path


def write_text_atomically(path: str | Path, text: str) -> Path:
    """`write_bytes_atomically` of `text` as UTF-8, line ends as they are."""
    return write_bytes_atomically(path, text.encode())

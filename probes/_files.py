"""Files that are either whole or absent: written beside their place, flushed to disk, then moved into it."""
from __future__ import annotations

import os
import secrets
from pathlib import Path


class OutputError(OSError):
    """A file could not be written; `str()` is one line that names the path, the reason and what to do."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}; free some space or choose another folder"


def write_bytes_atomically(path: str | Path, data: bytes) -> Path:
    """Writes `data` to `path`, creating its folder; readers see the old file or the new one, never half of one.

    Raises OutputError, an OSError with its errno and filename, for a full disk, a read-only folder and the like.
    What stood at `path` is then as it was, and no temporary file is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder that refused the file may refuse this too; the first error is the one to tell
        if isinstance(error, OSError):
            blocked = isinstance(error, FileExistsError)  # by mkdir: a file stands where a folder should
            reason = "its folder is a file" if blocked else error.strerror or str(error)
            raise OutputError(error.errno, reason, str(path)) from error
        raise
    _flush_folder(path.parent)
    return path


def write_text_atomically(path: str | Path, text: str) -> Path:
    """`write_bytes_atomically` of `text` as UTF-8, line ends as they are."""
    return write_bytes_atomically(path, text.encode())


def _flush_folder(folder: Path) -> None:
    """Makes the move itself durable, where the system can (Windows cannot open folders)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)

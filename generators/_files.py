"""Files that exist complete or not at all, their hashes, and where what can be made again is kept."""
from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Where downloads ("checkpoints") and banks ("banks") live: below $PROBES_CACHE, else ~/.cache/probes."""
    root = os.environ.get("PROBES_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "probes") / part


def file_sha256(path: str | os.PathLike) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name, complete and on disk, when the block succeeds.

    Readers see the old file or the new one, never half of one; if the block fails, what stood there is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 is for secrets
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        with suppress(OSError):  # the folder that refused the file may refuse this too; the first error is the one to tell
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Makes the move itself durable, where the system can (Windows cannot open folders)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)

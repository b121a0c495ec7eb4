"""Files that exist complete or not at all, an error that says which could not be written and why, the files' hashes, and where
what can be made again is kept."""
from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class OutputError(OSError):
    """A file could not be written; `str()` is one line that names the path, the reason and what to do."""

    def __str__(self) -> str:
        full = self.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"cannot write {self.filename}: {self.strerror}; {'free some space or ' * full}choose another folder"


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


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
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


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a .safetensors as `writing` does, with `metadata` as its header's."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with writing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, dict(metadata))
        except SafetensorError as error:        # is no OSError, also where the system refused
            refused = re.search(r"([^:]+) \(os error (\d+)\)", str(error))
            if refused is None:
                raise
            raise OSError(int(refused[2]), refused[1].strip()) from error


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

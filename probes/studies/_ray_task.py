"""What one machine of a cluster does with one cell of a study. Nothing here knows Ray: it is plain Python on that machine.

Two folders may or may not be the caller's own, seen from there: that of the fits and the cache with the banks. Neither a name
nor a mount tells, so the caller leaves a token in both, and a machine that reads it back and may write beside it shares them.
"""
from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from .._files import OutputError, write_bytes_atomically, write_text_atomically
from ._base import Cell, Row
from ._work import Work

_LOCK = ".cell.lock"
_STAYS = (".lock", _LOCK, "training-state")     # of a run folder: of no use to those who get it when it is finished


@dataclass(frozen=True)
class Token:
    """Two folders of the caller's, and how to know them again."""

    fits: Path
    cache: Path
    name: str
    words: str

    def seen(self, folder: Path) -> bool:
        """Whether `folder` is here what it is for the caller, and may be written to."""
        try:
            if (folder / self.name).read_text() != self.words:
                return False
            with tempfile.TemporaryFile(dir=folder):
                return True
        except OSError:
            return False


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Args:
        cell, work: the fit, and how
        token: of the folder of the fits and of the cache
        threads: of torch, without which two fits of one machine would each take all of its processors
        folder: the caller's working folder, from which relative names of a cell are meant
        modules: in which the caller registered teachers, data, methods, intrinsics of its own
        keep: bring the finished run folder back where it is made elsewhere
        more: further cells will want the same fit
    """

    cell: Cell
    work: Work
    token: Token
    threads: int
    folder: str
    modules: tuple[str, ...] = ()
    keep: bool = False
    more: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of it: a row, or an error that must stop the study; neither where another process is at this very fit.

    Args:
        node: the machine's name
        row, error: see above
        own_fits, own_cache: it does not see the caller's
        files: of the finished run folder, by their names below it
    """

    node: str
    row: Row | None = None
    error: Exception | None = None
    own_fits: bool = False
    own_cache: bool = False
    files: Mapping[str, bytes] | None = None

    @property
    def busy(self) -> bool:
        return self.row is None and self.error is None


@contextmanager
def left_token(fits: Path, cache: Path) -> Iterator[Token]:
    """Leaves a token in both folders, which are made, as long as the block lasts. One that a killed caller left is replaced by
    the next call for the same fits."""
    name = f".seen-{hashlib.sha256(f'{socket.gethostname()}:{fits}'.encode()).hexdigest()[:16]}"
    token = Token(fits, cache, name, uuid4().hex)
    for folder in (fits, cache):
        write_text_atomically(folder / name, token.words)
    try:
        yield token
    finally:
        for folder in (fits, cache):
            with suppress(OSError):
                (folder / name).unlink()


def perform(order: Order) -> Answer:
    """Does the work on a cell, here. Raises nothing that a fit may raise."""
    import torch

    torch.set_num_threads(order.threads)
    with suppress(OSError):
        os.chdir(order.folder)
    for module in order.modules:        # one that is not here is missed by the fit that needs it, which says what it misses
        with suppress(ImportError):
            import_module(module)
    token, work = order.token, order.work
    own_fits, own_cache = not token.seen(token.fits), not token.seen(token.cache)
    if not own_cache:
        os.environ["PROBES_CACHE"] = str(token.cache)
    if own_fits:
        work = replace(work, fits=_own_fits(token))
    node, row, error, files = socket.gethostname(), None, None, None
    place = work.fits / order.cell.place
    try:
        place.mkdir(parents=True, exist_ok=True)
        # A worker that the cluster has given up may still be at it, on this machine or on another with the same folder.
        with FileLock(place / _LOCK, timeout=0):
            row = work(order.cell)
            if own_fits:
                files = _files(place) if order.keep else None
                if not order.more:
                    shutil.rmtree(place, ignore_errors=True)
    except Timeout:
        pass
    except OutputError as full:
        error = full
    except OSError as failed:
        error = OutputError(failed.errno, failed.strerror or str(failed), str(failed.filename or place))
    except Exception as failed:         # noqa: BLE001 (for the caller, who knows what to do)
        error = _that_travels(failed)
    return Answer(node, row, error, own_fits, own_cache, files)


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes a run folder that came back, whole or not at all, in place of what stands there.

    Raises ValueError for a name that leads out of the folder.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, data in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"files: {name!r} leads out of the run folder {folder}")
        write_bytes_atomically(part / name, data)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def _own_fits(token: Token) -> Path:
    """A place of this machine's and this user's for the fits of that study: a second try takes up what a first one left."""
    user = os.getuid() if hasattr(os, "getuid") else "all"
    return Path(tempfile.gettempdir()) / f"probes-studies-{user}" / token.name.lstrip(".")


def _files(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*"))
            if path.is_file() and path.name not in _STAYS}


def _that_travels(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:                   # noqa: BLE001 (whatever its class does)
        return RuntimeError(f"{type(error).__name__}: {error}")

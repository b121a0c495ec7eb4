"""Who runs the fits of a grid. An engine gets cells and the work to do on one, and gives back rows in any order.

A row is yielded as soon as its fit is done, and only then may be counted on; an engine that is interrupted loses what is
under way and nothing else. `work` can be pickled.
"""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from threading import Thread
from typing import Any

from generators._names import unknown

from .._files import write_bytes_atomically
from ._base import Cell, Row, StudyError
from ._work import Work


class Engine(ABC):
    """How cells are spread over time and machines.

    Attributes:
        keep: whether the run folders of finished fits have to be in `work.fits` when their row comes
        say: takes a line for the user; silent by default
    """

    keep: bool = False
    say: Callable[[str], None] = staticmethod(lambda words: None)

    def begin(self, keep: bool = False, say: Callable[[str], None] | None = None) -> None:
        """Called before anything of the study's folder is claimed or written, and sets both attributes. Raises StudyError where
        this engine cannot run at all."""
        self.keep, self.say = keep, say or Engine.say

    @abstractmethod
    def run(self, cells: Sequence[Cell], work: Work) -> Iterator[Row]:
        """One row a cell, in the order in which they are done; a fit that fails is a row too, which `work` sees to."""


class Sequential(Engine):
    """One after the other, in this process.

    Args:
        isolated: each in a fresh process of its own, so that its peak memory is its own and a crash costs one fit
    """

    def __init__(self, isolated: bool = False):
        self.isolated = isolated

    def run(self, cells: Sequence[Cell], work: Work) -> Iterator[Row]:
        for cell in cells:
            yield _apart(cell, work) if self.isolated else work(cell)


# What a process of its own runs: `-c` and no spawn, which would run the caller's script again. Its input stays open as long
# as the parent lives; were it to outlive one that was killed, the next call would find the fit's folder claimed.
_CHILD = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from probes.studies._engines import child; child()"


def _apart(cell: Cell, work: Work) -> Row:
    """The cell's row, from a fresh process that ends with this one, however this one ends.

    Cell and work are pickled, so their classes have to be in modules that can be imported; generators and methods that the
    caller's own script registered are not known there.
    """
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place) / "row"
        process = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE)
        try:
            try:
                for said in (sys.path, (answer, cell, work)):
                    pickle.dump(said, process.stdin)
                process.stdin.flush()
            except BrokenPipeError:
                pass                        # it ended before it began, and its code says how
            code = process.wait()
        finally:
            process.terminate()             # an interrupt leaves nothing behind that still writes
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
        if code or not answer.exists():
            return work.failed(cell, RuntimeError(_ended(code)))
        row = pickle.loads(answer.read_bytes())
    if isinstance(row, BaseException):
        raise row
    return row


def _ended(code: int) -> str:
    if code == -9:
        return "its process was killed by signal 9; was there enough memory?"
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with {code}"


def child() -> None:
    """Of the process of its own: does the work that comes through its input and writes the row to the file named there."""
    answer, cell, work = pickle.load(sys.stdin.buffer)
    Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
    try:
        row = work(cell)
    except Exception as error:      # noqa: BLE001 (for the parent, who knows what to do)
        row = error
    write_bytes_atomically(answer, pickle.dumps(row))
    sys.stdout.flush()
    os._exit(0)                     # a thread that reads its input would hold the interpreter's own end up


def _sequential(address: str | None, isolated: bool, options: Mapping[str, Any]) -> Engine:
    if address is not None:
        raise StudyError(f"address: {address!r} is of a cluster, and the engine is sequential; leave address out, or say "
                         "--engine ray")
    if options:
        raise StudyError(f"engine_options: the engine is sequential and has none, got {', '.join(options)}; leave them out, or "
                         "say --engine ray")
    return Sequential(isolated)


def _ray(address: str | None, isolated: bool, options: Mapping[str, Any]) -> Engine:
    from ._ray import Ray

    known = [name for name in signature(Ray).parameters if name not in ("address", "isolated")]
    for name in options:
        if name not in known:
            raise unknown("engine_options", name, known)
    return Ray(address, isolated, **options)


# name -> made from (address, isolated, options)
ENGINES: dict[str, Callable[[str | None, bool, Mapping[str, Any]], Engine]] = {"sequential": _sequential, "ray": _ray}


def get_engine(name: str, address: str | None = None, isolated: bool = False,
               options: Mapping[str, Any] | None = None) -> Engine:
    """The engine of a name. Raises UnknownNameError, or StudyError for an address or options it has no use for."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name](address, isolated, options or {})

"""Who runs the fits of a grid. An engine gets cells and the work to do on one, and gives back rows in any order.

A row is yielded as soon as its fit is done, and only then may be counted on; an engine that is interrupted loses what is
under way and nothing else. `work` can be pickled.
"""
from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread

from generators._names import unknown

from ._base import Cell, Row
from ._work import Work


class Engine(ABC):
    """How cells are spread over time and machines."""

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


def _apart(cell: Cell, work: Work) -> Row:
    """The cell's row, from a fresh process that ends with this one, however this one ends."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, cell, work), daemon=True)
    process.start()
    theirs.close()                  # so that its end closes the pipe
    try:
        row = ours.recv()
    except EOFError:
        process.join()
        return work.failed(cell, RuntimeError(f"its process ended with {process.exitcode}; was there enough memory?"))
    finally:
        process.terminate()         # an interrupt leaves nothing behind that still writes
        process.join()
    if isinstance(row, BaseException):
        raise row
    return row


def _child(pipe: Connection, cell: Cell, work: Work) -> None:
    # Were it to outlive a parent that was killed, the next call would find the fit's folder claimed.
    Thread(target=lambda: (wait([parent_process().sentinel]), os._exit(1)), daemon=True).start()
    try:
        row = work(cell)
    except Exception as error:      # noqa: BLE001 (for the parent, who knows what to do)
        row = error
    pipe.send(row)


def _sequential(address: str | None, isolated: bool) -> Engine:
    if address is not None:
        raise ValueError(f"address: {address!r} is of a cluster, and the engine is sequential; leave address out")
    return Sequential(isolated)


# name -> made from (address, isolated)
ENGINES: dict[str, Callable[[str | None, bool], Engine]] = {"sequential": _sequential}


def get_engine(name: str, address: str | None = None, isolated: bool = False) -> Engine:
    """The engine of a name. Raises UnknownNameError, or ValueError for an address it has no use for."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name](address, isolated)

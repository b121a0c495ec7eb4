"""Studies over a Ray cluster: `probes study fid --engine ray`, of this machine, or `--address HOST:6379` of one that runs.

One task a cell. Few are submitted ahead, rows are yielded as they come, and the caller alone writes them; a cell's key makes a
row that comes twice harmless. A task whose worker or machine is lost goes elsewhere; a fit that fails is a row, as ever.

What the machines share is asked of each, cell by cell (see `_ray_task`), so that one that joins later is asked too:

- **fits** stand in the study's folder where a machine sees it: what a lost worker left is taken up wherever its cell goes
  next. A machine that does not see it works below its own temporary folder, and the finished run folder comes back through
  the object store where it is to be kept.
- **banks** stand in the caller's cache where a machine sees it, else in the machine's own: built once a machine then, and
  not once a cluster.

In both places a file lock keeps two processes from the same work (a network file system has to honour `flock`, as NFS does). A
cell whose lost worker turns out to be alive is asked for again later, and neither fitted twice nor called failed.

The machines need this software installed, in the same version, with its torch: shipping it would ship Python files without
what they need. What an importable module registered is imported there too, as long as the module is there.
"""
from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import floor
from types import ModuleType
from typing import Any

from generators._files import cache_folder

from .._files import OutputError
from ._base import Cell, Row, StudyError
from ._engines import Engine
from ._ray_cluster import check_address, imported, joined
from ._ray_task import Answer, Order, Token, left_token, unpack
from ._work import Work

_AGAIN = 5.0                            # seconds until a cell is asked for again that somebody is still at


class Ray(Engine):
    """Cells spread over a Ray cluster.

    Args:
        address: "HOST:PORT" of a cluster, or "auto" for the one this machine belongs to; by default one is started on this
            machine with all its processors, and ended. A cluster that the caller's own `ray.init` joined is used, and left
        isolated: each fit in a process of its own, so that its peak memory is its own
        cpus: processors of a fit, which are its threads
        gpus: of a fit, or a share of one; by default 1 on a cluster that has some, unless the device is cpu
        retries: how often a fit is tried again whose worker or machine was lost; then it is a failed row

    Raises StudyError for resources that cannot be, and from `begin` where Ray is not installed or the address does not answer.
    """

    def __init__(self, address: str | None = None, isolated: bool = False, cpus: float = 1, gpus: float | None = None,
                 retries: int = 2):
        for name, value, least in (("cpus", cpus, 0.01), ("gpus", 0 if gpus is None else gpus, 0), ("retries", retries, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
                raise StudyError(f"engine_options: expected {name} to be a number {'above' if least else 'from'} 0, got "
                                 f"{value!r}")
        if address is not None and address.startswith("ray://"):
            raise StudyError(f"address: {address} is of a Ray client server, which fits are not sent through; run this command "
                             "on a machine of the cluster (ray job submit, or a shell there) with --address auto")
        if address is not None and address != "auto" and not address.rpartition(":")[2].isdigit():
            raise StudyError(f"address: expected HOST:PORT or auto, got {address!r}; Ray's port is 6379 where nobody chose "
                             "another")
        self.address, self.isolated, self.cpus, self.gpus, self.retries = address, isolated, cpus, gpus, int(retries)
        self.told: set[str] = set()

    def begin(self, keep: bool = False, say: Callable[[str], None] | None = None) -> None:
        super().begin(keep, say)
        ray = imported()
        if ray.is_initialized():
            here = ray.get_runtime_context().gcs_address
            if self.address not in (None, "auto", here):
                raise StudyError(f"address: this process is in the cluster {here} already, not in {self.address}; leave "
                                 "address out, or call ray.shutdown() first")
        elif self.address is not None:
            check_address(self.address)

    def run(self, cells: Sequence[Cell], work: Work) -> Iterator[Row]:
        if not cells:
            return
        ray = imported()
        with joined(ray, self.address), left_token(work.fits.absolute(), cache_folder("banks").absolute().parent) as token:
            yield from self._spread(ray, deque((cell, 0) for cell in cells), self._placed(ray, work), token)

    def _spread(self, ray: ModuleType, queue: deque[tuple[Cell, int]], work: Work, token: Token) -> Iterator[Row]:
        """Rows of the cells in `queue`, each with how often it was lost."""
        gpus = self._gpus(ray, work.device)
        task = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=0, max_calls=int(self.isolated))(_entrance())
        modules, running, later = _modules(), {}, []
        from .. import __version__

        try:
            while queue or running or later:
                due = [entry for entry in later if entry[0] <= time.monotonic()]
                later = [entry for entry in later if entry not in due]
                queue.extend(entry[1:] for entry in due)
                room = self._room(ray, gpus)
                while len(running) < room and (entry := _next(queue, {cell.place for cell, _ in running.values()})):
                    cell, lost = entry
                    more = any(other.place == cell.place for other, _ in queue)
                    order = Order(cell, work, token, max(1, floor(self.cpus)), os.getcwd(), modules, self.keep, more)
                    running[task.remote(_path(), __version__, ray.cloudpickle.dumps(order))] = cell, lost
                if not running:
                    time.sleep(0.1)
                    continue
                for ref in ray.wait(list(running), timeout=1.0)[0]:
                    cell, lost = running.pop(ref)
                    try:
                        answer = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:        # not of the fit: its order could not be read there
                        yield work.failed(cell, error.cause if isinstance(error.cause, Exception) else error)
                        continue
                    except ray.exceptions.RayError as error:
                        if lost < self.retries:
                            queue.append((cell, lost + 1))
                        else:
                            yield work.failed(cell, RuntimeError(_lost(error, lost + 1)))
                        continue
                    row = self._row(answer, cell, work, __version__)
                    if row is None:
                        later.append((time.monotonic() + _AGAIN, cell, lost))
                    else:
                        yield row
        finally:
            with suppress(Exception):           # the cluster itself may be what is gone
                for ref in running:
                    ray.cancel(ref, force=True)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=5.0)

    def _row(self, answer: Answer | tuple[str, str], cell: Cell, work: Work, version: str) -> Row | None:
        """The row that an answer brings; None where somebody else is at this fit."""
        if not isinstance(answer, Answer):
            node, reason = answer
            raise StudyError(f"engine: {node} of the cluster {reason}; every machine needs `pip install 'probes[study]'` of "
                             f"version {version}. The rows that are done are kept")
        if answer.own_fits:
            back = ", and the finished run folders come back" if self.keep else ""
            self._once(f"{answer.node} does not see {work.fits}: it works in its own temporary folder{back}")
        if answer.own_cache:
            self._once(f"{answer.node} does not see this machine's cache (PROBES_CACHE): it makes the banks it needs itself")
        if answer.error is not None:
            if isinstance(answer.error, OutputError):
                self._once(f"{answer.node} stopped the study")
            raise answer.error
        if answer.busy:
            self._once(f"another process is at fit {cell.key[:12]} on {answer.node}, perhaps a worker that was given up too "
                       "early; it is asked for again")
        elif answer.files is not None:
            unpack(answer.files, work.fits / cell.place)
        return answer.row

    def _once(self, words: str) -> None:
        if words not in self.told:
            self.told.add(words)
            self.say(words)

    def _placed(self, ray: ModuleType, work: Work) -> Work:
        """The work as the machines see it: with a folder that does not depend on where one stands, and a device of theirs."""
        if ":" in work.device:
            raise StudyError(f"device: {work.device!r} is a GPU by its number, and the cluster chooses those; say cuda or auto")
        gpus = self._gpus(ray, work.device)
        if not gpus and work.device == "cuda":
            raise StudyError("engine_options: gpus is 0, and device is cuda; leave one of them out")
        return replace(work, fits=work.fits.absolute(), device=work.device if gpus else "cpu")

    def _gpus(self, ray: ModuleType, device: str) -> float:
        if self.gpus is not None:
            return self.gpus
        return 1 if device == "cuda" or device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0

    def _room(self, ray: ModuleType, gpus: float) -> int:
        """How many tasks may be submitted at once: those that can run, and one a machine that waits."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        slots = [floor(min(node.get("CPU", 0) / self.cpus, node.get("GPU", 0) / gpus if gpus else float("inf")))
                 for node in nodes]
        if not any(slots):
            wanted = f"cpus {self.cpus:g}" + (f" and gpus {gpus:g}" if gpus else "")
            there = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes) or "none at all"
            if self.address is None:
                raise StudyError(f"engine_options: no machine has {wanted} for a fit, there are {there}; ask for less")
            self._once(f"no machine of the cluster has {wanted} for a fit (there are {there}); waiting for one that has")
        return sum(slots) + len(nodes)


def _next(queue: deque[tuple[Cell, int]], taken: set[str]) -> tuple[Cell, int] | None:
    """Takes the first cell out of the queue whose fit nobody is at: cells may share one."""
    for entry in queue:
        if entry[0].place not in taken:
            queue.remove(entry)
            return entry
    return None


def _entrance() -> Callable[[list[str], str, bytes], Any]:
    """The task. It is sent by value, so that a machine that lacks this software can say so."""
    def perform_order(path: list[str], version: str, order: bytes):
        import pickle
        import socket
        import sys

        sys.path += [entry for entry in path if entry not in sys.path]
        try:
            import probes
            from probes.studies._ray_task import perform
        except ImportError as error:
            return socket.gethostname(), f"cannot import probes ({error})"
        if probes.__version__ != version:
            return socket.gethostname(), f"has probes {probes.__version__}"
        return perform(pickle.loads(order))     # the caller's own, through Ray; no file's

    return perform_order


def _path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]       # "" is the working folder


def _modules() -> tuple[str, ...]:
    """Importable modules beyond this software's own that registered something which a fit may name."""
    import adapters

    from .._intrinsics import intrinsics
    from ..data import _base as data
    from ..teachers import _registry as teachers

    found: set[str] = set()
    for registry in (adapters.methods(), intrinsics(), teachers._FACTORIES, teachers._KINDS, data._FACTORIES, data._READERS):
        for entry in registry.values():
            inner = getattr(entry, "__dict__", {})          # an intrinsic is an instance, with a loss of its own
            parts = [part for part in (entry, type(entry), getattr(entry, "func", None), *inner.values()) if callable(part)]
            found |= {part.__module__ for part in parts if isinstance(getattr(part, "__module__", None), str)}
    ours = ("probes", "generators", "adapters", "builtins", "functools", "__main__")
    return tuple(sorted(name for name in found if name.partition(".")[0] not in ours))


def _lost(error: Exception, times: int) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"its worker or its machine was lost {times} times; was there enough memory? ({type(error).__name__}: {first[:160]})"

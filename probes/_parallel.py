"""Reading ahead: images are decoded in threads while the network works, in order, with bounded memory.

Decoding and array arithmetic release the interpreter's lock, so threads of one process do, and nothing is copied between
processes. What cannot be read comes out as an `Unreadable` in its place: one broken file never stops a long run.

    numbers ─▶ prefetch (threads) ─▶ batches, of one size each, the same whether a run was interrupted or not
"""
from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from .data import Data, Photographs, Sample

T, R = TypeVar("T"), TypeVar("R")
MEMORY = 1 << 30        # bytes of samples read ahead, waiting, worked on and queued, as far as the size of those before tells
SHARE = MEMORY // 4     # of it: what may wait for others of its size, and what may be queued behind the network
CHUNK = 2               # batches in which images of one size are looked for
CPU_PIXELS = 1 << 18    # at once: beyond it a batch leaves the caches, and an image of a batch takes longer than one alone


@dataclass(frozen=True)
class Unreadable:
    """What stands in the place of an image that is left out: `reason` is one line, `kind` what is counted together."""

    reason: str
    kind: str = "unreadable"


class Held:
    """Bytes of samples that were read and are not done with yet."""

    def __init__(self) -> None:
        self.bytes, self._lock = 0, threading.Lock()

    def add(self, change: int) -> None:
        with self._lock:
            self.bytes += change


def threads_for(data: Data, wanted: int | None = None) -> int:
    """How many threads read: as many as there are processors, at most 8, for files; one for data that is computed, which
    uses them all by itself, that is streamed, or that says `parallel = False`."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"threads: expected at least 1, got {wanted}; leave it out for as many as there are processors")
    if not getattr(data, "parallel", isinstance(data, Photographs) and not getattr(data, "streaming", False)):
        return 1
    return wanted or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def prefetch(items: Iterable[T], read: Callable[[T], R], threads: int = 4, ahead: int = 16,
             cost: Callable[[R], int] = lambda result: 0, held: Held | None = None) -> Iterator[tuple[T, R | Unreadable]]:
    """(item, read(item)) for every item, in the order of the items, read by threads before they are asked for.

    Args:
        read: runs in a thread; a ValueError or OSError it raises becomes an Unreadable, anything else is raised here
        ahead: results that are ready or being made at most
        cost: bytes of a result; so few are read ahead that together they stay below MEMORY, if all are like the largest so far
        held: of results that were handed out and are still in memory: MEMORY is for those too
    """
    pending: deque[tuple[T, Future]] = deque()
    source, largest, exhausted = iter(items), 0, False
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            while True:
                # Before the first is there, nobody knows how large they are.
                most = min(ahead, (MEMORY - (held.bytes if held else 0)) // largest) if largest else min(ahead, threads)
                while not exhausted and len(pending) < max(1, most):
                    try:
                        item = next(source)
                    except StopIteration:
                        exhausted = True
                    else:
                        pending.append((item, pool.submit(_guarded, read, item)))
                if not pending:
                    return
                item, future = pending.popleft()
                result = future.result()
                del future              # or the pool's last future would keep it in memory while it is worked on
                if not isinstance(result, Unreadable):
                    largest = max(largest, cost(result), 1)
                yield item, result
                del result
        finally:                        # the caller has had enough, or something failed: nothing more is begun
            for _, future in pending:
                future.cancel()


def _guarded(read: Callable[[T], R], item: T) -> R | Unreadable:
    try:
        return read(item)
    except (ValueError, OSError) as error:
        return Unreadable(" ".join(str(error).split()) or type(error).__name__)


def sample_bytes(sample: Sample) -> int:
    """Memory of a sample's image and maps."""
    return sum(x.numel() * x.element_size() for x in (sample.image, *sample.maps.values()))


@dataclass(frozen=True)
class Batch(Generic[R]):
    """Some items of one chunk whose images have one size, or one that could not be read.

    Args:
        items: numbers of the images
        results: what was read, as many
    """

    items: tuple[int, ...]
    results: tuple[R | Unreadable, ...]


def chunks(items: Sequence[int], batch: int) -> list[Sequence[int]]:
    """The items in the runs within which `batches` gathers those of one size."""
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}; leave it out for the teacher's own")
    return [items[i:i + batch * CHUNK] for i in range(0, len(items), batch * CHUNK)]


def at_once(batch: int, device: str) -> Callable[[tuple[int, int]], int]:
    """How many images of a size (H, W) a network is given together: `batch`; on a processor, as many as its caches hold."""
    return lambda size: max(1, min(batch, CPU_PIXELS // (size[0] * size[1]))) if device == "cpu" else batch


def batches(parts: Sequence[Sequence[int]], read: Callable[[int], R], batch: int | Callable[[T], int], threads: int,
            size: Callable[[R], T], cost: Callable[[R], int] = lambda result: 0,
            held: Held | None = None) -> Iterator[Batch[R]]:
    """Batches of at most `batch` (or `batch(size)`) images of one size each, from one chunk at a time.

    A network's last digits depend on how many images it is given at once. Batches never reach over a chunk's end, so a run
    that begins at a chunk makes the very batches that an uninterrupted one makes, and the very numbers. Where more than SHARE
    bytes wait for others of their size, those that wait longest go as they are.

    Args:
        parts: of `chunks`; each is read whole
        read, threads, cost: of `prefetch`
        size: of what was read; images of equal sizes share a batch
        held: counts what was read until the next batch is asked for
    """
    ends = {part[-1] for part in parts if len(part)}
    most = batch if callable(batch) else lambda size: batch
    ahead = max(map(len, parts), default=1) + threads
    held = Held() if held is None else held
    waiting: dict[T, list[tuple[int, R, int]]] = {}
    total = 0

    def ready(key: T) -> Iterator[Batch[R]]:
        nonlocal total
        items, results, costs = zip(*waiting.pop(key), strict=True)
        total -= sum(costs)
        yield Batch(items, results)
        held.add(-sum(costs))

    for item, result in prefetch((item for part in parts for item in part), read, threads, ahead, cost, held):
        if isinstance(result, Unreadable):
            yield Batch((item,), (result,))
        else:
            key, bytes_ = size(result), cost(result)
            waiting.setdefault(key, []).append((item, result, bytes_))
            total += bytes_
            held.add(bytes_)
            del result
            if len(waiting[key]) == most(key):
                yield from ready(key)
            while total > SHARE:
                yield from ready(next(iter(waiting)))
        if item in ends:
            while waiting:
                yield from ready(next(reversed(waiting)))


class Ordered:
    """One thread behind the network that finishes its work (writing, scoring) in order; `put` waits while `ahead` jobs are
    under way, or jobs of more than SHARE bytes together, and raises what an earlier job raised."""

    def __init__(self, ahead: int = 4, held: Held | None = None):
        self.pool, self.ahead = ThreadPoolExecutor(1, thread_name_prefix="finish"), ahead
        self.pending: deque[tuple[Future, int]] = deque()
        self.held, self.bytes = Held() if held is None else held, 0

    def put(self, job: Callable[..., object], *args: object, cost: int = 0) -> None:
        self._collect(self.ahead - 1, SHARE - cost)
        self.pending.append((self.pool.submit(job, *args), cost))
        self.bytes += cost
        self.held.add(cost)

    def _collect(self, most: int, room: int) -> None:
        while self.pending and (len(self.pending) > most or self.bytes > room or self.pending[0][0].done()):
            future, cost = self.pending.popleft()
            try:
                future.result()
            finally:
                self.bytes -= cost
                self.held.add(-cost)

    def __enter__(self) -> Ordered:
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        try:
            if kind is None:
                self._collect(0, 0)
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)

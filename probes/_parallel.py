"""Reading ahead: images are decoded in threads while the network works, in order, with bounded memory.

Decoding and array arithmetic release the interpreter's lock, so threads of one process do, and nothing is copied between
processes. What cannot be read comes out as an `Unreadable` in its place: one broken file never stops a long run.

    numbers ─▶ prefetch (threads) ─▶ batches, of one size each, the same whether a run was interrupted or not
"""
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from .data import Data, Photographs, Sample

T, R = TypeVar("T"), TypeVar("R")
MEMORY = 1 << 30        # bytes of samples read ahead, as far as the size of those before tells
CHUNK = 2               # batches in which images of one size are looked for
CPU_PIXELS = 1 << 18    # at once: beyond it a batch leaves the caches, and an image of a batch takes longer than one alone


@dataclass(frozen=True)
class Unreadable:
    """What stands in the place of an image that is left out: `reason` is one line, `kind` what is counted together."""

    reason: str
    kind: str = "unreadable"


def threads_for(data: Data, wanted: int | None = None) -> int:
    """How many threads read: as many as there are processors, at most 8, for files; one for data that is computed, which
    uses them all by itself, that is streamed, or that says `parallel = False`."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"threads: expected at least 1, got {wanted}; leave it out for as many as there are processors")
    if not getattr(data, "parallel", isinstance(data, Photographs) and not getattr(data, "streaming", False)):
        return 1
    return wanted or min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def prefetch(items: Iterable[T], read: Callable[[T], R], threads: int = 4, ahead: int = 16,
             cost: Callable[[R], int] = lambda result: 0) -> Iterator[tuple[T, R | Unreadable]]:
    """(item, read(item)) for every item, in the order of the items, read by threads before they are asked for.

    Args:
        read: runs in a thread; a ValueError or OSError it raises becomes an Unreadable, anything else is raised here
        ahead: results that are ready or being made at most
        cost: bytes of a result; so few are read ahead that together they stay below MEMORY, if all are like the largest so far
    """
    pending: deque[tuple[T, Future]] = deque()
    source, largest, exhausted = iter(items), 0, False
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            while True:
                # Before the first is there, nobody knows how large they are.
                most = min(ahead, MEMORY // largest) if largest else min(ahead, threads)
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
        last: whether the chunk ends with it
    """

    items: tuple[int, ...]
    results: tuple[R | Unreadable, ...]
    last: bool


def chunks(items: Sequence[int], batch: int) -> list[Sequence[int]]:
    """The items in the runs within which `batches` gathers those of one size."""
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}; leave it out for the teacher's own")
    return [items[i:i + batch * CHUNK] for i in range(0, len(items), batch * CHUNK)]


def at_once(batch: int, device: str) -> Callable[[tuple[int, int]], int]:
    """How many images of a size (H, W) a network is given together: `batch`; on a processor, as many as its caches hold."""
    return lambda size: max(1, min(batch, CPU_PIXELS // (size[0] * size[1]))) if device == "cpu" else batch


def batches(parts: Sequence[Sequence[int]], read: Callable[[int], R], batch: int | Callable[[T], int], threads: int,
            size: Callable[[R], T], cost: Callable[[R], int] = lambda result: 0) -> Iterator[Batch[R]]:
    """Batches of at most `batch` (or `batch(size)`) images of one size each, from one chunk at a time.

    A network's last digits depend on how many images it is given at once. Batches never reach over a chunk's end, so a run
    that begins at a chunk makes the very batches that an uninterrupted one makes, and the very numbers.

    Args:
        parts: of `chunks`; each is read whole
        read, threads, cost: of `prefetch`
        size: of what was read; images of equal sizes share a batch
    """
    ends = {part[-1] for part in parts if len(part)}
    most = batch if callable(batch) else lambda size: batch
    ahead = max(map(len, parts), default=1) + threads
    waiting: dict[T, list[tuple[int, R]]] = {}
    flat = (item for part in parts for item in part)
    for item, result in prefetch(flat, read, threads, ahead, cost):
        last = item in ends
        if isinstance(result, Unreadable):
            yield Batch((item,), (result,), last and not waiting)
        else:
            key = size(result)
            waiting.setdefault(key, []).append((item, result))
            del result
            if len(waiting[key]) == most(key):
                yield _full(waiting.pop(key), last and not waiting)
        if last:
            while waiting:
                _, group = waiting.popitem()
                yield _full(group, not waiting)


def _full(group: list[tuple[int, R]], last: bool) -> Batch[R]:
    return Batch(tuple(i for i, _ in group), tuple(r for _, r in group), last)


class Ordered:
    """One thread behind the network that finishes its work (writing, scoring) in order; `put` waits while `ahead` jobs are
    under way, and raises what an earlier job raised."""

    def __init__(self, ahead: int = 4):
        self.pool, self.pending, self.ahead = ThreadPoolExecutor(1, thread_name_prefix="finish"), deque(), ahead

    def put(self, job: Callable[..., object], *args: object) -> None:
        self._collect(self.ahead - 1)
        self.pending.append(self.pool.submit(job, *args))

    def _collect(self, most: int) -> None:
        while self.pending and (len(self.pending) > most or self.pending[0].done()):
            self.pending.popleft().result()

    def __enter__(self) -> Ordered:
        return self

    def __exit__(self, kind: type | None, *exc: object) -> None:
        try:
            if kind is None:
                self._collect(0)
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)

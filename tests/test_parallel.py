"""Reading ahead: in order, within its memory, in batches that do not depend on where a run begins."""
import threading
import time

import pytest

from probes._parallel import Held, Ordered, Unreadable, at_once, batches, chunks, prefetch


def test_prefetch_keeps_the_order_and_the_memory():
    live, most = set(), [0]

    def read(i):
        live.add(i)
        most[0] = max(most[0], len(live))
        time.sleep(0.002 * (i % 3))
        if i == 5:
            raise ValueError("broken")
        return i * i

    seen = []
    for i, found in prefetch(range(40), read, threads=4, ahead=6):
        time.sleep(0.001)
        live.discard(i)
        seen.append((i, found))
    assert [i for i, _ in seen] == list(range(40)) and seen[5][1] == Unreadable("broken")
    assert all(found == i * i for i, found in seen if i != 5) and most[0] <= 7
    with pytest.raises(ZeroDivisionError):
        list(prefetch(range(3), lambda i: 1 / (i - 1), 2))
    begun = []
    for i, _ in prefetch(range(30), lambda i: begun.append(i) or i, 2, 10, cost=lambda _: 1 << 29):
        assert len(begun) <= i + 2        # two fit into a gibibyte


def test_batches_are_the_same_wherever_a_run_begins():
    def read(i):
        if i == 7:
            raise OSError("gone")
        return i % 3

    def made(parts):
        return [b.items for b in batches(parts, read, 3, 2, size=lambda r: r)]

    parts = chunks(range(20), 3)
    assert [len(p) for p in parts] == [6, 6, 6, 2]
    whole = made(parts)
    assert sorted(i for items in whole for i in items) == list(range(20)) and (7,) in whole
    assert all(len({read(i) for i in items}) == 1 for items in whole if 7 not in items)
    assert made(parts[1:]) == [items for items in whole if items[0] >= 6]
    with pytest.raises(ValueError, match="batch: expected at least 1, got 0"):
        chunks(range(3), 0)
    few = at_once(8, "cpu")
    assert [few((64, 64)), few((256, 512)), few((768, 1024))] == [8, 2, 1] and at_once(8, "cuda")((768, 1024)) == 8
    assert [len(b.items) for b in batches([range(6)], lambda i: (512, 256), few, 2, size=lambda r: r)] == [2, 2, 2]


def test_memory_is_kept_over_all_that_is_read_waits_and_is_queued(monkeypatch):
    live, most, lock = 0, 0, threading.Lock()

    class Large:                # of 10 bytes, where a hundred are allowed
        def __init__(self):
            nonlocal live, most
            with lock:
                live += 1
                most = max(most, live)

        def __del__(self):
            nonlocal live
            with lock:
                live -= 1

    monkeypatch.setattr("probes._parallel.MEMORY", 100)
    monkeypatch.setattr("probes._parallel.SHARE", 25)

    def made(parts):
        held, seen = Held(), []
        with Ordered(16, held) as work:
            for group in batches(parts, lambda i: (i, Large()), 8, 4, lambda r: r[0] % 5, lambda r: 10, held):
                seen.append(group.items)
                for result in group.results:
                    work.put(lambda result: time.sleep(0.002), result, cost=10)
        assert held.bytes == 0
        return seen

    parts = chunks(range(60), 8)
    whole = made(parts)
    assert sorted(i for items in whole for i in items) == list(range(60))
    assert made(parts[1:]) == [items for items in whole if items[0] >= 16]
    assert 3 < most <= 13


def test_work_behind_is_done_in_order_and_its_errors_arrive():
    done = []
    with Ordered(2) as work:
        for i in range(20):
            work.put(done.append, i)
    assert done == list(range(20))
    with pytest.raises(OSError, match="full"), Ordered(2) as work:
        for _ in range(5):
            work.put(lambda: (_ for _ in ()).throw(OSError("full")))

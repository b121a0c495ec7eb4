"""How work shows itself where there is no terminal."""
import pytest

from probes import _console


@pytest.mark.parametrize(("updates", "line"), [
    ([(4, 6), (6, 64), (8, 122)], "bank: 122/122 pairs, 29/s"),             # (seconds, done)
    ([(4, 32)], "bank: 32/32 pairs"),
    ([(4, 30), (20, 46)], "bank: 46/46 pairs, 1/s"),                        # taken up at 30
    ([(0, 5), (0, 10)], "bank: 10/10 pairs"),
], ids=["batches", "at-once", "taken-up", "no-time"])
def test_a_rate_counts_what_was_done_since_the_first_update(monkeypatch, updates, line):
    said, now = [], [0.0]
    monkeypatch.setattr(_console.time, "monotonic", lambda: now[0])
    reporter = _console.Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    update = reporter._lines("bank")
    for now[0], done in updates:
        update(done, updates[-1][1], "pairs")
    assert said == [line]


def test_the_time_that_is_left_follows_from_the_rate(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr(_console.time, "monotonic", lambda: now[0])
    reporter = _console.Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    update = reporter._lines("fit")
    for now[0], done in ((20, 10), (40, 50), (60, 60)):
        update(done, 60)
    assert said == ["fit: 10/60", "fit: 50/60, 2/s, 5 s left", "fit: 60/60, 1.25/s"]

"""Every process of tests has a cache of its own, so that nothing depends on what an earlier run left behind.

Tests run in one process a core, each with its share of the threads, or the processes would wait for each other.
"""
import os

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import pytest  # noqa: E402 (before anything that imports torch, which reads that once)

# What takes minutes begins first.
LONGEST = ("test_readme.py", "test_processes.py", "test_studies_ray.py", "test_fit.py", "test_notebooks.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("PROBES_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "100")
    return folder


@pytest.fixture
def rooms(tmp_path):
    from make_rooms import make_rooms

    return make_rooms(tmp_path / "rooms")

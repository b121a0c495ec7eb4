"""Every test has a cache of its own, so that nothing depends on what an earlier run left behind."""
import pytest


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

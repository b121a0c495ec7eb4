"""Published teachers by name: what is said of them without fetching anything."""
import make_teachers
import pytest

from generators._download import OfflineError
from probes import _depth
from probes.teachers import _catalog
from probes.teachers._catalog import CATALOG, PREFIXES, build, register

MEANINGS = set(_depth.MEANINGS.values())


@pytest.mark.parametrize("name", CATALOG)
def test_entries(name):
    entry = CATALOG[name]
    assert entry.kind in _catalog._MODULES and entry.licence and entry.source
    assert entry.where.count("/") == (entry.kind != "omnidata")
    assert set(entry.intrinsics) <= {"normal", "depth", "albedo", "shading"}
    assert (entry.meaning in MEANINGS) == ("depth" in entry.intrinsics)
    assert entry.licence in entry.about and entry.about.count("\n") == 0


def test_licences_that_forbid_selling_are_not_missed():
    """Of Depth Anything V2 only the small ones are free (README of DepthAnything/Depth-Anything-V2)."""
    licences = {name: entry.licence for name, entry in CATALOG.items() if name.startswith("depth-anything")}
    assert all((licence == "Apache-2.0") == name.endswith("small") for name, licence in licences.items())


def test_registering_imports_nothing(monkeypatch):
    monkeypatch.setattr(_catalog, "import_module", None)
    known = []
    register(lambda *told: known.append(told), lambda *told: known.append(told))
    assert [told[0] for told in known] == [*CATALOG, *PREFIXES]


def test_what_is_registered_builds_by_name(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    known = {}
    register(*[lambda name, factory, about: known.update({name: factory})] * 2)
    assert set(known) == set(CATALOG) | set(PREFIXES)
    for name in ("zoedepth-nyu", "depth-anything-v2-small", "marigold-normals"):
        with pytest.raises(OfflineError, match=CATALOG[name].where):
            known[name]()
    with pytest.raises(OfflineError, match="someone/model"):
        known["marigold"]("someone/model", None)
    assert build("omnidata").intrinsics == CATALOG["omnidata"].intrinsics


@pytest.mark.parametrize("name, maker", [("depth-anything-v2-base", "depth_anything"), ("zoedepth-nyu", "zoedepth"),
                                         ("marigold-depth", "marigold")])
def test_entries_agree_with_their_adapters(name, maker, tmp_path, monkeypatch):
    """An entry of each kind, with its files in the place of the published ones."""
    folder = getattr(make_teachers, maker)(tmp_path / maker)
    monkeypatch.setitem(CATALOG, name, type(CATALOG[name])(**{**vars(CATALOG[name]), "where": str(folder)}))
    teacher = build(name)
    entry = CATALOG[name]
    assert (teacher.name, teacher.licence, teacher.source) == (name, entry.licence, entry.source)
    assert teacher.intrinsics == entry.intrinsics and teacher.meaning("depth") == entry.meaning

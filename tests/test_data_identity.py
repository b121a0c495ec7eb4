"""Two data that differ are told apart by their fingerprints, what they are called finds them again, and what maps mean is read
from whatever says it."""
import hashlib
import inspect
import json
from importlib import import_module

import make_datasets as make
import numpy as np
import pytest
import torch
from PIL import Image

from probes.data import Photographs, get_data
from probes.data._builtin import LAYOUTS
from probes.data._diode import Diode
from probes.data._folder import ImageFolder
from probes.data._manifest import Manifest
from probes.images import ImageError, write_map
from probes.teachers import get_teacher


def test_every_reader_says_what_its_options_change():
    assert inspect.isabstract(Photographs) and "identity" in Photographs.__abstractmethods__
    for module, name, *_ in LAYOUTS.values():
        assert not inspect.isabstract(getattr(import_module(f"probes.data.{module}"), name)), name


@pytest.mark.parametrize("options", ["frame=opengl", "depth_scale=1000", "depth_meaning=relative"])
def test_an_option_that_changes_maps_changes_the_fingerprint(tmp_path, options):
    make.beside(tmp_path)
    plain, other = get_data(tmp_path), get_data(f"maps:{tmp_path},{options}")
    assert not torch.equal(plain.truth([0], 8, "depth"), other.truth([0], 8, "depth")) or \
        not torch.equal(plain.truth([0], 8, "normal"), other.truth([0], 8, "normal")) or other.meaning("depth") == "relative"
    assert plain.fingerprint != other.fingerprint == get_data(f"maps:{tmp_path},{options}").fingerprint


def test_what_the_files_are_taken_for_changes_the_fingerprint(tmp_path):
    make.diode(tmp_path / "diode")
    assert len({get_data(f"diode:{tmp_path / 'diode'}{o}").fingerprint for o in ("", ",distance=ray", ",scenes=indoors")}) == 3
    make.beside(tmp_path / "maps")
    before = get_data(tmp_path / "maps").fingerprint
    about = dict(teacher=dict(name="a", version="1"), intrinsics=dict(depth=dict(meaning="relative")))
    (tmp_path / "maps/labels.json").write_text(json.dumps(about))
    assert get_data(tmp_path / "maps").fingerprint != before


def test_hypersims_and_nyus_options_change_the_fingerprint(tmp_path):
    pytest.importorskip("h5py")
    pytest.importorskip("scipy")
    make.hypersim(tmp_path / "h")
    found = [get_data(f"hypersim:{tmp_path / 'h'},image={kind}").fingerprint for kind in ("preview", "hdf5")]
    make.hypersim(tmp_path / "h", cameras={"ai_001_001": np.diag([0.5, 0.4, -1])})
    found.append(get_data(f"hypersim:{tmp_path / 'h'},image=preview").fingerprint)
    make.nyu(tmp_path / "n")
    found += [get_data(f"nyu:{tmp_path / 'n'},depth={kind}").fingerprint for kind in ("filled", "raw")]
    assert len(set(found)) == 5


def test_a_map_that_changes_in_its_middle_is_another(tmp_path):
    make.beside(tmp_path, count=1)
    values = np.ones((1, 400, 512), np.float32)                     # 800 KiB, and 64 KiB at either end stay
    np.save(tmp_path / "photo0-depth.npy", values)
    before = get_data(tmp_path).fingerprint
    values[0, 200, 100] = 2
    np.save(tmp_path / "photo0-depth.npy", values)
    assert get_data(tmp_path).fingerprint != before
    large = np.ones((1, 1536, 2048), np.float32)                    # 12 MiB
    np.save(tmp_path / "photo0-depth.npy", large)
    before = get_data(tmp_path).fingerprint
    large[0, 512:1024] = 2
    np.save(tmp_path / "photo0-depth.npy", large)
    assert get_data(tmp_path).fingerprint != before


def photographs(folder, count=10):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(folder / f"photo{i}.png")
    return folder


def test_a_folder_of_photographs_keeps_the_name_and_fingerprint_of_the_first_version(tmp_path):
    folder = photographs(tmp_path / "a")
    digest = hashlib.sha256(b"".join((folder / f"photo{i}.png").read_bytes() for i in range(10))).hexdigest()
    for text in (str(folder), f"images:{folder}"):
        data = get_data(text)
        assert isinstance(data, ImageFolder) and (data.name, data.fingerprint) == (str(folder), digest)
    write_map(folder / "photo0-depth", np.ones((1, 16, 16), np.float32), "depth", ("npy",))
    assert get_data(folder).name == f"maps:{folder}"                # by now another layout recognises itself
    data = get_data(f"images:{folder}")
    assert (data.name, data.fingerprint) == (f"images:{folder}", digest)
    assert isinstance(get_data(data.name), ImageFolder)


@pytest.mark.parametrize("folder", ["plain", "a, b", "100%2C"])
def test_a_name_opens_the_same_again_from_anywhere(tmp_path, monkeypatch, folder):
    place = tmp_path / folder
    make.beside(place)
    (tmp_path / "maps, mine").mkdir()
    for file in place.glob("*.npy"):
        file.rename(tmp_path / "maps, mine" / file.name)
    monkeypatch.chdir(tmp_path)
    written = folder.replace("%", "%25").replace(",", "%2C")
    data = get_data(f"maps:{written},maps=maps%2C mine,frame=opengl")
    monkeypatch.chdir("/")
    again = get_data(data.name)
    assert data.name == f"maps:{tmp_path}/{written},frame=opengl,maps={tmp_path}/maps%2C mine" == again.name
    assert data.fingerprint == again.fingerprint


def test_readers_opened_directly_are_called_as_by_name(tmp_path):
    make.diode(tmp_path / "d")
    make.beside(tmp_path / "m")
    (tmp_path / "m/data.csv").write_text("image,depth,split\nphoto0.png,photo0-depth.npy,val")
    for direct, text in ((Diode(tmp_path / "d", split="val", scenes="indoors"), f"diode:{tmp_path}/d,scenes=indoors,split=val"),
                         (Manifest(tmp_path / "m/data.csv", depth_scale=2), f"manifest:{tmp_path}/m/data.csv,depth_scale=2")):
        assert direct.name == text and get_data(text).fingerprint == direct.fingerprint
    data = Manifest(tmp_path / "m/data.csv", split="val")
    assert get_data(data.name).name == data.name


@pytest.mark.parametrize("kind", ["", *(f"{kind}:" for kind in LAYOUTS)])
def test_a_path_that_is_not_there_is_said_to_be(tmp_path, kind):
    with pytest.raises(ValueError, match=f"data: there is no {tmp_path}/nope; check the path"):
        get_data(f"{kind}{tmp_path}/nope")


# What depth means

def described(folder, name, **about):
    (folder / name).write_text(json.dumps(about))


def test_each_intrinsic_is_told_by_its_own_manifest(tmp_path):
    make.beside(tmp_path)
    for i in range(3):
        np.save(tmp_path / f"photo{i}-albedo.npy", np.full((3, 24, 32), 0.5, np.float32))
    described(tmp_path, "maps-albedo.json", intrinsic="albedo", options={})
    assert get_data(tmp_path).meaning("depth") == "metric"
    described(tmp_path, "maps-depth.json", intrinsic="depth", options=dict(encoding="inverse"))
    data = get_data(tmp_path)
    assert data.meaning("depth") == "disparity" and data.options("depth") == dict(encoding="inverse")
    assert data.made_by == "a probe of depth, a probe of albedo"
    (tmp_path / "maps-albedo.json").unlink()
    described(tmp_path, "maps-normal.json", intrinsic="depth", options={})
    with pytest.raises(ValueError, match="maps-normal.json is damaged .*it tells of depth"):
        get_data(tmp_path)
    (tmp_path / "maps-normal.json").unlink()
    with pytest.raises(ValueError, match="depth_meaning: .*maps-depth.json says that the depth is disparity, got relative"):
        get_data(f"maps:{tmp_path},depth_meaning=relative")


def test_exact_labels_are_nobodys_word(tmp_path):
    make.beside(tmp_path)
    about = dict(teacher=dict(name="exact", version="1"), intrinsics=dict(depth=dict(meaning="metric"), normal={}))
    described(tmp_path, "labels.json", **about)
    assert get_data(tmp_path).made_by == "" and get_teacher("exact", "depth", get_data(tmp_path)).name == "exact"


@pytest.mark.parametrize("form, file", [("png16", "photo{}-depth-16bit.png"), ("exr", "photo{}-depth.exr")])
def test_a_file_that_says_its_unit_is_believed(tmp_path, form, file):
    if form == "exr":
        pytest.importorskip("OpenEXR")
    make.beside(tmp_path)
    depth = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(1, 24, 32)
    for i in range(3):
        (tmp_path / f"photo{i}-depth.npy").unlink()
        write_map(tmp_path / f"photo{i}-depth", depth, "depth", (form,), unit="relative")
    data = get_data(tmp_path)
    assert data.meaning("depth") == "relative"
    told = data.sample(0, ("depth",)).maps["depth"]
    assert torch.allclose(told, torch.from_numpy(depth), atol=1e-5) and told[0, 0, 0] == 0         # no hole
    with pytest.raises(ImageError, match=f"{file.format(1)}: it says that its depth is relative .*, and it is read as metric"):
        get_data(f"maps:{tmp_path},depth_meaning=metric").sample(1, ("depth",))
    write_map(tmp_path / "photo2-depth", depth, "depth", (form,))
    with pytest.raises(ImageError, match=r"photo2-.*: it says that its depth is metric \(unit 'm'\), and it is read as rel"):
        data.sample(2, ("depth",))
    write_map(tmp_path / "other", depth, "shading", (form,))
    ending = file.format(1).removeprefix("photo1-depth")
    (tmp_path / f"other{ending}").rename(tmp_path / file.format(1))
    with pytest.raises(ImageError, match="it says that it is a map of shading, and it is read as depth"):
        data.sample(1, ("depth",))
    write_map(tmp_path / "photo1-depth", depth + 1, "depth", (form,), unit="mm")
    with pytest.raises(ImageError, match="it says that its unit is 'mm'; expected m, relative, disparity; give depth_scale"):
        get_data(f"maps:{tmp_path},depth_meaning=metric").sample(1, ("depth",))
    told = get_data(f"maps:{tmp_path},depth_meaning=metric,depth_scale=1000").sample(1, ("depth",)).maps["depth"]
    assert torch.allclose(told, torch.from_numpy(depth + 1) / 1000, atol=1e-7)


def test_depth_meaning_of_a_manifest(tmp_path):
    make.beside(tmp_path)
    np.save(tmp_path / "photo0-depth.npy", np.zeros((24, 32), np.float32))
    path = tmp_path / "data.csv"
    path.write_text("image,depth\nphoto0.png,photo0-depth.npy")
    assert get_data(path).sample(0, ("depth",)).maps["depth"].isnan().all()
    data = get_data(f"{path},depth_meaning=disparity")
    assert data.meaning("depth") == "disparity" and (data.sample(0, ("depth",)).maps["depth"] == 0).all()
    with pytest.raises(ValueError, match="depth_meaning: unknown name 'metres'; .*metric"):
        get_data(f"{path},depth_meaning=metres")

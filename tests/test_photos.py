"""Probes on photographs: any size in and out, folders with resume, the command line."""
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import probes
from probes import PhotoPrediction, cli, predict_folder
from probes.data import get_data
from probes.images import ImageError, MapError, Photo, fit, read_image


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return probes.fit(FAMILIES["stable-diffusion"][0](), out=str(tmp_path_factory.mktemp("run")),
                      **{**SMALL, "evaluate": 0, "steps": 20})


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("wide.png", (37, 61, 3)), ("tall.jpg", (90, 41, 3)), ("grey.png", (33, 33))):
        small = rng.integers(0, 255, (4, 4, *shape[2:]), dtype=np.uint8)
        Image.fromarray(small).resize(shape[1::-1], Image.BICUBIC).save(folder / name)
    return folder


def test_maps_come_at_the_photographs_size(probe, photos):
    found = probe.predict(images=photos)
    assert [(p.name.rpartition("/")[2], tuple(p.map.shape)) for p in found] == [
        ("grey.png", (1, 33, 33)), ("tall.jpg", (1, 90, 41)), ("wide.png", (1, 37, 61))]
    assert all(p.image.shape[1:] == p.map.shape[1:] and torch.isfinite(p.map).all() for p in found)
    photo = read_image(photos / "wide.png")
    fitted = fit(photo, 4, 32, "resize")
    assert fitted.size == (32, 52)
    generator = probe.generator
    encoded = probe.emit(generator.prepare(generator.encode(fitted.pixels[None])))
    torch.testing.assert_close(found[2].map, fitted.restore(probe.intrinsic.to_map(encoded), "shading")[0])
    native = probe.predict(images=[photos / "wide.png"], policy="native")[0]
    assert native.map.shape == (1, 37, 61) and not torch.allclose(native.map, found[2].map, atol=1e-4)
    same = probe.predict(images=Image.open(photos / "wide.png"))[0]
    torch.testing.assert_close(same.map, found[2].map)


def test_a_folder_is_taken_up_where_it_was_left(probe, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "broken.png").write_bytes((photos / "wide.png").read_bytes()[:60])
    written, failed = predict_folder(probe, photos, out, ("npy", "png16"))
    assert written == 3 and len(failed) == 1 and "broken.png" in failed[0]
    assert {p.name for p in out.glob("[!.]*")} == {f"{n}-shading{s}" for n in ("grey", "tall", "wide")
                                               for s in (".npy", "-16bit.png", "-16bit.json")} | {"maps-shading.json"}
    array = np.load(out / "tall-shading.npy")
    assert array.dtype == np.float32 and array.shape == (1, 90, 41)
    np.testing.assert_array_equal(array, probe.predict(images=photos / "tall.jpg")[0].map.numpy())
    before = {p: p.stat().st_mtime_ns for p in out.glob("*-shading*")}
    (out / "wide-shading.npy").unlink()
    assert predict_folder(probe, photos, out, ("npy", "png16"))[0] == 1
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if not p.name.startswith(("wide", "maps")))
    assert predict_folder(probe, photos, out, ("npy", "png16"), overwrite=True)[0] == 3


def test_maps_of_one_probe_are_not_taken_for_anothers(probe, photos, tmp_path):
    out, said = tmp_path / "out", []
    assert predict_folder(probe, photos, out, ("npy",), say=said.append)[0] == 3 and not said
    assert predict_folder(probe, photos, out, ("npy",), say=said.append)[0] == 0
    assert said == [f"note: 3 of 3 maps are kept, they were in {out} already"]
    first, state = np.load(out / "tall-shading.npy"), probe.adapter.state()
    for changed, change in (("size", dict(size=16)), ("size, policy", dict(policy="native"))):
        with pytest.raises(ValueError, match=f"output: .* another {changed}; choose another folder with --output"):
            predict_folder(probe, photos, out, ("npy",), **change)
    probe.adapter.load_state({k: v * 3 for k, v in state.items()})
    try:
        with pytest.raises(ValueError, match="another adapter; choose another folder with --output, or .* --overwrite true"):
            predict_folder(probe, photos, out, ("npy",))
        with pytest.raises(ValueError, match=r"other photographs too \(grey-shading.npy\), made with another adapter"):
            predict_folder(probe, [photos / "tall.jpg"], out, ("npy",), overwrite=True)
        np.testing.assert_array_equal(np.load(out / "tall-shading.npy"), first)
        # Cut short, it leaves none behind that the next call would take for its own.
        with pytest.raises(KeyboardInterrupt):
            predict_folder(probe, photos, out, ("npy",), overwrite=True, progress=_stop)
        assert [p.name for p in out.glob("*.npy")] == ["grey-shading.npy"]
        assert predict_folder(probe, photos, out, ("npy",))[0] == 2
        assert np.abs(np.load(out / "tall-shading.npy") - first).max() > 1e-3
    finally:
        probe.adapter.load_state(state)
    (out / "maps-shading.json").unlink()
    with pytest.raises(ValueError, match="without a maps-shading.json that says what made them"):
        predict_folder(probe, photos, out, ("npy",))


def _stop(done, total, name):
    raise KeyboardInterrupt


def noise(path, seed, size=(40, 36)):
    """An uncompressed picture: as many bytes whatever it shows."""
    path.parent.mkdir(exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.BICUBIC).save(path)
    return path


def test_a_map_is_kept_for_the_very_photograph_it_was_made_of(probe, tmp_path):
    out, said = tmp_path / "out", []
    first, second = noise(tmp_path / "a" / "x.bmp", 1), noise(tmp_path / "b" / "x.bmp", 2)
    expected = {path: probe.predict(images=path)[0].map.numpy() for path in (first, second)}

    def run(items, formats=("npy",)):
        said.clear()
        return predict_folder(probe, items, out, formats, say=said.append)

    def there():
        return np.load(out / "x-shading.npy")

    assert run(tmp_path / "a", ("npy", "png16")) == (1, []) and (there() == expected[first]).all() and not said
    assert run(tmp_path / "b") == (1, []) and (there() == expected[second]).all()
    assert said == [f"note: made again: 1 maps in {out} that are not known to be of these photographs (x-shading, for one)"]
    assert not list(out.glob("*16bit*"))        # of the first, in a format that was not asked for now
    assert run(tmp_path / "b")[0] == 0
    os.utime(second)
    assert run(tmp_path / "b")[0] == 0
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    assert run(tmp_path / "c")[0] == 0
    # The same path, size and time, and another picture.
    assert run(second)[0] == 0
    before = second.stat()
    second.write_bytes(first.read_bytes())
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(second)[0] == 1 and (there() == expected[first]).all()
    # One that cannot be read now takes nothing away from the map that is there.
    second.unlink()
    written, failed = run([second, noise(tmp_path / "y.bmp", 3)])
    assert written == 1 and "there is no such file" in failed[0] and (there() == expected[first]).all()


def test_a_list_of_pictures_is_known_by_its_pixels(probe, tmp_path):
    pictures = [read_image(noise(tmp_path / f"{n}.bmp", n)).pixels for n in range(2)]
    assert predict_folder(probe, pictures, tmp_path / "out", ("npy",))[0] == 2
    assert predict_folder(probe, pictures, tmp_path / "out", ("npy",))[0] == 0
    assert predict_folder(probe, pictures[1:] + pictures[:1], tmp_path / "out", ("npy",))[0] == 2


def test_maps_whose_photographs_nothing_tells_are_made_again(probe, photos, tmp_path):
    out, said = tmp_path / "out", []
    predict_folder(probe, photos, out, ("npy",))
    about = json.loads((out / "maps-shading.json").read_text())
    for photographs in (None, [], {"wide-shading": 3, "tall-shading": {"formats": [[]]}, "grey-shading": {"formats": ["npy"]}}):
        (out / "maps-shading.json").write_text(json.dumps({**about, "photographs": photographs}))
        said.clear()
        assert predict_folder(probe, photos, out, ("npy",), say=said.append)[0] == 3
        assert said[0].startswith("note: made again: 3 maps in")
    assert json.loads((out / "maps-shading.json").read_text()) == about


def test_a_kill_costs_one_map_at_most(probe, photos, tmp_path):
    out = tmp_path / "out"

    def kept(done, total, name):                # what a kill at this moment would leave
        shutil.copytree(out, tmp_path / f"after-{done}")

    assert predict_folder(probe, photos, out, ("npy",), progress=kept)[0] == 3
    assert [predict_folder(probe, photos, tmp_path / f"after-{n}", ("npy",))[0] for n in (1, 2, 3)] == [2, 1, 0]


def test_a_folder_of_photographs_may_hold_their_maps(probe, photos, monkeypatch):
    save, own, said = PhotoPrediction.save, {p.name for p in photos.iterdir()}, []

    def cut(done, stem, formats):               # after the picture is there and before that is told
        save(done, stem, formats)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PhotoPrediction, "save", cut)
        predict_folder(probe, photos, photos)
    assert (photos / "grey-shading.png").exists()
    assert predict_folder(probe, photos, photos, say=said.append) == (3, []) and "left out" not in "".join(said)
    there = {p.name for p in photos.glob("[!.]*")}
    assert there == own | {f"{n}-shading.{s}" for n in ("grey", "tall", "wide") for s in ("npy", "png")} | {"maps-shading.json"}
    for items in (photos, f"{photos}/*.*g", sorted(photos.glob("*.*g"))):
        assert predict_folder(probe, items, photos) == (0, [])
    assert predict_folder(probe, f"{photos}/**/*.*g", photos / "out", size=16) == (3, [])
    assert predict_folder(probe, f"{photos}/**/*.*g", photos / "out", size=16) == (0, [])
    assert len(probe.predict(images=sorted(photos.glob("*.png")))) == 5         # a list is taken as it is
    for name in own:
        (photos / name).unlink()
    with pytest.raises(ImageError, match="holds no image .no files besides maps made of photographs"):
        predict_folder(probe, photos, photos)
    with pytest.raises(ImageError, match="expected photographs, got only maps that were made of some .*grey-shading.png"):
        predict_folder(probe, photos / "grey-shading.png", photos)


def test_maps_beside_photographs_are_never_taken_for_them(probe, photos):
    for n in range(10):
        noise(photos / f"n{n}.png", n)
    assert predict_folder(probe, photos, photos) == (13, [])
    for items in (photos, f"{photos}/*.*g", [f"{photos}/*.png", photos / "tall.jpg"]):
        assert not [p.name for p in probe.predict(images=items, size=16) if "-shading" in p.name]
    assert len(probe.predict(images=[photos / "n1-shading.png", f"{photos}/n1*"], size=16)) == 2        # named by itself
    for name in (f"images:{photos}", f"images:{photos}/*.*g"):
        data = get_data(name)
        assert data.count == 13 and get_data(data.name).fingerprint == data.fingerprint


def test_no_map_replaces_a_photograph(probe, photos):
    mine = noise(photos / "wide-shading.png", 1).read_bytes()
    for formats, overwrite in ((("png",), False), (("png",), True), (("npy",), True)):
        with pytest.raises(ValueError, match="output: the photograph .*wide-shading.png has the name of a map"):
            predict_folder(probe, photos, photos, formats, overwrite=overwrite)
    assert (photos / "wide-shading.png").read_bytes() == mine and not (photos / "maps-shading.json").exists()


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")])
def test_a_photograph_that_cannot_be_fitted_ends_nothing(probe, photos, tmp_path, monkeypatch, error):
    Image.new("L", (270_000, 8)).save(photos / "a-strip.png")
    emit, shown = probe.emit, []

    def short(state):
        shown.append(state)
        if len(shown) == 2:
            raise error
        return emit(state)

    monkeypatch.setattr(probe, "emit", short)
    written, failed = predict_folder(probe, photos, tmp_path / "out", ("npy",))
    assert written == 2 and len(failed) == 2
    assert "a-strip.png: its 8×270000 pixels would become" in failed[0]
    assert failed[1] == (f"{photos / 'tall.jpg'}: it does not fit into the memory with --policy resize; give a smaller --size, "
                         "with --policy resize or square")
    assert predict_folder(probe, photos, tmp_path / "out", ("npy",))[0] == 1
    monkeypatch.setattr(probe, "emit", lambda state: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError):           # a mistake, not a photograph
        predict_folder(probe, photos, tmp_path / "other", ("npy",))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_is_no_success(probe, photos, tmp_path, monkeypatch, value):
    emit, shown = probe.emit, []

    def overflowing(state):
        shown.append(state)
        image = emit(state)
        if len(shown) == 2:
            image[0, 1, 3, 5] = value
        return image

    monkeypatch.setattr(probe, "emit", overflowing)
    written, failed = predict_folder(probe, photos, tmp_path / "out", ("npy", "png16"))
    assert written == 2 and failed == [
        f"{photos / 'tall.jpg'}: the shading that the probe emits is NaN or infinite at 1 of 2,304 pixels; expected finite "
        "values; did its fit diverge? fit it again, with a lower --learning_rate"]
    assert not list((tmp_path / "out").glob("tall*"))
    monkeypatch.setattr(probe.generator, "precision", "fp16")
    shown.clear()
    with pytest.raises(MapError, match="tall.jpg: .*; fp16 overflows, fit it again with --generator_options.precision fp32"):
        probe.predict(images=photos)
    monkeypatch.undo()
    assert predict_folder(probe, photos, tmp_path / "out", ("npy", "png16")) == (1, [])


def test_a_map_that_a_format_cannot_hold_ends_nothing(probe, photos, tmp_path, monkeypatch):
    to_map, shown = type(probe.intrinsic).to_map, []

    def wide(intrinsic, image):
        shown.append(image)
        return to_map(intrinsic, image) + (len(shown) == 1) * 7

    monkeypatch.setattr(type(probe.intrinsic), "to_map", wide)
    monkeypatch.setattr("probes.images._fit._KINDS", {})            # which would clamp it
    written, failed = predict_folder(probe, photos, tmp_path / "out", ("png16", "npy"))
    assert written == 2 and len(failed) == 1 and f"{photos / 'grey.png'}: values: shading runs from 7" in failed[0]
    assert not list((tmp_path / "out").glob("grey*"))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match="exr needs the OpenEXR package"):      # no photograph's mistake
        predict_folder(probe, photos, tmp_path / "other", ("exr",))


def test_a_size_that_was_rounded_is_told(probe, photos, tmp_path):
    out, said = tmp_path / "out", []
    assert predict_folder(probe, photos, out, ("npy",), size=30, say=said.append)[0] == 3
    assert said == ["note: size 30 became 32: tiny takes multiples of 4"]
    assert json.loads((out / "maps-shading.json").read_text())["size"] == 32
    assert predict_folder(probe, photos, out, ("npy",), size=32)[0] == 0
    assert probe.predict(images=photos / "tall.jpg", size=30)[0].notes == (said[0].removeprefix("note: "),)
    assert probe.predict(images=photos / "tall.jpg", size=30, policy="native")[0].notes == ()
    with pytest.raises(ValueError, match="size: expected a whole number of at least 4, or None, got 0"):
        predict_folder(probe, photos, tmp_path / "none", size=0)


def test_a_size_between_two_multiples_becomes_one_for_all_photographs():
    found = {fit(Photo(torch.zeros(3, side, side), "a"), 8, 12).inner for side in range(8, 200)}
    assert found == {(16, 16)}


def test_nothing_is_drawn_beside_photographs(probe, photos, capsys, monkeypatch):
    with pytest.raises(ValueError, match="seeds: images are given, so nothing is drawn; leave seeds out"):
        probe.predict(range(2), images=photos)
    with pytest.raises(ValueError, match="classes: .* leave classes out"):
        probe.predict(images=photos, classes=[1])
    assert probe.predict().seeds == tuple(range(8))
    for given in ("--seeds", "--first_seed"):
        assert cli.main(["predict", "run", str(photos), given, "0"]) == 1
        assert f"with photographs nothing is drawn; leave {given} out" in capsys.readouterr().err


def test_a_generator_that_draws_its_own_images_takes_none(tmp_path, photos):
    own = probes.fit("stylegan2-scenes@760k", out=str(tmp_path / "run"), **{**SMALL, "evaluate": 0, "steps": 2})
    with pytest.raises(ValueError, match="images: stylegan2-scenes@760k is driven by noise and draws its own; give seeds"):
        own.predict(images=photos)
    with pytest.raises(ValueError, match="formats: there is no jpg; choose of npy"):
        predict_folder(own, photos, tmp_path, ("jpg",))


def test_command_line(tmp_path, photos, capsys, monkeypatch, probe):
    monkeypatch.setattr("probes._probe.load", lambda run, device: probe)
    assert cli.main(["predict", "run", str(photos), "--output", str(tmp_path / "out"), "--size", "16"]) == 0
    assert "shading of 3 photographs" in capsys.readouterr().out
    assert (tmp_path / "out" / "grey-shading.npy").exists() and (tmp_path / "out" / "grey-shading.png").exists()
    (photos / "broken.png").write_bytes(b"nothing")
    assert cli.main(["predict", "run", str(photos), "--output", str(tmp_path / "out"), "--size", "16"]) == 1
    assert "broken.png" in capsys.readouterr().err

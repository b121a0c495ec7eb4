"""Probes on photographs: any size in and out, folders with resume, the command line."""
import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import probes
from probes import cli
from probes._photos import predict_folder
from probes.images import fit, read_image


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
    assert {p.name for p in out.iterdir()} == {f"{n}-shading{s}" for n in ("grey", "tall", "wide")
                                               for s in (".npy", "-16bit.png", "-16bit.json")} | {"maps-shading.json"}
    array = np.load(out / "tall-shading.npy")
    assert array.dtype == np.float32 and array.shape == (1, 90, 41)
    np.testing.assert_array_equal(array, probe.predict(images=photos / "tall.jpg")[0].map.numpy())
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "wide-shading.npy").unlink()
    assert predict_folder(probe, photos, out, ("npy", "png16"))[0] == 1
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if not p.name.startswith("wide"))
    assert predict_folder(probe, photos, out, ("npy", "png16"), overwrite=True)[0] == 3


def test_maps_of_one_probe_are_not_taken_for_anothers(probe, photos, tmp_path):
    out, said = tmp_path / "out", []
    assert predict_folder(probe, photos, out, ("npy",), say=said.append)[0] == 3 and not said
    assert predict_folder(probe, photos, out, ("npy",), say=said.append)[0] == 0
    assert said == [f"note: 3 of 3 maps are kept, they were in {out} already"]
    first, state = np.load(out / "tall-shading.npy"), probe.adapter.state()
    for change in (dict(size=16), dict(policy="native")):
        with pytest.raises(ValueError, match=f"output: .* another {next(iter(change))}; choose another folder with --output"):
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
    own = probes.fit("stylegan2-scenes", out=str(tmp_path / "run"), **{**SMALL, "evaluate": 0, "steps": 2})
    with pytest.raises(ValueError, match="images: stylegan2-scenes is driven by noise and draws its own; give seeds"):
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

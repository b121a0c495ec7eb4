"""Images as data: which of them a probe was fitted on, which are held out, and what happens when they change."""
import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import probes
from probes import cli
from probes._bank import drawn
from probes.data import get_data

SETTINGS = {**SMALL, "samples": 12, "steps": 2, "evaluate": 0, "controls": []}
BUILD = FAMILIES["stable-diffusion"][0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((32, 32)).save(folder / f"{i:02d}.png")
    return folder


def change(folder):
    """Takes the held-out images away: the numbers of the others move, and their count still suffices."""
    for i in range(4):
        (folder / f"{i:02d}.png").unlink()


def test_a_finished_run_is_not_taken_for_one_on_other_images(photos, tmp_path):
    settings = dict(SETTINGS, out=str(tmp_path / "run"), data=str(photos))
    first = probes.fit(BUILD(), **settings)
    assert torch.equal(probes.fit(BUILD(), **settings).predict([0]).map, first.predict([0]).map)
    change(photos)
    with pytest.raises(probes.RunError, match="on other pairs: the images of .*photos have changed since; .*--overwrite"):
        probes.fit(BUILD(), **{**settings, "evaluate": 3})
    for given in (None, get_data(photos), str(photos)):
        with pytest.raises(probes.RunError, match="are not those this probe was fitted on .*fit it again"):
            probes.load(tmp_path / "run", BUILD(), data=given).evaluate(3, controls=())
    assert probes.fit(BUILD(), **{**settings, "overwrite": True}).fitted_on == range(3, 15)


def test_a_finished_run_is_not_taken_for_one_of_another_encoding(tmp_path):
    depth = probes.get_intrinsic("depth")
    settings = {**SETTINGS, "intrinsic": depth, "teacher": "exact", "data": "scenes", "out": str(tmp_path)}
    assert probes.fit(BUILD(), **settings).intrinsic.options["encoding"] == "linear"
    with pytest.raises(probes.RunError, match="on other pairs: encoding linear then, relative now; choose another folder"):
        probes.fit(BUILD(), **{**settings, "intrinsic": depth.with_options(dict(encoding="relative"))})
    assert probes.load(tmp_path, BUILD()).intrinsic.options["encoding"] == "linear"


def test_a_finished_run_of_another_version_is_refused_but_loads(tmp_path, monkeypatch):
    settings = {**SETTINGS, "out": str(tmp_path)}
    monkeypatch.setattr("probes._bank._VERSION", 1)
    first = probes.fit(BUILD(), **settings)
    monkeypatch.undo()
    with pytest.raises(probes.RunError, match="the version of this software, is another now; choose another folder"):
        probes.fit(BUILD(), **settings)
    assert torch.equal(probes.load(tmp_path, BUILD()).predict([1]).map, first.predict([1]).map)


def test_there_is_no_image_below_zero_and_none_beyond_the_last(photos, tmp_path):
    probe = probes.fit(BUILD(), out=str(tmp_path / "run"), data=str(photos), **SETTINGS)
    with pytest.raises(ValueError, match="seeds: there is no image -5 in data .*photos; its images are numbered 0 … 19"):
        probe.evaluate(range(-5, 0))
    with pytest.raises(ValueError, match="no image 20 in data"):
        probe.predict(range(29))
    with pytest.raises(ValueError, match="no image 20 in data"):
        probe.evaluate(range(18, 22))
    assert probe.predict([19]).seeds == (19,)
    with pytest.raises(ValueError, match="no image -1 in data scenes; its images are numbered from 0 on, without end"):
        drawn(probe.generator, [3, -1], None, get_data("scenes"))


def test_as_many_are_scored_as_are_held_out(photos, tmp_path, monkeypatch, capsys):
    probe = probes.fit(BUILD(), out=str(tmp_path / "run"), data=str(photos), **SETTINGS)
    assert probe.evaluate(controls=()).metrics["seeds"] == [0, 4]
    with pytest.raises(ValueError, match=r"of the 20 images of .*photos the first 4 are held out: seeds=4"):
        probe.evaluate(5)
    monkeypatch.setattr("probes._probe.load", lambda run, device: probe)
    assert cli.main(["evaluate", "run", "--controls", "[]"]) == 0
    assert "n = 4" in " ".join(capsys.readouterr().out.split())


def test_a_picture_that_cannot_be_read_is_told_before_the_bank_is_built(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("probes._fit.open_bank", None)
    for name in ("zz.png", "b.jpg", "c.png", "d.png", "e.png", "f.png"):
        (photos / name).write_text("a few words")
    (photos / "03.png").write_bytes((photos / "02.png").read_bytes()[:20])
    with pytest.raises(ValueError, match=f"^data: 7 of the 26 images of {photos} cannot be read: {photos}/03.png: .*damaged.* "
                                         r"\(nor can b.jpg, c.png, d.png, e.png, …\); remove or replace them, .*"
                                         f"`probes data check {photos} --full` reads all of them whole"):
        probes.fit(BUILD(), out=str(tmp_path / "run"), data=str(photos), **SETTINGS)
    assert cli.main(["data", "check", str(photos), "--full", "--output", str(tmp_path / "sheet.png")]) == 0
    assert "7 of the 26 images looked at cannot be used" in capsys.readouterr().out

"""Arguments of wrong types: what means a number is taken as it, what does not is refused by its name, before any work."""
import json
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import generators
import probes
from probes._arguments import names, numbers, plain_options, seed_list, seed_range, whole_numbers
from probes.labelling import label
from probes.teachers._labels import Labels, resolved

GENERATOR = "stylegan2-scenes@760k"
FEW = {**SMALL, "steps": 2, "evaluate": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arguments") / "run"
    return folder, probes.fit(GENERATOR, out=str(folder), controls="latent, rgb", **FEW)


@pytest.mark.parametrize("change", [
    *(dict.fromkeys([name], value) for name, value in dict(
        samples=32.0, batch=2.0, rank=4.0, evaluate=4.0, steps=2.5, seed=1.9, accumulate=1.0).items()),
    dict(samples="32"), dict(evaluate=True), dict(seed=np.True_), dict(seed=torch.tensor(True)), dict(seed=None),
    dict(steps=torch.tensor([2]))], ids=str)
def test_a_count_is_a_whole_number(change, tmp_path):
    (name, value), = change.items()
    with pytest.raises(ValueError, match=f"^{name}: expected a whole number, got "):
        probes.fit(GENERATOR, **{**FEW, **change, "out": str(tmp_path / "run")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("change", "message"), [
    (dict(samples=np.float64(32)), "samples: expected a whole number, got 32.0; write samples=32"),
    (dict(samples="32"), "samples: expected a whole number, got '32'; write samples=32"),
    (dict(steps=2.5), "steps: expected a whole number, got 2.5; leave steps out for the default"),
    (dict(learning_rate="0.01"), "learning_rate: expected a number, got '0.01'; write learning_rate=0.01"),
    (dict(alpha=True), "alpha: expected a number, got True; leave alpha out for the default"),
    (dict(save_every=None), "save_every: expected a number, got None; leave save_every out for the default"),
    (dict(controls=None), "controls: expected names, got None; for none controls=()"),
    (dict(controls="latent,rbg"), "controls: unknown name 'rbg'"),
    (dict(intrinsic=["normal", "depth"]), "intrinsic: expected one name, got a list; fit each by itself"),
    (dict(intrinsic=None), "intrinsic: expected one name, got None; fit each by itself"),
    (dict(generator=None), "generator: expected a name, the path of a checkpoint or a Generator, got None; `probes list gen"),
    (dict(generator_options="truncation_psi=0.7"), "generator_options: expected a dict, got 'truncation_psi=0.7'; write gen"),
    (dict(classes="1"), "classes: expected whole numbers, got '1'; write classes=[0, 1]"),
    (dict(generator_options={1: 2}), "generator_options: expected names, got 1"),
    (dict(method_options=["rslora"]), "method_options: expected a dict, got ['rslora']; write method_options={'NAME': VALUE}"),
], ids=str)
def test_what_is_refused_says_what_to_type(change, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        probes.fit(**{"generator": GENERATOR, **FEW, **change, "out": str(tmp_path / "run")})
    assert not list(tmp_path.iterdir())


def test_numbers_of_a_sweep_are_pythons_own(tmp_path):
    given = dict(samples=np.int64(16), steps=np.int32(2), batch=np.uint8(4), rank=np.array(2), seed=torch.tensor(1),
                 evaluate=np.int64(4), accumulate=np.int64(2), save_every=np.float32(15), learning_rate=np.float32(1 / 64),
                 alpha=np.float32(2), generator_options=dict(truncation_psi=np.float32(0.5)),
                 method_options=dict(rslora=np.True_))
    probe = probes.fit(GENERATOR, out=str(tmp_path / "run"), controls=[], **{**FEW, **given})
    request = json.loads((tmp_path / "run" / "probe.json").read_text())["request"]
    plain = dict(samples=16, steps=2, batch=4, rank=2, seed=1, evaluate=4, learning_rate=1 / 64, alpha=2.0,
                 method_options=dict(rslora=True))
    assert {k: (type(v), v) for k, v in request.items() if k in plain} == {k: (type(v), v) for k, v in plain.items()}
    assert request["generator_options"]["truncation_psi"] == 0.5 and probe.record["training"]["accumulate"] == 2
    again = probes.fit(GENERATOR, out=str(tmp_path / "run"), controls=[], quiet=True, intrinsic="shading", teacher="brightness",
                       generator_options=dict(truncation_psi=0.5), save_every=15, **plain)
    assert torch.equal(again.predict([3]).map, probe.predict([3]).map)


def test_numbers_are_floats():
    given = dict(a=2, b=np.float32(0.5), c=np.array(0.5), d=torch.tensor(0.5), e=Fraction(1, 2), f=np.int64(2))
    found = numbers(**given)
    assert found == [2, 0.5, 0.5, 0.5, 0.5, 2] and {type(x) for x in found} == {float}
    assert numbers(True, a=None, b=1) == [None, 1.0] and whole_numbers(True, a=None, b=np.int64(1)) == [None, 1]


def test_options_are_plain():
    options = dict(a=np.float32(0.5), b=torch.tensor(3), c="fp32", d=None)
    found, none = plain_options(generator_options=options, method_options=None)
    assert none == {}
    assert found == dict(a=0.5, b=3, c="fp32", d=None) and json.dumps(found)
    assert names("controls", "latent, rgb,") == names("controls", ("latent", "rgb")) == ["latent", "rgb"]
    assert names("controls", "") == names("controls", ()) == []


@pytest.mark.parametrize(("seeds", "message"), [
    ([1.9], "seeds: expected whole numbers, got 1.9; try seeds=range(8)"), (["7"], "seeds: expected whole numbers, got '7'"),
    ([0, True], "seeds: expected whole numbers, got True"), (np.array([0.5]), "seeds: expected whole numbers, got 0.5"),
    ("75", "seeds: expected whole numbers, got '75'"), (2.5, "seeds: expected whole numbers, got 2.5"),
    (0, "seeds: expected numbers, got 0; for the first 1 seeds=range(1)"),
    (5, "seeds: expected numbers, got 5; for the first 5 seeds=range(5)"),
    (np.int64(5), "seeds: expected numbers, got 5; for the first 5 seeds=range(5)"),
    (torch.tensor(5), "seeds: expected numbers, got 5; for the first 5 seeds=range(5)"),
    ([], "seeds: expected at least one, got none; try seeds=range(8)"),
    (range(0), "seeds: expected at least one, got none; try seeds=range(8)")], ids=str)
def test_predict_takes_whole_numbers(run, seeds, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        run[1].predict(seeds)


def test_whole_numbers_of_any_kind_are_seeds(run):
    for seeds in (np.arange(2, 4), torch.arange(2, 4), (np.int64(2), 3), iter([2, 3]), [torch.tensor(2), np.array(3)]):
        found = seed_list(seeds)
        assert found == [2, 3] and {type(s) for s in found} == {int}
    assert run[1].predict(np.arange(2)).seeds == (0, 1)


@pytest.mark.parametrize("seeds", [2.5, "16", [], [1, 3], [3, 2], [0.0, 1.0], [1, "2"], True, 0, -3, range(0, 4, 2), range(0),
                                   dict(a=1), Decimal(3), [[0, 1]], np.array([0.5])], ids=str)
def test_evaluate_takes_a_count_or_a_range(run, seeds):
    with pytest.raises(ValueError, match=r"^seeds: expected a count of at least 1 or a range of step 1, got .*; try seeds=500"):
        run[1].evaluate(seeds)


def test_numbers_that_follow_each_other_are_a_range(run):
    for seeds in ([3, 4, 5], (3, 4, 5), np.arange(3, 6), torch.arange(3, 6), range(3, 6)):
        assert seed_range(seeds, 8) == range(3, 6)
    assert seed_range(np.int64(4), 8) == seed_range(torch.tensor(4), 8) == range(4)
    assert seed_range([7], 8) == range(7, 8) and seed_range(torch.tensor([7]), 8) == range(7, 8)
    assert run[1].evaluate([3, 4, 5], controls=()).metrics["seeds"] == [3, 3]


def test_controls_may_be_one_text(run):
    folder, probe = run
    assert json.loads((folder / "probe.json").read_text())["request"]["controls"] == ["latent", "rgb"]
    found = probe.evaluate(4, controls="rgb").metrics
    assert list(found["metrics"][found["primary"]]["controls"]) == ["rgb"]
    with pytest.raises(ValueError, match="^controls: unknown name 'latant'; did you mean 'latent'"):
        probe.evaluate(4, controls="latant")


def test_a_file_is_no_run_folder(run, tmp_path):
    folder, _ = run
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"no run")
    with pytest.raises(probes.RunError, match=f"^run: expected a run folder, got the file {folder}/probe.json; give {folder}$"):
        probes.load(folder / "probe.json")
    for path in (picture, picture / "run"):
        with pytest.raises(probes.RunError, match=f"^run: expected a run folder, got the file {picture}; give the folder that"):
            probes.load(path)


def test_a_generator_is_named(tmp_path):
    for wrong in (None, 3, ["stylegan2-scenes"]):
        with pytest.raises(ValueError, match="^generator: expected a name, the path of a checkpoint or a Generator, got "):
            generators.load(wrong)


def test_results_are_short_to_look_at(run):
    folder, probe = run
    found = repr(probe.evaluate(4, controls=()))
    assert re.fullmatch(r"Evaluation\(image-rms/1: [\w ]+ [\d.]+\S* \[[\d.]+, [\d.]+\], skill −?[\d.]+ \[−?[\d.]+, −?[\d.]+\], "
                        r"n = 4\)", found), found
    assert repr(probe.predict(range(3))) == "Prediction(shading of 3 images, map [3, 1, 64, 64], image [3, 3, 64, 64])"
    assert re.match(r"Evaluation\(image-rms/1: ", repr(probes.load(folder).last_evaluation))
    assert repr(probes._results.Evaluation({}, [{}, {}])) == "Evaluation(2 samples)"


def test_a_picture_is_a_png(run, tmp_path):
    prediction = run[1].predict([0])
    for name in ("o.jpg", "o", "o.PNG.jpeg"):
        with pytest.raises(ValueError, match=f"^output: expected a .png, got {tmp_path / name}; write .*o.*png$"):
            prediction.save_picture(tmp_path / name)
    assert not list(tmp_path.iterdir())
    prediction.save_picture(tmp_path / "o.PNG")
    assert (tmp_path / "o.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(folder, arguments of a fit) of a probe taught by labels in a folder that was named from where they are."""
    home = tmp_path_factory.mktemp("labels")
    (home / "photos").mkdir()
    for i in range(14):
        pixels = np.random.default_rng(i).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.BICUBIC).save(home / "photos" / f"{i}.png")
    label(home / "photos", teacher="brightness", intrinsic="shading", output=home / "n" / "lab", quiet=True)
    return home, dict(data=str(home / "photos"), out=str(home / "run"), controls=[],
                      **{**FEW, "samples": 11, "evaluate": 2, "teacher": "labels:n/lab", "against": "labels:n/lab"})


def test_a_folder_of_labels_is_found_from_anywhere(taught, tmp_path, monkeypatch):
    home, arguments = taught
    monkeypatch.chdir(home)
    generator = FAMILIES["stable-diffusion"][0]()
    probe = probes.fit(generator, **arguments)
    named = f"labels:{home / 'n' / 'lab'}"
    record = json.loads((home / "run" / "probe.json").read_text())
    assert record["teacher"]["name"] == record["request"]["teacher"] == record["request"]["against"] == named
    key, skill = probe.training_bank().key, probe.last_evaluation.skill
    fingerprint = Labels("n/lab", probe.images).fingerprint
    monkeypatch.chdir(tmp_path)
    again = probes.load(home / "run", generator)
    assert again.evaluate(2, controls=()).skill == pytest.approx(skill)
    assert again.training_bank().key == key and again.taught_by().fingerprint == fingerprint
    assert resolved("labels:n/lab") == "labels:n/lab" and resolved("brightness") == "brightness" and resolved(None) is None


def test_a_record_with_a_relative_folder_of_labels_still_loads(taught, tmp_path, monkeypatch):
    home, arguments = taught
    monkeypatch.chdir(home)
    folder, generator = tmp_path / "run", FAMILIES["stable-diffusion"][0]()

    def as_before():
        path = folder / "probe.json"
        path.write_text(path.read_text().replace(f"labels:{home}/", "labels:"))
        record = json.loads(path.read_text())
        assert record["teacher"]["name"] == record["request"]["teacher"] == record["request"]["against"] == "labels:n/lab"

    probes.fit(generator, **{**arguments, "out": str(folder)})
    as_before()
    loaded = probes.load(folder, generator)
    assert loaded.evaluate(2, controls=()).metrics["seeds"] == [0, 2]
    loaded.save(folder)
    assert (folder / "metrics.json").exists()           # its scores are its own still
    as_before()
    with monkeypatch.context() as patch:                # the same call: neither fitted nor scored again
        patch.setattr("probes._fit._fit_one", lambda *given: 1 / 0)
        patch.setattr("probes._fit._evaluate", lambda *given: 1 / 0)
        probes.fit(generator, **{**arguments, "out": str(folder)})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="n/lab is no folder of labels"):
        probes.load(folder, generator).evaluate(2)

"""Scoring: right figures at the images' own sizes, several protocols, what is left out is named, resumed to the same end."""
import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import probes
from probes import Teacher
from probes.cli._score import default_output
from probes.cli._score import evaluate as command
from probes.data import Photographs, Sample, get_data
from probes.images import read_image, write_map
from probes.labelling import label
from probes.metrics import get_protocol
from probes.metrics._base import _PROTOCOLS
from probes.scoring import score
from probes.scoring._choice import choose, which_samples
from probes.scoring._store import Store
from probes.scoring._table import score_table
from probes.scoring._trivial import mean_map

SIZES = ((40, 32), (32, 40), (32, 40), (36, 36))


class Slopes(Teacher):
    """Normals and depth off the picture's own brightness: made up, quick, a function of the image."""

    name, version, licence = "slopes", "1", "Apache-2.0"
    intrinsics, worlds, batch = ("normal", "depth", "shading"), ("photographs",), 2

    def label(self, image, intrinsic):
        time.sleep(float(os.environ.get("SLOW", "0")))
        x = (image.mean(1, keepdim=True) + 1) / 2
        if intrinsic == "normal":
            down = torch.linspace(1, -1, x.shape[2])[:, None].expand_as(x)
            return F.normalize(torch.cat([x - 0.5, down, -torch.ones_like(x)], 1), dim=1)
        return 1 + 3 * x if intrinsic == "depth" else x


class Rooms(Photographs):
    """Photographs with maps: those of Slopes, tilted and with holes."""

    exact, masked, parallel = ("normal", "depth", "shading"), True, True

    def __init__(self, folder):
        self.name, self.paths = str(folder), sorted(Path(folder).glob("*.png"))
        self.count = len(self.paths)

    def sample_name(self, index):
        return f"rooms/{self.paths[index].stem}"

    def files(self, index):
        return [self.paths[index]]

    def identity(self):
        return {}

    def sample(self, index, intrinsics=()):
        self.require(intrinsics)
        image = read_image(self.paths[index]).pixels
        maps = {}
        for name in intrinsics:
            values = Slopes().label(image[None], name)[0]
            if name == "normal":
                values = F.normalize(values + torch.tensor([0.1, 0.0, 0.0])[:, None, None], dim=0)
            elif name == "depth":
                values = values * 1.1
            else:
                values = values + 0.05
            values[:, :5] = torch.nan
            if self.paths[index].stem == "p03":
                values[:] = torch.nan
            maps[name] = values
        return Sample(self.sample_name(index), image, maps)


if "slopes" not in probes.teachers():
    probes.register_teacher("slopes", Slopes, "for tests")


@pytest.fixture
def rooms(tmp_path):
    folder = tmp_path / "rooms"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        small = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIZES[i % 4][::-1], Image.BICUBIC).save(folder / f"p{i:02d}.png")
    return Rooms(folder)


def predictions(rooms, folder, intrinsic="normal", change=lambda x: x, formats=("npy",)):
    for i in range(rooms.count):
        values = Slopes().label(rooms.sample(i).image[None], intrinsic)[0]
        write_map(folder / f"{rooms.sample_name(i)}-{intrinsic}", change(values), intrinsic, formats)
    return folder


def test_the_figures_are_the_protocols_own(rooms, tmp_path):
    out = tmp_path / "out"
    found = score("slopes", rooms, intrinsic="normal", output=out, trivial=0)
    angles = []
    for i in (i for i in range(12) if i != 3):
        sample = rooms.sample(i, ("normal",))
        p, t = Slopes().label(sample.image[None], "normal")[0][:, 5:].double(), sample.maps["normal"][:, 5:].double()
        angles.append(torch.rad2deg(torch.arccos((p * t).sum(0).clamp(-1, 1))))
    per_image = np.mean([float(a.mean()) for a in angles])
    pooled = float(torch.cat([a.flatten() for a in angles]).mean())
    assert found.value("normal-per-image", "mean_angular_error") == pytest.approx(per_image, abs=2e-4)
    assert found.value("normal-pooled", "mean_angular_error") == pytest.approx(pooled, abs=2e-6)
    assert abs(per_image - pooled) > 2e-5
    assert found.value("normal-pooled", "median_angular_error") == pytest.approx(
        float(torch.cat([a.flatten() for a in angles]).median()), abs=0.02)
    assert found.left_out == {"empty mask": ["rooms/p03: its normal has no value at any pixel"]}
    rows = list(csv.DictReader(open(out / "samples.csv")))
    assert [r["name"] for r in rows] == [f"rooms/p{i:02d}" for i in range(12)]
    assert rows[1]["valid_pixels"] == str(27 * 40) and float(rows[1]["normal-per-image.mean_angular_error"]) == pytest.approx(
        float(angles[1].mean()), abs=2e-4)
    results = json.loads((out / "scores.json").read_text())
    assert results["protocols"] == found.results["protocols"] and results["samples"] == 11
    assert results["identity"]["source"]["fingerprint"] == Slopes().fingerprint
    assert results["identity"]["data"]["fingerprint"] == rooms.fingerprint
    assert results["identity"]["protocols"][:2] == [str(get_protocol(n)) for n in ("normal-per-image", "normal-pooled")]
    low, high = results["protocols"]["normal-per-image"]["metrics"]["mean_angular_error"]["ci95"]
    assert low < per_image < high


def test_depth_by_several_protocols(rooms):
    found = score("slopes", rooms, intrinsic="depth", trivial=20)
    protocols = found.results["protocols"]
    assert {"depth-metric", "depth-affine", "depth-affine-disparity", "depth-minmax"} <= set(protocols)
    assert not any(name.endswith(("-nyu", "-kitti")) for name in protocols)
    assert found.value("depth-metric", "abs_rel") == pytest.approx(0.1 / 1.1, rel=1e-4)
    assert found.value("depth-affine", "abs_rel") < 1e-5 and found.value("depth-minmax", "rms") < 1e-5
    metric = protocols["depth-metric"]["metrics"]["abs_rel"]
    assert 0 < metric["skill"] < 1 and metric["trivial"] > metric["value"]
    assert found.results["trivial"] == dict(samples=11, scored=True)        # nothing is left over that is not scored
    some = score("slopes", rooms, "depth-metric,depth-minmax", output=None, first=0, count=2)
    assert list(some.results["protocols"]) == ["depth-metric", "depth-minmax"] and some.results["trivial"]["scored"] is False
    assert some.results["trivial"]["samples"] == 9 and some.results["identity"]["intrinsic"] == "depth"


def test_which_protocols_apply():
    names = [p.name for p in choose("auto", "normal", "", "")[0]]
    assert names[:2] == ["normal-per-image", "normal-pooled"] and not any("depth" in n for n in names)
    assert [p.name for p in choose("auto", "shading", "", "")[0]][0] == "image-rms"
    found, notes = choose("auto", "depth", "disparity", "metric")
    assert "depth-affine-disparity" in [p.name for p in found] and "depth-metric" not in [p.name for p in found]
    assert any(line.startswith("depth-metric is left out: ") for line in notes)
    with pytest.raises(ValueError, match="protocol: depth-metric/1 does not score a prediction that is relative depth"):
        choose(["depth-metric"], "depth", "relative", "metric")
    with pytest.raises(ValueError, match="protocol: depth-metric/1 is for depth, not normal; choose of normal-per-image"):
        choose("depth-metric", "normal", "", "")
    with pytest.raises(ValueError, match="unknown name 'depth-metrik'; did you mean 'depth-metric'"):
        choose("depth-metrik", "depth", "metric", "metric")


@pytest.mark.parametrize("formats", [("npy",), ("exr",), ("png16",)])
def test_a_folder_of_predictions(rooms, tmp_path, formats):
    folder = predictions(rooms, tmp_path / "p", formats=formats)
    expected = score("slopes", rooms, intrinsic="normal", trivial=0)
    found = score(folder, rooms, intrinsic="normal", trivial=0)
    for protocol in ("normal-per-image", "normal-pooled"):
        assert found.value(protocol, "mean_angular_error") == pytest.approx(
            expected.value(protocol, "mean_angular_error"), abs=2e-3 if "png16" in formats else 1e-4)
    assert found.results["identity"]["source"]["kind"] == "folder"


def test_a_frame_that_does_not_match_is_noticed_and_converted(rooms, tmp_path):
    opengl = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    folder = predictions(rooms, tmp_path / "p", change=lambda x: x * opengl)
    wrong = score(folder, rooms, intrinsic="normal", trivial=0)
    assert any(note.startswith("the prediction: ") and "opengl" in note for note in wrong.results["notes"])
    assert wrong.value("normal-per-image", "mean_angular_error") > 90
    right = score(folder, rooms, intrinsic="normal", frame="opengl", trivial=0)
    assert right.results["notes"] == [] and right.value("normal-per-image", "mean_angular_error") < 6
    with pytest.raises(ValueError, match="frame: unknown name 'opengle'; did you mean 'opengl'"):
        score(folder, rooms, intrinsic="normal", frame="opengle")
    with pytest.raises(ValueError, match="frame: a teacher says it itself"):
        score("slopes", rooms, intrinsic="normal", frame="opengl")


def test_predictions_that_are_missing_or_wrong_are_counted_and_named(rooms, tmp_path, capsys):
    folder = predictions(rooms, tmp_path / "p") / "rooms"
    (folder / "p01-normal.npy").unlink()
    np.save(folder / "p02-normal.npy", np.zeros((3, 9, 9), np.float32))
    holes = np.load(folder / "p04-normal.npy")
    holes[:, 20, :7] = np.nan
    np.save(folder / "p04-normal.npy", holes)
    (folder / "p06-normal.npy").write_bytes(b"\x93NUMPY no")
    np.save(folder / "p07-normal.npy", np.array([{"a": 1}], dtype=object))
    (rooms.paths[8]).write_bytes(rooms.paths[8].read_bytes()[:70])
    found = score(tmp_path / "p", rooms, "normal-per-image,normal-pooled", output=tmp_path / "o", trivial=0)
    why = found.left_out
    assert {kind: len(lines) for kind, lines in why.items()} == {
        "no prediction": 1, "size": 1, "empty mask": 1, "prediction": 1, "unreadable": 3}
    assert "9×9 pixels, the image 40×32" in why["size"][0] and why["no prediction"][0].startswith("rooms/p01: ")
    assert why["prediction"][0].startswith("rooms/p04: 7 of the ") and found.results["samples"] == 5
    assert "p08" in why["unreadable"][2] and "pickled" in why["unreadable"][1]
    with pytest.raises(ValueError, match="6 of the samples were not scored; the figures are those of the others"):
        command_on(rooms, str(tmp_path / "p"), tmp_path / "o")
    said = capsys.readouterr()
    assert "size: rooms/p02: " in said.err and "left out, unreadable: 3; rooms/p06: " in " ".join(said.out.split())
    allowed = score(tmp_path / "p", rooms, intrinsic="normal", trivial=0, allow_holes=True)
    assert "prediction" not in allowed.left_out
    coverage = allowed.results["protocols"]["normal-per-image"]["coverage"]
    assert coverage == pytest.approx(1 - 7 / (35 * 32) / 6, abs=1e-6)
    # What is mended is scored by the same command, and nothing else again.
    np.save(folder / "p04-normal.npy", np.nan_to_num(holes, nan=0.6))
    with pytest.raises(ValueError, match=r"holds scores of another source \(fingerprint\)"):
        score(tmp_path / "p", rooms, "normal-per-image,normal-pooled", output=tmp_path / "o", trivial=0)
    with pytest.raises(ValueError, match="seeds: with --data or --protocol, samples of data are scored"):
        command("slopes", "rooms", seeds=3)


def command_on(rooms, source, output, **kwargs):
    """The command, with data that has no name."""
    from unittest import mock

    with mock.patch("probes.scoring._choice.get_data", lambda data: rooms):
        command(source, "rooms", ["normal-per-image,normal-pooled"], output=str(output), trivial=0, **kwargs)


def test_depth_of_a_folder_must_be_explained(rooms, tmp_path):
    folder = predictions(rooms, tmp_path / "p", "depth", lambda x: 1 / x)
    with pytest.raises(ValueError, match="meaning: nothing in .* says what its depth is; give --meaning metric"):
        score(folder, rooms, intrinsic="depth")
    with pytest.raises(ValueError, match="meaning: expected metric, relative, disparity, got 'inverse'"):
        score(folder, rooms, intrinsic="depth", meaning="inverse")
    found = score(folder, rooms, intrinsic="depth", meaning="disparity", trivial=0)
    assert found.value("depth-affine-disparity", "abs_rel") < 1e-4 and "depth-metric" not in found.results["protocols"]
    zeros = predictions(rooms, tmp_path / "z", "depth", lambda x: (x - x.min()) / (x.max() - x.min()))
    assert score(zeros, rooms, intrinsic="depth", meaning="relative", trivial=0).value("depth-affine", "abs_rel") < 1e-4
    label(rooms, "slopes", "depth", tmp_path / "l", quiet=True)
    assert score(tmp_path / "l", rooms, intrinsic="depth", trivial=0).results["identity"]["meaning"] == "metric"


def test_bad_arguments(rooms, tmp_path):
    for error, args, kwargs in (
        ("source: nowhere is no folder, neither of a run nor of predictions, and no teacher either", ("nowhere", rooms), {}),
        ("slopez is no folder.*did you mean 'slopes'", ("slopez", rooms), {}),
        ("intrinsic: depth and normal and shading could be meant", ("slopes", rooms), {}),
        ("data: .* has no map of albedo; it knows normal, depth, shading", ("slopes", rooms), dict(intrinsic="albedo")),
        ("intrinsic: unknown name 'nomral'; did you mean 'normal'", ("slopes", rooms), dict(intrinsic="nomral")),
        ("data: nothing says what to compare with", ("slopes",), dict(intrinsic="normal")),
        ("there is no image 12", ("slopes", rooms), dict(intrinsic="normal", count=13)),
        ("count: expected at least 1, got 0", ("slopes", rooms), dict(intrinsic="normal", count=0)),
        ("trivial: expected a number of samples, or 0 .*, got -1", ("slopes", rooms), dict(intrinsic="normal", trivial=-1)),
        ("device: expected cpu or cuda, got 'cud'", ("slopes", rooms), dict(intrinsic="normal", device="cud")),
        ("batch: expected at least 1, got 0", ("slopes", rooms), dict(intrinsic="normal", batch=0)),
        ("source: exact is what the data knows", ("exact", rooms), dict(intrinsic="normal")),
        ("source: .* holds no prediction of normal for any of the 12 samples; expected rooms/p00-normal.npy",
         (tmp_path, rooms), dict(intrinsic="normal")),
        ("retinex cannot label normal", ("retinex", rooms), dict(intrinsic="normal")),
        ("none of the 1 samples of .* could be scored; 1 times empty mask", ("slopes", rooms),
         dict(intrinsic="normal", first=3, count=1, trivial=0)),
    ):
        with pytest.raises(ValueError, match=error):
            score(*args, **kwargs)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        score("slopes", rooms, intrinsic="normal", output=tmp_path / "file")


def test_a_killed_run_ends_with_the_same_scores(rooms, tmp_path):
    whole = score("slopes", rooms, intrinsic="normal", output=tmp_path / "whole", trivial=20)
    source = [inspect.getsource(c) for c in (Slopes, Rooms)]
    script = "\n".join((
        "import os, time, torch", "import torch.nn.functional as F", "from pathlib import Path", "import probes",
        "from probes import Teacher", "from probes.data import Photographs, Sample", "from probes.images import read_image",
        *source, "from probes.scoring import score",
        f"score(Slopes(), Rooms({str(rooms.name)!r}), intrinsic='normal', output={str(tmp_path / 'cut')!r}, trivial=20)"))
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "SLOW": "0.1", "PYTHONPATH": path})
    table, until = tmp_path / "cut" / "samples.csv", time.monotonic() + 60
    while time.monotonic() < until and not (table.exists() and table.read_bytes().count(b"\n") >= 6):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 6 <= table.read_bytes().count(b"\n") < 13
    with open(table, "ab") as file:
        file.write(b"11,rooms/p11,36")
    with open(table.with_name("pooling.bin"), "ab") as file:
        file.write(b"\x0b\0\0\0\xff\0")
    found = score("slopes", rooms, intrinsic="normal", output=tmp_path / "cut", trivial=20)
    assert found.results == whole.results and found.rows == whole.rows
    for name in ("samples.csv", "scores.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = score("slopes", rooms, intrinsic="normal", output=tmp_path / "cut", trivial=20)
    assert again.results == whole.results


def test_scores_of_another_are_refused(rooms, tmp_path):
    out = tmp_path / "out"
    score("slopes", rooms, "normal-per-image", output=out, trivial=0)
    with pytest.raises(ValueError, match=r"holds scores of another protocols \(\['normal-per-image/\d'\], now \['normal-p"):
        score("slopes", rooms, "normal-pooled", output=out, trivial=0)
    Image.new("RGB", (32, 40), "red").save(rooms.paths[0])
    rooms = Rooms(rooms.name)
    with pytest.raises(ValueError, match=r"scores of another data \(fingerprint\); choose another folder"):
        score("slopes", rooms, "normal-per-image", output=out, trivial=0)
    assert score("slopes", rooms, "normal-per-image", output=out, trivial=0, overwrite=True).results["samples"] == 11


def test_a_probe_sees_photographs_as_predict_does(rooms, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in rooms.paths:
        (photos / path.name).write_bytes(path.read_bytes())
    probe = probes.fit(FAMILIES["stable-diffusion"][0](), data=str(photos), out=str(tmp_path / "run"), controls=[],
                       **{**SMALL, "samples": 10, "steps": 4, "evaluate": 0})
    found = score(probe, rooms, trivial=0, batch=1)
    maps = probe.predict(images=rooms.paths)
    errors = [float((m.map - rooms.sample(i, ("shading",)).maps["shading"])[:, 5:].square().mean().sqrt())
              for i, m in enumerate(maps) if i != 3]
    assert found.value("image-rms", "rms") == pytest.approx(np.mean(errors), rel=1e-4)
    assert score(probe, rooms, trivial=0).value("image-rms", "rms") == pytest.approx(np.mean(errors), rel=1e-3)
    probe.save(tmp_path / "run")
    monkeypatch.setattr("probes._probe._rebuilt", lambda *_: FAMILIES["stable-diffusion"][0]())
    kept = score(tmp_path / "run", rooms, "image-rms", trivial=0)
    assert kept.results["identity"]["source"]["kind"] == "probe"
    assert kept.value("image-rms", "rms") == score(probe, rooms, "image-rms", trivial=0).value("image-rms", "rms")
    with pytest.raises(ValueError, match="intrinsic: this probe emits shading, not normal"):
        score(probe, rooms, intrinsic="normal")
    with pytest.raises(ValueError, match="has no map of shading; it knows images only"):
        score(probe)


def test_samples_of_the_fit_are_never_scored(tmp_path):
    settings = {**SMALL, "samples": 12, "steps": 2, "evaluate": 0, "teacher": "exact", "controls": []}
    probe = probes.fit(FAMILIES["stable-diffusion"][0](), data="scenes", out=str(tmp_path / "run"), **settings)
    first = probe.fitted_on.start
    found = score(probe, count=6, trivial=12)
    assert found.results["identity"]["samples"] == [0, 6] and found.results["trivial"]["scored"] is False
    with pytest.raises(ValueError, match="overlap those this probe was fitted on"):
        score(probe, first=first + 2, count=6)
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        score(probe, count=0)
    gan = probes.fit(FAMILIES["stylegan2"][0](), out=str(tmp_path / "gan"), **{**SMALL, "steps": 2, "evaluate": 0})
    with pytest.raises(ValueError, match="draws its own images and looks at no others"):
        score(gan, "scenes", count=2)


def with_maps(rooms, folder, intrinsics=("depth",)):
    """maps:FOLDER, of the images of rooms that have a map."""
    folder.mkdir()
    for i in (i for i in range(rooms.count) if i != 3):
        sample = rooms.sample(i, intrinsics)
        (folder / rooms.paths[i].name).write_bytes(rooms.paths[i].read_bytes())
        for name in intrinsics:
            np.save(folder / f"{rooms.paths[i].stem}-{name}.npy", sample.maps[name].numpy())
    return folder


def test_images_of_the_fit_are_known_whatever_the_data_is_called(rooms, tmp_path):
    folder = with_maps(rooms, tmp_path / "d", ("depth", "shading"))
    told = get_data(f"images:{folder}")
    numbers = told.training(100)
    probe = SimpleNamespace(untaught=False, data=None, record=dict(
        data=dict(name=told.name, fingerprint=told.fingerprint), bank=dict(first_seed=numbers.start, samples=len(numbers))))
    fitted = {told.paths[i].name for i in numbers}
    data = get_data(f"maps:{folder}")
    assert data.fingerprint != told.fingerprint and len(fitted) > data.count // 2
    found, notes = which_samples(data, probe, None, None)
    assert {data.files(i)[0].name for i in found} == {p.image.name for p in data.pairs} - fitted and found
    assert "images of maps:" in notes[0] and "are left out: this probe was fitted on them, as images:" in notes[0]
    assert which_samples(data, probe, None, 1)[0] == found[:1]
    with pytest.raises(ValueError, match="overlap those this probe was fitted on"):
        which_samples(data, probe, 0, data.count)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert which_samples(get_data(f"maps:{link}"), probe, None, None)[0] == found
    other = get_data(f"maps:{with_maps(rooms, tmp_path / 'other')}")
    assert which_samples(other, probe, None, None) == (list(range(11)), [])
    probe.record["data"]["fingerprint"] = "of before"
    with pytest.raises(ValueError, match="shares images with images:.* has changed since"):
        which_samples(data, probe, None, None)
    probe.record["data"]["name"] = "images:/nowhere/at/all"
    assert "cannot be opened, so nobody checked" in which_samples(data, probe, None, None)[1][0]


def test_with_holes_skill_compares_the_same_pixels(rooms, tmp_path):
    folder = tmp_path / "p"
    mean = score("slopes", rooms, "depth-metric", intrinsic="depth").results["protocols"]["depth-metric"]["metrics"]["abs_rel"]
    assert mean["skill"] > 0
    trivial = mean_map(rooms, "depth", list(range(12)), 200, 1)
    for i in range(12):                 # the trivial predictor itself, where depth is small: no skill at all
        values = trivial.at(rooms.sample(i).size, "depth")
        values = torch.where(rooms.sample(i, ("depth",)).maps["depth"] < 2.2, values, torch.nan)
        write_map(folder / f"{rooms.sample_name(i)}-depth", values, "depth", ("npy",))
    found = score(folder, rooms, "depth-metric", intrinsic="depth", meaning="metric", allow_holes=True).results
    metric = found["protocols"]["depth-metric"]["metrics"]["abs_rel"]
    assert metric["skill"] == pytest.approx(0, abs=1e-6) and metric["trivial"] == pytest.approx(metric["value"], rel=1e-6)
    assert 0.05 < found["protocols"]["depth-metric"]["coverage"] < 0.95


def test_a_prediction_that_is_all_holes_is_not_scored(rooms, tmp_path):
    folder = predictions(rooms, tmp_path / "p", "depth")
    for i in (1, 2):
        path = folder / f"rooms/p{i:02d}-depth.npy"
        np.save(path, np.full_like(np.load(path), np.nan))
    found = score(folder, rooms, "depth-metric", intrinsic="depth", meaning="metric", allow_holes=True, trivial=0)
    assert found.results["samples"] == 9 and found.left_out["prediction"] == [
        f"rooms/p0{i}: it has no value at any pixel that has truth" for i in (1, 2)]


def test_a_protocol_that_scores_nothing_is_left_out_with_a_note(rooms, monkeypatch):
    nothing = replace(get_protocol("depth-affine"), name="depth-nowhere", region=lambda t: torch.zeros_like(t[:, 0]).bool())
    monkeypatch.setitem(_PROTOCOLS, "depth-nowhere", nothing)
    results = score("slopes", rooms, ["depth-metric", "depth-nowhere"], intrinsic="depth", trivial=0).results
    assert list(results["protocols"]) == ["depth-metric"]
    assert "depth-nowhere is left out: none of the 11 samples has a pixel that it scores" in results["notes"]
    with pytest.raises(ValueError, match="protocol: depth-nowhere is left out: none of the 11 samples"):
        score("slopes", rooms, "depth-nowhere", intrinsic="depth", trivial=0)


def test_a_change_anywhere_in_a_file_is_noticed(rooms, tmp_path):
    data = with_maps(rooms, tmp_path / "d")
    folder, out = tmp_path / "p", tmp_path / "o"
    folder.mkdir()
    for path in sorted(data.glob("*.png")):
        np.save(folder / f"{path.stem}-depth.npy", np.load(data / f"{path.stem}-depth.npy"))
    big = rooms.sample(0, ("depth",)).maps["depth"].numpy()
    args = dict(intrinsic="depth", meaning="metric", trivial=0, output=out)
    path = folder / "p00-depth.npy"
    np.save(path, np.pad(big, ((0, 0), (0, 0), (0, 20_000))))         # 3 MB; of the wrong size, which is told
    assert "size" in score(folder, f"maps:{data}", "depth-metric", **args).left_out
    values = np.load(path)
    values[0, 12, 3000] = 7             # neither near the beginning, the middle nor the end
    np.save(path, values)
    with pytest.raises(ValueError, match=r"another source \(fingerprint\)"):
        score(folder, f"maps:{data}", "depth-metric", **args)
    np.save(path, np.load(data / "p00-depth.npy"))
    score(folder, f"maps:{data}", "depth-metric", **args, overwrite=True)
    truth = np.load(data / "p05-depth.npy")
    truth[0, 20, 20] += 1
    np.save(data / "p05-depth.npy", truth)
    with pytest.raises(ValueError, match=r"another data \(fingerprint\)"):
        score(folder, f"maps:{data}", "depth-metric", **args)
    with pytest.raises(ValueError, match="is the map of maps:.* itself"):
        score(data, f"maps:{data}", "depth-metric", **args, overwrite=True)


def test_labels_are_never_called_truth(rooms, tmp_path):
    from rich.console import Console

    out = tmp_path / "l"
    label(rooms.paths, "slopes", "normal", out, quiet=True, with_images=True)
    data = get_data(f"maps:{out}")
    assert data.made_by == "slopes 1"
    with pytest.raises(ValueError, match="labels of slopes 1, which is what is to be scored; nobody is judged by their own"):
        score("slopes", data, intrinsic="normal")
    folder = tmp_path / "p"
    for i in range(data.count):
        values = data.sample(i, ("normal",)).maps["normal"]
        write_map(folder / f"{data.sample_name(i)}-normal", F.normalize(values + 0.1, dim=0), "normal", ("npy",))
    results = score(folder, data, "normal-per-image", trivial=0, intrinsic="normal").results
    assert results["identity"]["data"]["labels_of"] == "slopes 1" and "labels of slopes 1, not the truth" in results["notes"][0]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    console.print(score_table(results))
    assert "compared with labels of slopes 1, not with the truth" in console.export_text()


def test_the_store_holds_large_numbers_and_refuses_damaged_rows(tmp_path):
    columns, big = ["index", "name", "a.b", "skipped"], 1 << 40
    store = Store(tmp_path, {}, columns, False)
    store.keep(set())
    for i in (big, 3):
        store.add(i, {"index": i, "name": f"n{i}", "a.b": 0.5, "skipped": ""}, {"h": np.full(4, i % 7)})
    assert store.extras(big)["h"].tolist() == [big % 7] * 4 and store.extras(5) == {}
    again = Store(tmp_path, {}, columns, False)
    again.keep({big})
    assert again.extras(big)["h"].tolist() == [big % 7] * 4 and again.extras(3) == {} and list(again.rows) == [big]
    table = tmp_path / "samples.csv"
    whole = table.read_text()
    for line, why in (("4,n4,0.5", "expected 4 cells"), ("4,n4,0.5,,", "expected 4 cells"), ("4,n4,O.5,", "'O.5'"),
                      (f"{big},n,0.5,", f"sample {big} has a row already"), ("x,n,0.5,", "'x'")):
        table.write_text(f"{whole}{line}\n")
        with pytest.raises(ValueError, match=f"samples.csv, line 3 is damaged .*{why}.*--overwrite true"):
            Store(tmp_path, {}, columns, False)


def test_the_table_fits_the_terminal(rooms):
    from rich.console import Console

    results = score("slopes", rooms, intrinsic="normal").results
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    console.print(score_table(results))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and sum("normal-p" in line for line in lines) == 2
    figure = results["protocols"]["normal-per-image"]["metrics"]["mean_angular_error"]
    row = next(line for line in lines if "mean angular error" in line)
    assert f"{figure['value']:.3f}" in row and "…" in row and "↓" in row
    assert any("11 scored samples, so skill is rather too low" in " ".join(line.split()) for line in [" ".join(lines)])
    assert default_output("runs/a b", "diode:/d/x,split=val", None) == Path("scores/a-b-x-split=val")
    assert get_data("scenes").name == "scenes"

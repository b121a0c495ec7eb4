"""Scoring: right figures at the images' own sizes, several protocols, what is left out is named, resumed to the same end."""
import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from make_rooms import Rooms, Slopes, predictions
from PIL import Image
from tiny import SMALL

import probes
from probes.cli._score import default_output
from probes.cli._score import evaluate as command
from probes.data import get_data
from probes.labelling import label
from probes.metrics import get_protocol
from probes.scoring import score
from probes.scoring._choice import choose
from probes.scoring._table import score_table


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


def test_the_mean_map_is_of_unit_normals_and_compared_where_a_prediction_is(rooms, tmp_path):
    """By hand, of pictures of one size: mean normals that stay short have another L1, and pixels that a prediction leaves out
    would make its skill a comparison of different parts of the pictures."""
    rooms.paths = [path for i, path in enumerate(rooms.paths) if i % 4 in (1, 2)]
    rooms.count = len(rooms.paths)
    folder = predictions(rooms, tmp_path / "p", change=lambda x: x.index_fill(2, torch.arange(25), torch.nan))
    found = score(folder, rooms, "normal-per-image", intrinsic="normal", trivial=20, allow_holes=True)
    known, samples = (slice(None), slice(5, None), slice(25, None)), [rooms.sample(i, ("normal",)) for i in range(6)]
    truths = torch.stack([s.maps["normal"][known] for s in samples])
    said = torch.stack([Slopes().label(s.image[None], "normal")[0][known] for s in samples])
    mean = torch.nn.functional.normalize(truths.mean(0, keepdim=True), dim=1)
    figures = dict(mean_angular_error=lambda p: torch.rad2deg(torch.arccos((p.double() * truths).sum(1).clamp(-1, 1))).mean(),
                   l1=lambda p: 100 * (p - truths).abs().mean())
    for name, by_hand in figures.items():
        metric = found.results["protocols"]["normal-per-image"]["metrics"][name]
        value, trivial = float(by_hand(said)), float(by_hand(mean))
        got = [metric[figure] for figure in ("value", "trivial", "skill")]
        assert got == pytest.approx([value, trivial, 1 - value / trivial], rel=1e-4)


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
        ("device: expected 'cpu', .* got 'cud'", ("slopes", rooms), dict(intrinsic="normal", device="cud")),
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

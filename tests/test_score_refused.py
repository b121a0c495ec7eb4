"""What scoring leaves out or refuses: samples of the fit, holes, labels taken for truth, files that have changed."""
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES
from make_rooms import predictions, with_maps
from tiny import SMALL

import probes
from probes.data import get_data
from probes.images import write_map
from probes.labelling import label
from probes.metrics import get_protocol
from probes.metrics._base import _PROTOCOLS
from probes.scoring import score
from probes.scoring._choice import which_samples
from probes.scoring._store import Store
from probes.scoring._table import score_table
from probes.scoring._trivial import mean_map


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

"""Labels on disk: complete after whatever happened, whose they are, and the same to a fit as their teacher."""
import csv
import hashlib
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
from PIL import Image
from tiny import SMALL, Brightness

import probes
from probes._files import OutputError
from probes.cli._label import label as command
from probes.data import get_data
from probes.data._folder import Images
from probes.images import read_image
from probes.labelling._label import label, open_images
from probes.teachers._labels import Labels

SIZES = ((40, 32), (32, 40), (32, 40), (36, 36))


class Slow(Brightness):
    """Takes its time, and makes holes where the picture is dark."""

    name, batch, masked = "slow", 2, True

    def label(self, image, intrinsic):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return torch.where(image.mean(1, keepdim=True) < -0.9, torch.nan, super().label(image, intrinsic))


if "slow" not in probes.teachers():
    probes.register_teacher("slow", Slow, "for tests")
if "labels:…" not in probes.teachers():
    from probes.teachers import register_teacher_kind

    register_teacher_kind("labels", Labels, "for tests")


def photographs(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        small = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIZES[i % 4][::-1], Image.BICUBIC).save(folder / f"p{i:02d}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


@pytest.fixture
def photos(tmp_path):
    return photographs(tmp_path / "photos")


def quietly(*args, **kwargs):
    return label(*args, **{"quiet": True, **kwargs})


def test_labels_are_the_teachers_word_at_the_images_size(photos, tmp_path):
    out = tmp_path / "labels"
    done = quietly(photos, "slow", ["shading", "albedo"], out, ("npy", "exr"))
    assert (done.written, done.kept, done.failed) == (12, 0, ())
    teacher = Slow()
    for i, path in enumerate(sorted(photos.iterdir())):
        array = np.load(out / f"{path.stem}-shading.npy")
        assert array.dtype == np.float32 and array.shape == (1, *SIZES[i % 4])
        np.testing.assert_allclose(array, teacher.label(read_image(path).pixels[None], "shading")[0], atol=1e-6)
        assert (out / f"{path.stem}-albedo.exr").exists()
    about = json.loads((out / "labels.json").read_text())
    assert about["teacher"] == dict(name="slow", version="1", fingerprint=teacher.fingerprint, licence="Apache-2.0", source="")
    assert set(about["intrinsics"]) == {"shading", "albedo"} and about["images"] == 12 and about["masked"] is True
    rows = list(csv.DictReader(open(out / "labels.csv")))
    assert {(r["name"], r["intrinsic"]) for r in rows} == {(p.stem, i) for p in photos.iterdir() for i in ("shading", "albedo")}
    for row in rows:
        stem = f"{row['name']}-{row['intrinsic']}"
        digests = [hashlib.sha256((out / f"{stem}{ending}").read_bytes()).hexdigest() for ending in (".npy", ".exr")]
        assert row["map"] == f"npy:{digests[0]} exr:{digests[1]}"
    assert all(r["image"].startswith("file:") and len(r["image"]) == 69 for r in rows)
    before = contents(out)
    assert quietly(photos, "slow", "shading,albedo", out, ("npy", "exr")).kept == 12
    assert contents(out) == before
    (out / "p03-shading.npy").unlink()
    again = quietly(photos, "slow", "shading,albedo", out, ("npy", "exr"))
    assert (again.written, again.kept) == (1, 11) and contents(out) == before


def test_an_intrinsic_can_be_added_later(photos, tmp_path):
    out = tmp_path / "labels"
    quietly(photos, "slow", "shading", out)
    assert quietly(photos, "slow", "albedo", out).written == 12
    both = Labels(out, get_data(photos))
    assert set(both.intrinsics) == {"shading", "albedo"} and len(both.rows) == 24


def test_maps_that_nobody_vouches_for_never_pass_for_the_teachers(photos, tmp_path):
    out, foreign = tmp_path / "l", np.full((1, 40, 32), 123.0, np.float32)
    out.mkdir()
    np.save(out / "p00-albedo.npy", foreign)
    np.save(out / "other-albedo.npy", foreign)
    quietly(photos, "slow", "shading", out)
    with pytest.raises(ValueError, match=r"holds maps of albedo \(other-albedo.npy\) without a labels.json"):
        quietly(photos, "slow", "albedo", out)
    with pytest.raises(ValueError, match="other-albedo.npy.* is not discarded"):
        quietly(photos, "slow", "albedo", out, overwrite=True)
    assert (out / "p00-shading.npy").exists() and np.load(out / "p00-albedo.npy").max() == 123
    quietly(photos, "slow", "shading", out, overwrite=True)                 # discards what it vouches for and no other
    assert np.load(out / "p00-albedo.npy").max() == 123
    with pytest.raises(ValueError, match="knows none of the 12 images"):
        Labels(out, get_data(photos)).label_indexed(torch.zeros(1, 3, 40, 32), "albedo", [0])
    (out / "other-albedo.npy").unlink()
    (out / "p00-albedo.npy").rename(out / "p00-albedo-16bit.png")
    with pytest.raises(ValueError, match="p00-albedo-16bit.png"):
        quietly(photos, "slow", "albedo", out)
    (out / "p00-albedo-16bit.png").unlink()
    quietly(photos, "slow", "albedo", out, count=3)
    np.save(out / "p05-albedo.npy", foreign)                                # listed by now, but no row names it
    assert quietly(photos, "slow", "albedo", out).written == 9 and np.load(out / "p05-albedo.npy").max() <= 1


def test_an_altered_label_is_another_label(photos, tmp_path):
    out = tmp_path / "l"
    quietly(photos, "slow", "shading", out)
    before = Labels(out, get_data(photos))
    assert before.fingerprint == Labels(out, get_data(photos)).fingerprint != Slow().fingerprint
    values = np.load(out / "p02-shading.npy")
    values[0, 20, 20] += 0.25
    np.save(out / "p02-shading.npy", values)
    with pytest.raises(ValueError, match="p02-shading.npy is not the map that slow 1 gave: it has changed"):
        before.label_indexed(torch.zeros(1, 3, 32, 40), "shading", [2])
    with pytest.raises(ValueError, match="1 of the maps in .* are not the ones that were written, p02-shading.npy for one"):
        quietly(photos, "slow", "shading", out)
    table = out / "labels.csv"
    digest = hashlib.sha256((out / "p02-shading.npy").read_bytes()).hexdigest()
    rows = list(csv.DictReader(open(table)))
    old = next(r["map"] for r in rows if r["name"] == "p02")
    table.write_text(table.read_text().replace(old, f"npy:{digest}"))
    assert Labels(out, get_data(photos)).fingerprint != before.fingerprint


def test_a_format_can_be_added_and_its_codes_text_is_missed(photos, tmp_path):
    out = tmp_path / "l"
    quietly(photos, "slow", "shading", out, count=4)
    first = contents(out)
    assert quietly(photos, "slow", "shading", out, ("npy", "png16"), count=4).written == 4
    assert all(contents(out)[name] == data for name, data in first.items() if name.endswith(".npy"))
    assert quietly(photos, "slow", "shading", out, ("npy", "png16"), count=4).kept == 4
    (out / "p01-shading-16bit.json").unlink()
    assert quietly(photos, "slow", "shading", out, ("npy", "png16"), count=4).written == 1
    assert (out / "p01-shading-16bit.json").exists() and len(Labels(out, get_data(photos)).rows) == 4


def test_images_are_not_copied_over_themselves(photos):
    for out in (photos, photos.parent):
        with pytest.raises(ValueError, match="with_images: the images lie in .* already"):
            quietly(photos, "slow", "shading", out, with_images=True)
    assert len(list(photos.parent.rglob("*"))) == 13


def test_unreadable_images_are_left_out_and_named(photos, tmp_path, capsys):
    (photos / "p05.png").write_bytes((photos / "p05.png").read_bytes()[:80])
    (photos / "p06.png").write_text("no image at all")
    done = quietly(photos, "slow", "shading", tmp_path / "l")
    assert done.written == 10 and len(done.failed) == 2 and "p05" in done.failed[0] and "p06" in done.failed[1]
    with pytest.raises(ValueError, match="2 of 12 images could not be labelled; the others are done"):
        command([str(photos)], "slow", "shading", str(tmp_path / "l"))
    assert "p06: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="2 of the 12 images of .* have no shading in .*, p0[56] for one"):
        teacher = Labels(tmp_path / "l", get_data(photos))
        teacher.label_indexed(torch.zeros(12, 3, 16, 16), "shading", range(12))


def test_what_a_teacher_refuses_is_told_and_what_it_leaves_empty(tmp_path):
    folder = photographs(tmp_path / "p", 4)
    done = quietly(folder, "scenes", "normal", tmp_path / "a")       # needs multiples of 16
    assert done.written == 0 and len(done.failed) == 4 and "multiples of 16" in done.failed[0]
    Image.new("RGB", (32, 32)).save(folder / "black.png")
    done = quietly(folder, "slow", "shading", tmp_path / "b")
    assert done.written == 4 and done.failed == ("black: slow has no shading for any pixel of it",)
    dark = Image.open(folder / "p00.png")
    dark.paste((0, 0, 0), (0, 0, 20, 20))
    dark.save(folder / "dark.png")
    done = quietly(folder, "slow", "shading", tmp_path / "c", ("png16",))
    assert done.written == 4 and any("dark: " in line and "no code; use" in line for line in done.failed)


def test_labels_of_others_are_refused(photos, tmp_path):
    out = tmp_path / "l"
    quietly(photos, "slow", "shading", out)
    with pytest.raises(ValueError, match=r"holds labels of teacher name 'slow', now 'brightness'; choose .*--overwrite true"):
        quietly(photos, "brightness", "shading", out)
    other = photographs(tmp_path / "other", 2)
    (other / "p00.png").rename(other / "x.png")
    (other / "p01.png").rename(other / "y.png")
    with pytest.raises(ValueError, match="labels of other images"):
        quietly(other, "slow", "shading", out)
    with pytest.raises(ValueError, match="data .*photos, now scenes"):
        quietly("scenes", "slow", "shading", out, count=2)
    Image.new("RGB", (32, 32), "red").save(photos / "p01.png")
    with pytest.raises(ValueError, match="1 of the images have changed since they were labelled in .*p01 for one"):
        quietly(photos, "slow", "shading", out)
    with pytest.raises(ValueError, match="image p01 of .* is not the one that was labelled"):
        Labels(out, get_data(photos)).label_indexed(torch.zeros(1, 3, 32, 32), "shading", [1])
    assert quietly(photos, "brightness", "shading", out, overwrite=True).written == 12
    assert json.loads((out / "labels.json").read_text())["teacher"]["name"] == "brightness"
    (out / "labels.json").unlink()
    with pytest.raises(ValueError, match="holds maps .* without a labels.json"):
        quietly(photos, "brightness", "shading", out)


def test_bad_arguments(photos, tmp_path):
    out = tmp_path / "l"
    for error, kwargs in {
        "teacher: unknown name 'slwo'; did you mean 'slow'": dict(teacher="slwo"),
        "intrinsic: unknown name 'shadng'; did you mean 'shading'": dict(intrinsic="shadng"),
        "cannot label normal, only albedo, shading": dict(intrinsic="normal"),
        "formats: unknown name 'jpg'": dict(formats=["jpg"]),
        "formats: png does not hold the values": dict(formats=["png"]),
        "batch: expected at least 1": dict(batch=0),
        "device: expected 'cpu', 'cuda', .* got 'cud'": dict(device="cud"),
        "threads: expected at least 1": dict(threads=0),
        "there is no image 19": dict(count=20),
        "there is no image -1": dict(first=-1),
    }.items():
        with pytest.raises(ValueError, match=error):
            quietly(photos, **{"teacher": "slow", "intrinsic": "shading", "output": out, **kwargs})
    assert not list(out.glob("*.npy"))
    with pytest.raises(ValueError, match="have no end; say how many with --count"):
        quietly("scenes", "scenes", "normal", out)
    with pytest.raises(ValueError, match="data: unknown name 'scnes'"):
        quietly("scnes", "scenes", "normal", out)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write .*file"):
        quietly(photos, "slow", "shading", tmp_path / "file")


def test_what_is_opened(photos, tmp_path):
    few = photographs(tmp_path / "few", 3)
    assert open_images(few).count == 3                              # a fit needs ten, labels do not
    assert isinstance(open_images(photos), Images)
    assert [open_images(photos).sample_name(i) for i in range(12)] == [get_data(photos).sample_name(i) for i in range(12)]
    assert open_images(str(few / "*.png")).count == 3 and open_images([few / "p00.png", str(photos)]).count == 13
    assert open_images(few / "p00.png").count == 1 and open_images("scenes").name == "scenes"


def test_scenes_become_a_dataset_with_their_images(tmp_path):
    out = tmp_path / "l"
    assert quietly("scenes", "exact", ["normal", "depth"], out, first=3, count=4, with_images=True).written == 4
    scenes = get_data("scenes")
    for i in range(3, 7):
        sample = scenes.sample(i, ("normal", "depth"))
        assert (read_image(out / "images" / f"{i:06d}.png").pixels - sample.image).abs().max() < 2 / 65535
        np.testing.assert_array_equal(np.load(out / f"{i:06d}-depth.npy"), sample.maps["depth"])
    about = json.loads((out / "labels.json").read_text())["intrinsics"]
    assert about["depth"]["meaning"] == "metric" and about["depth"]["unit"] == "m" and about["normal"]["frame"] == "omnidata"
    teacher = Labels(out, scenes)
    assert teacher.meaning("depth") == "metric" and teacher.options("depth") == scenes.options("depth")
    stored = teacher.label_indexed(torch.zeros(2, 3, 64, 64), "normal", [4, 6])
    torch.testing.assert_close(stored, scenes.truth([4, 6], 64, "normal"), rtol=0, atol=1e-6)
    beside = get_data(f"maps:{out}")                    # the folder is a dataset by itself
    assert beside.count == 4 and {"normal", "depth"} <= set(beside.exact)
    sample = beside.sample(1, ("normal", "depth"))
    torch.testing.assert_close(sample.maps["normal"], scenes.truth([4], 64, "normal")[0], rtol=0, atol=1e-6)
    assert (sample.image - scenes.sample(4).image).abs().max() < 2 / 65535
    with pytest.raises(ValueError, match="image 000009 of scenes has no normal"):
        teacher.label_indexed(torch.zeros(1, 3, 64, 64), "normal", [9])


def test_a_killed_run_ends_with_the_same_labels(photos, tmp_path):
    quietly(photos, "slow", "shading", tmp_path / "whole", with_images=True)
    script = "\n".join(("import os, time, torch", "from tiny import Brightness", inspect.getsource(Slow),
                        "from probes.labelling import label",
                        f"label({str(photos)!r}, Slow(), 'shading', {str(tmp_path / 'cut')!r}, with_images=True, quiet=True)"))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "SLOW": "0.3", "PYTHONPATH": path})
    table = tmp_path / "cut" / "labels.csv"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (table.exists() and table.read_bytes().count(b"\n") >= 4):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = table.read_bytes().count(b"\n") - 1
    assert 3 <= rows < 12
    with open(table, "ab") as file:
        file.write(b"p11,40,3")                 # a row that was cut in two
    done = quietly(photos, "slow", "shading", tmp_path / "cut", with_images=True)
    assert done.kept == rows and done.written == 12 - rows
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    assert set(whole) == {name for name in cut if not name.endswith(".tmp")}
    for name, data in whole.items():
        if name != "labels.csv":
            assert cut[name] == data, name
    assert sorted(whole["labels.csv"].splitlines()) == sorted(cut["labels.csv"].splitlines())


def test_one_process_at_a_time_and_no_escape_from_the_folder(photos, tmp_path, monkeypatch):
    from probes._rows import holding

    with holding(tmp_path / "l", "label"), pytest.raises(ValueError, match="another `probes label` is writing"):
        quietly(photos, "slow", "shading", tmp_path / "l")
    data = Images(photos)
    for name in ("../p00", "/p00", "a//b", "a\nb"):
        monkeypatch.setattr(data, "_names", [name] * 12)
        with pytest.raises(ValueError, match="expected a relative path"):
            quietly(data, "slow", "shading", tmp_path / "l")


def test_a_fit_on_labels_has_the_targets_of_their_teacher(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((32, 32), Image.BICUBIC).save(photos / f"{i}.png")
    data, out = get_data(photos), tmp_path / "labels"
    quietly(photos, "brightness", "shading", out)
    settings = {**SMALL, "samples": 12, "steps": 3, "evaluate": 3, "controls": []}
    banks = []
    for teacher in ("brightness", f"labels:{out}"):
        probe = probes.fit(FAMILIES["stable-diffusion"][0](), data=data, out=str(tmp_path / teacher[:6]),
                           **{**settings, "teacher": teacher})
        assert probe.record["teacher"]["name"] == teacher
        banks.append(probe.training_bank())
    assert banks[0].key != banks[1].key
    np.testing.assert_allclose(banks[0].targets, banks[1].targets, atol=2e-3)       # float16, and photographs of the fit's size
    with pytest.raises(ValueError, match="labels:.* knows images by their names"):
        probes.fit(FAMILIES["stylegan2"][0](), **{**settings, "teacher": f"labels:{out}"})
    with pytest.raises(ValueError, match="no folder of labels"):
        Labels(photos, data)

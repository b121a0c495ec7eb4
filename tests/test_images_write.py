"""Maps out: files that lose nothing, pictures to look at, and the memory that a large photograph takes on its way."""
from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from make_images import codes, noise
from PIL import Image

from probes._files import OutputError
from probes.images import read_image, write_map
from probes.images._codes import coding
from probes.images._png import write_png
from probes.report import display


def maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(3, 150, 37))
    return {"normal": (normal / np.linalg.norm(normal, axis=0)).astype(np.float32),
            "depth": rng.uniform(0.7, 9.3, (1, 150, 37)).astype(np.float32),
            "albedo": rng.random((3, 150, 37), np.float32), "shading": rng.random((1, 150, 37), np.float32)}


@pytest.mark.parametrize("name", ["normal", "depth", "albedo", "shading"])
def test_written_maps_are_read_back(name, tmp_path):
    values = maps()[name]
    paths = write_map(tmp_path / "new" / "photo.v2", torch.from_numpy(values), name, formats=("npy", "png16", "png"))
    assert [p.name for p in paths] == ["photo.v2.npy", "photo.v2-16bit.png", "photo.v2-16bit.json", "photo.v2.png"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)
    stored = np.load(paths[0])
    assert stored.dtype == np.float32 and (stored == values).all()
    about = json.loads(paths[2].read_text())
    picture = Image.open(paths[1])
    assert json.loads(picture.text["probes-map"]) == about
    assert about["intrinsic"] == name and about["shape"] == list(values.shape)
    assert about["unit"] == {"depth": "m", "normal": ""}.get(name, about["unit"])
    # Pillow reads 16-bit grey itself; colour comes through the reader above, whose precision its own tests establish
    read = np.asarray(picture)[None] if len(values) == 1 else codes(read_image(paths[1]), 16).transpose(2, 0, 1)
    back = about["offset"] + about["scale"] * read.astype(float)
    assert np.abs(back - values).max() <= about["scale"] * 0.5001
    assert about["scale"] == pytest.approx({"normal": 2 / 65535, "depth": 8.6 / 65534}.get(name, 1 / 65535), rel=2e-3)
    shown = np.asarray(Image.open(paths[3])).astype(int)
    expected = ((display(name, values[None])[0].numpy().transpose(1, 2, 0) + 1) * 127.5 + 0.5).astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_pixels_without_a_value(tmp_path):
    for name in ("normal", "depth"):
        values = maps()[name]
        values[:, 3, 4] = np.nan
        values[0, 5, 6] = np.inf
        png, side = write_map(tmp_path / name, values, name, formats=("png16",))
        read = codes(read_image(png), 16)
        assert json.loads(side.read_text())["no_value"] == 0
        assert [tuple(p) for p in np.argwhere((read == 0).all(-1))] == [(3, 4), (5, 6)]
    values = maps()["albedo"]
    values[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="albedo holds NaN.*npy"):
        write_map(tmp_path / "albedo", values, "albedo", formats=("npy", "png16"))
    assert not list(tmp_path.glob("albedo*"))       # nothing is written when something cannot be


@pytest.mark.parametrize("values", [np.full((1, 9, 9), 2.5, np.float32), np.full((1, 9, 9), np.nan, np.float32),
                                    np.array([[[1e-30, 2e-30], [3e-30, 1e-30]]], np.float32)])
def test_flat_empty_and_tiny_depth(values, tmp_path):
    png, side, picture = write_map(tmp_path / "a", values, "depth", formats=("png16", "png"))
    about = json.loads(side.read_text())
    read = np.asarray(Image.open(png))[None].astype(float)
    back = np.where(read == 0, np.nan, about["offset"] + about["scale"] * read)
    np.testing.assert_allclose(back, values, rtol=1e-4)


def test_exr_holds_the_floats(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    for name, channels in (("normal", "RGB"), ("depth", "Z"), ("shading", "Y"), ("albedo", "RGB")):
        values = maps()[name]
        values[:, 0, 0] = np.nan
        path, = write_map(tmp_path / name, values, name, formats=("exr",), unit="mm")
        file = openexr.File(str(path), separate_channels=True)
        for channel, plane in zip(channels, values, strict=True):
            np.testing.assert_array_equal(file.channels()[channel].pixels, plane)
        assert file.channels()[channels[0]].pixels.dtype == np.float32 and len(file.channels()) == len(channels)
        assert json.loads(file.header()["probes-map"])["unit"] == "mm"


def test_bad_writes_are_named(tmp_path, monkeypatch):
    good, stem = maps(), tmp_path / "a"
    cases = [(good["normal"][None], "normal", "npy", r"\[3, H, W\], got shape \[1, 3.*values\[0\]"),
             (good["depth"], "normal", "npy", r"normal of one image, \[3, H, W\]"),
             (noise(3, 9, 9), "normal", "npy", "float32, got uint8"),
             (good["normal"], "normals", "npy", "did you mean 'normal'"),
             (good["normal"], "normal", "pngs", "formats.*did you mean 'png'"),
             (good["normal"] * 2, "normal", "png16", r"normal runs from -.*expected \[-1, 1\]"),
             (good["albedo"] * 2, "albedo", "png16", r"expected \[0, 1\]; clamp"),
             (good["depth"][:, :0], "depth", "npy", "got shape")]
    for values, name, kind, expected in cases:
        with pytest.raises(ValueError, match=expected):
            write_map(stem, values, name, formats=(kind,))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match="exr needs the OpenEXR package; `pip install OpenEXR`"):
        write_map(stem, good["depth"], "depth", formats=("npy", "exr"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="file/a.npy: its folder is a file"):
        write_map(tmp_path / "file" / "a", good["depth"], "depth")


@pytest.mark.parametrize("kind", ["npy", "png16", "png"])
def test_a_failed_write_leaves_what_was_there(kind, tmp_path, monkeypatch):
    write_map(tmp_path / "a", maps()["depth"], "depth", formats=(kind,))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("probes.images._write.np.save", full)
    monkeypatch.setattr("probes.images._write.write_png", full)
    with pytest.raises(OutputError, match="a.*: No space left on device; free some space"):
        write_map(tmp_path / "a", maps()["depth"] * 2, "depth", formats=(kind,))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("channels,bits", [(1, 8), (3, 8), (1, 16), (3, 16)])
def test_png_filters_are_undone_by_another_reader(channels, bits, tmp_path):
    ramp = np.add.outer(np.arange(60) * 3, np.arange(50) * 5)[..., None] * np.arange(1, channels + 1)
    for array in (noise(60, 50, channels, bits=bits), ramp.astype(np.uint8 if bits == 8 else np.uint16)):
        buffer = io.BytesIO()
        write_png(buffer, [array[:1], array[1:17], array[17:]], 60, 50, channels, bits, {"Title": "é"})
        (tmp_path / "a.png").write_bytes(buffer.getvalue())
        assert (codes(read_image(tmp_path / "a.png"), bits) == array).all()
        assert Image.open(tmp_path / "a.png").text["Title"] == "é"
    with pytest.raises(ValueError, match="expected 60 rows, got 59"):
        write_png(io.BytesIO(), [array[1:]], 60, 50, channels, bits)
    assert coding(np.full((1, 2, 2), 3.0), "depth").offset == 2.0


@pytest.mark.slow
def test_peak_memory_of_a_large_photo(tmp_path):
    """6 megapixels, turned, in a process of its own: reading, restoring and writing, in copies of the float32 photo."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((3000, 2000)).save(tmp_path / "a.jpg", exif=exif)
    code = textwrap.dedent("""
        import sys, torch
        from probes.images import read_image, fit, write_map
        torch.set_num_threads(1)
        def peak():
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
        def reset():
            open("/proc/self/clear_refs", "w").write("5")
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
        fit(read_image(torch.zeros(3, 64, 64)), size=32)
        copy = 6e6 * 3 * 4
        start = reset()
        photo = read_image(sys.argv[1] + "/a.jpg")
        print((peak() - start) / copy)
        fitted = fit(photo)
        del photo
        start = reset()
        normals = fitted.restore(torch.randn(1, 3, *fitted.size), "normal")
        print((peak() - start) / copy)
        start = reset()
        write_map(sys.argv[1] + "/a", normals[0], "normal", formats=("npy", "png"))
        print((peak() - start) / copy)
    """)
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs Linux's peak counter of resident memory")
    # glibc returns what is freed: otherwise one step may take what the step before has left.
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)})
    read, restored, written = map(float, done.stdout.split())
    assert 1 <= read < 2 and 1 <= restored < 2 and written < 1.5, done.stdout

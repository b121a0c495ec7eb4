"""`probes data check`: counts, ranges, frames, and what is probably wrong."""
import math
import re
from pathlib import Path

import make_datasets as make
import numpy as np
import pytest
import torch
from PIL import Image

from probes.cli._data import data as command
from probes.data import get_data
from probes.data._check import check
from probes.data._rays import flatness, ray_to_z, rays
from probes.data.scenes import render
from probes.data.scenes._sample import sample as scene


def test_it_counts_and_measures(tmp_path):
    make.diode(tmp_path)
    found = check(get_data(tmp_path), samples=2)
    assert len(found.read) == 2 and found.sizes == {(24, 32): 2} and not found.unreadable and not found.hints
    depth = np.tile(make.room(make.diode_camera())[1].ravel()[1:], 2)       # without the masked pixel
    facts = found.channels["depth"]
    assert facts.values == pytest.approx([depth.min(), *np.quantile(depth, (0.01, 0.5, 0.99)), depth.max()], rel=1e-5)
    assert facts.valid == pytest.approx(767 / 768) and found.channels["normal z"].valid == pytest.approx(766 / 768)
    assert any(line.startswith("depth is z-depth: flat things bend by 0.0%") for line in found.facts)
    assert any(line.startswith("normals are in the frame they should be in") for line in found.facts)


@pytest.mark.parametrize("noise", [0, 0.01])
def test_distance_along_the_ray_is_told_from_depth(noise):
    """On rendered rooms full of things, image by image."""
    numbers = list(range(40, 60))
    depths, half = render(numbers, 64)["depth"], scene(numbers)["tan_half_fov"]
    told = []
    for depth, tangent in zip(depths, half, strict=True):
        f = 32 / float(tangent)
        camera = make.Camera(f, f, 32, 32)
        depth = depth * (1 + noise * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))
        distance = depth * rays(camera, 64, 64).norm(dim=0, keepdim=True)
        assert torch.allclose(ray_to_z(distance, camera), depth)
        assert distance[0, 0, 0] > 1.1 * depth[0, 0, 0]
        told.append([abs(value) for value in (*flatness(depth, camera), *flatness(distance, camera))])
    told = np.median(np.array(told), 0)
    assert told[0] < 0.0025 and told[3] < 0.0025 and told[1] > 0.01 and told[2] > 0.01


@pytest.mark.parametrize("broken, hint", [
    (lambda depth, normal: (depth * 1000, normal), "millimetres. give depth_scale=1000"),
    (lambda depth, normal: (depth / 100, normal), "expected metres; relative depth or disparity"),
    (lambda depth, normal: (np.full_like(depth, 2.5), normal), "depth: it is 2.5 everywhere"),
    (lambda depth, normal: (depth, make.opengl(normal)), "normals: .*opengl"),
    (lambda depth, normal: (depth, (normal + 1) / 2), r"only \d+% of the pixels have a vector of unit length"),
])
def test_what_is_wrong_is_said(tmp_path, broken, hint):
    depth, normal = make.beside(tmp_path)
    depth, normal = broken(depth, normal)
    for i in range(3):
        np.save(tmp_path / f"photo{i}-depth.npy", depth.astype(np.float32))
        np.save(tmp_path / f"photo{i}-normal.npy", normal.astype(np.float32))
    found = check(get_data(tmp_path))
    assert any(re.search(hint, line) for line in found.hints), found.hints


def test_distance_in_diode_is_noticed(tmp_path):
    make.diode(tmp_path, ray=True)
    assert any("distance along the ray" in line and "distance=ray" in line for line in check(get_data(tmp_path)).hints)
    assert not check(get_data(f"diode:{tmp_path},distance=ray")).hints


def test_albedo_in_levels_and_masks_without_a_pixel(tmp_path):
    make.beside(tmp_path)
    for i in range(3):
        np.save(tmp_path / f"photo{i}-albedo.npy", np.full((24, 32, 3), 200, np.float32))
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(tmp_path / "photo1-mask.png")
    found = check(get_data(tmp_path))
    assert any("albedo: it runs from 200 to 200, expected [0, 1]; divide by 255" in line for line in found.hints)
    assert any("photo1 has no pixel with a value" in line for line in found.hints)
    assert found.channels["albedo r"].valid == pytest.approx(2 / 3)


def test_unreadable_files_are_counted_and_named(tmp_path, capsys):
    make.beside(tmp_path, count=9)
    for i in range(6):
        (tmp_path / f"photo{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = check(get_data(tmp_path), samples=2, full=True)
    assert len(found.unreadable) == 6 and "photo0.png" in found.unreadable[0] and len(found.read) <= 2
    command("check", str(tmp_path), samples=9, output=str(tmp_path / "out" / "sheet.png"))
    printed = capsys.readouterr().out
    assert "6 of the 9 images looked at cannot be used" in printed and "photo4.png" in printed and "… and 1 more" in printed
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 3 * 200 and sheet.height > 3 * 200


def test_nothing_usable_is_an_error(tmp_path):
    make.beside(tmp_path)
    for i in range(3):
        (tmp_path / f"photo{i}-depth.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="nothing of .* can be used; .*photo0-depth.npy"):
        command("check", str(tmp_path), output=str(tmp_path / "sheet.png"))
    assert not (tmp_path / "sheet.png").exists()
    with pytest.raises(ValueError, match="samples: expected at least 1"):
        command("check", str(tmp_path), samples=0)


def test_one_screen(tmp_path, capsys):
    pytest.importorskip("h5py")
    make.hypersim(tmp_path)
    command("check", str(tmp_path), output=str(tmp_path / "sheet.png"))
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 24
    assert "4 images of photographs" in printed and "splits: train 2, val 0, test 2" in printed and "32×24 (4)" in printed
    assert "a fit holds out the first 2: 1 of 2 scans or scenes, whole" in printed
    assert "ok     depth is z-depth" in printed and "look   " not in printed


def test_rooms_without_end_pass(tmp_path):
    found = check(get_data("scenes"), samples=4)
    assert not found.hints and len(found.read) == 4 and max(found.read) < 10_000
    assert all(math.isfinite(value) for facts in found.channels.values() for value in facts.values)
    assert found.read == check(get_data("scenes"), samples=4).read


def test_a_real_photograph_with_measured_depth(tmp_path):
    """The motorcycle of Middlebury 2014 as scikit-image ships it: depth from structured-light disparity."""
    folder = next(iter(pytest.importorskip("skimage").__path__)) + "/data"
    if not (Path(folder) / "motorcycle_disp.npz").is_file():
        pytest.skip("this scikit-image does not carry its pictures")
    from probes.frames import from_depth

    with np.load(f"{folder}/motorcycle_disp.npz") as arrays:
        disparity = arrays[arrays.files[0]]
    camera = make.Camera(994.978, 994.978, 311.193, 254.877)
    depth = np.where(np.isfinite(disparity), 193.001 * 994.978 / (disparity + 31.086) / 1000, np.nan).astype(np.float32)
    np.save(tmp_path / "depth.npy", depth)
    np.save(tmp_path / "normal.npy", from_depth(torch.from_numpy(depth)[None], camera).values.numpy())
    (tmp_path / "data.csv").write_text(f"image,depth,normal,fx,fy,cx,cy\n{folder}/motorcycle_left.png,depth.npy,normal.npy,"
                                       f"{camera.fx},{camera.fy},{camera.cx},{camera.cy}\n")
    found = check(get_data(tmp_path / "data.csv"))
    assert not found.hints and len(found.facts) == 2, (found.hints, found.facts)
    assert found.channels["depth"].values == pytest.approx([2.11, 2.16, 2.75, 4.84, 5.02], abs=0.01)
    assert found.channels["depth"].valid == pytest.approx(0.927, abs=0.001)

"""The renderer: exact, consistent, independent of batch and size, in the declared frame."""
import numpy as np
import pytest
import torch

from probes.data.colour import linear_to_srgb, srgb_to_linear
from probes.data.scenes import render, sample
from probes.data.scenes._store import Store, write_store


@pytest.fixture(scope="module")
def maps():
    return render(range(24), 32)


def test_shapes_ranges_and_the_product(maps):
    assert {k: tuple(v.shape[1:]) for k, v in maps.items()} == dict(
        image=(3, 32, 32), albedo=(3, 32, 32), shading=(1, 32, 32), normal=(3, 32, 32), depth=(1, 32, 32))
    assert all(torch.isfinite(v).all() for v in maps.values())
    assert torch.equal(maps["image"], maps["albedo"] * maps["shading"])
    for name in ("image", "albedo", "shading"):
        assert maps[name].min() >= 0 and maps[name].max() <= 1
    torch.testing.assert_close(maps["normal"].norm(dim=1), torch.ones(24, 32, 32))
    assert maps["depth"].min() > 0.3 and maps["depth"].max() < 9


def test_a_scene_is_the_same_in_any_batch_and_nearly_at_any_size(maps):
    torch.testing.assert_close(render([17], 32)["image"][0], maps["image"][17], atol=1e-5, rtol=1e-4)
    fine = torch.nn.functional.avg_pool2d(render([17], 64)["depth"], 2)
    assert (fine[0] - maps["depth"][17]).abs().median() < 0.01


def test_frame_floors_look_up_and_back_walls_look_at_the_camera(maps):
    bottom, middle = maps["normal"][:, :, -2:], maps["normal"][:, :, 8:14]
    assert (bottom[:, 1].median() < -0.8) and (middle[:, 2].median() < -0.6)


def test_normals_agree_with_depth():
    """On a plane, z-depth fixes the normal: differentiate the unprojected points."""
    size, seeds = 64, range(12)
    maps, scenes = render(seeds, size), sample(seeds)
    grid = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    v, u = torch.meshgrid(grid, grid, indexing="ij")
    t = torch.from_numpy(scenes["tan_half_fov"])[:, None, None]
    z = maps["depth"][:, 0]
    points = torch.stack([u * t * z, v * t * z, z], 1)
    du = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    dv = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    normal = torch.nn.functional.normalize(torch.linalg.cross(dv, du, dim=1), dim=1)
    angle = torch.rad2deg(torch.acos((normal * maps["normal"][..., 1:-1, 1:-1]).sum(1).clamp(-1, 1)))
    assert angle.median() < 0.5 and (angle < 5).float().mean() > 0.75        # the rest are edges and curved solids


def test_shadows_and_objects_are_there():
    maps = render(range(40), 32)
    assert (maps["shading"].flatten(1).std(1) > 0.05).all()
    upright = (maps["normal"][:, 1].abs() < 0.3).flatten(1).float().mean(1)
    assert upright.min() > 0.05


def test_bad_arguments_and_store(tmp_path):
    with pytest.raises(ValueError, match="size"):
        render([0], 4)
    with pytest.raises(ValueError, match="seeds"):
        render([], 32)
    with pytest.raises(FileNotFoundError, match="render_scenes"):
        Store(tmp_path / "none")
    folder = write_store(tmp_path / "store", 5, 6, 32)
    store, truth = Store(folder), render(range(5, 11), 32)
    assert len(store) == 6
    rows = np.array([1, 4])
    assert np.abs(store.batch("normal", rows) - truth["normal"][rows].numpy()).max() < 1 / 127
    assert np.abs(store.batch("image", rows) - linear_to_srgb(truth["image"])[rows].numpy()).max() < 1 / 250
    assert write_store(folder, 5, 6, 32) == folder
    with pytest.raises(FileExistsError, match="another"):
        write_store(folder, 5, 7, 32)


def test_colour_round_trip():
    x = torch.linspace(0, 1, 101)
    torch.testing.assert_close(srgb_to_linear(linear_to_srgb(x)), x, atol=1e-5, rtol=1e-4)
    assert linear_to_srgb(torch.tensor(0.5)).item() == pytest.approx(0.7354, abs=1e-4)


@pytest.mark.slow
def test_compiled_rendering_agrees():
    pytest.importorskip("torch._inductor")
    plain, fused = render(range(10), 32), render(range(10), 32, compile=True)
    for name in plain:
        close = (plain[name] - fused[name]).abs() < 1e-3
        assert close.float().mean() > 0.999, name

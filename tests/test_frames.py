"""Frames of normals: conversions, the self-check on exact rooms in every frame, and normals from depth, rendered and real."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generators._names import UnknownNameError
from probes.data.scenes import render, sample
from probes.frames import FRAMES, Normals, from_depth, self_check
from probes.metrics import angular_error

SEEDS = range(3_000_000, 3_000_064)


@pytest.fixture(scope="module")
def rooms():
    return render(SEEDS, 64)


def camera(size, index):
    focal = size / 2 / sample([index])["tan_half_fov"][0]
    return SimpleNamespace(fx=focal, fy=focal, cx=size / 2, cy=size / 2)


def mislabelled(values, frame):
    """Vectors of `frame` that are said to be ours."""
    return Normals(Normals(values).to(frame).values)


def test_known_vectors_in_every_frame():
    wall, floor, right = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in ((0, 0, -1), (0, -1, 0), (-1, 0, 0)))
    expected = dict(omnidata=((0, 0, -1), (0, -1, 0), (-1, 0, 0)), opengl=((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
                    dsine=((0, 0, 1), (0, 1, 0), (1, 0, 0)), pytorch3d=((0, 0, -1), (0, 1, 0), (1, 0, 0)))
    expected["2d3ds"] = ((0, 0, 1), (0, -1, 0), (-1, 0, 0))
    assert expected.keys() == FRAMES.keys()
    for frame, vectors in expected.items():
        for ours, theirs in zip((wall, floor, right), vectors, strict=True):
            assert Normals(ours).to(frame).values.flatten().tolist() == list(theirs)
            assert torch.equal(Normals(ours).to(frame).to("omnidata").values, ours)


def test_a_flip_mirrors_the_world(rooms):
    """Normals of the mirrored depth are the flipped normals, in any frame."""
    eye, z = camera(64, SEEDS[0]), rooms["depth"][0]
    mirrored = SimpleNamespace(**{**vars(eye), "cx": 64 - eye.cx})
    for frame in FRAMES:
        flipped = from_depth(z, eye).to(frame).flip_horizontal()
        direct = from_depth(z.flip(-1), mirrored).to(frame)
        torch.testing.assert_close(flipped.values, direct.values, equal_nan=True)


def test_a_resize_keeps_unit_length_and_holes(rooms):
    values = rooms["normal"][:2].clone()
    values[:, 0, :20, :20] = torch.nan
    small = Normals(values, "opengl").resize((32, 48))
    assert small.frame == "opengl" and small.values.shape == (2, 3, 32, 48)
    assert torch.isnan(small.values[:, :, :9, :13]).all() and not torch.isnan(small.values[:, :, 11:]).any()
    torch.testing.assert_close(small.values[:, :, 11:].norm(dim=1), torch.ones(2, 21, 48))
    assert Normals(values[0]).resize((8, 8)).values.shape == (3, 8, 8)


def test_colours_and_back(rooms):
    values = rooms["normal"][:1].clone()
    values[..., 5, 7] = torch.nan
    rgb = Normals(values, "dsine").as_rgb()
    assert rgb[..., 5, 7].flatten().tolist() == [0.5] * 3 and 0 <= rgb.min() and rgb.max() <= 1
    back = Normals.from_rgb((rgb * 255).round() / 255, "dsine")
    assert back.frame == "dsine" and torch.isnan(back.values[..., 5, 7]).all()
    error = angular_error(back.values, values)
    assert torch.nan_to_num(error).max() < 0.5                                            # degrees, of 8 bits
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got 0 … 255; divide 8-bit"):
        Normals.from_rgb(torch.tensor([0.0, 128, 255]).view(3, 1, 1), "dsine")


def test_what_is_no_normal_map_is_refused():
    with pytest.raises(ValueError, match=r"got torch.float32 \[8, 8, 3\]; images with the channels last"):
        Normals(torch.zeros(8, 8, 3))
    with pytest.raises(UnknownNameError, match="did you mean 'opengl'"):
        Normals(torch.zeros(3, 8, 8), "open-gl")
    with pytest.raises(UnknownNameError, match="frame: unknown name 'opencv'"):
        Normals(torch.zeros(3, 8, 8)).to("opencv")
    with pytest.raises(ValueError, match="no pixel has a value"):
        self_check(Normals(torch.full((3, 8, 8), torch.nan)))


def test_rooms_are_in_our_frame(rooms):
    reports = [self_check(Normals(n)) for n in rooms["normal"]]
    assert all(r.ok and r.text == "" and r.likely == "omnidata" for r in reports)
    assert min(r.facing for r in reports) > 0.999 and min(r.up for r in reports) > 0.2
    assert min(r.unit for r in reports) > 0.99


@pytest.mark.parametrize("frame", [f for f in FRAMES if f != "omnidata"])
def test_every_wrong_frame_is_recognised(rooms, frame):
    reports = [self_check(mislabelled(n, frame)) for n in rooms["normal"]]
    assert not any(r.ok for r in reports)
    assert sum(r.likely == frame for r in reports) >= 61                                  # of 64, from one picture each
    pooled = self_check(mislabelled(rooms["normal"], frame))
    assert not pooled.ok and pooled.likely == frame and pooled.text.endswith(f"they look like {frame}: declare that frame")
    assert pooled.facing < 0.7 and pooled.shares[frame] > 0.999
    told = self_check(Normals(pooled_values(rooms, frame), frame))
    assert told.ok and told.frame == frame and told.likely == frame
    declared = self_check(Normals(rooms["normal"], frame))                                # ours, declared as theirs
    assert not declared.ok and declared.likely == "omnidata"


def pooled_values(rooms, frame):
    return Normals(rooms["normal"]).to(frame).values


def test_a_mirrored_map_is_seen(rooms):
    """Flipped as a picture without negating x: no frame does that."""
    report = self_check(Normals(rooms["normal"].flip(-1)))
    assert not report.ok and report.likely is None and "x may be negated, as in a mirrored picture" in report.text


def test_other_mistakes_are_named(rooms):
    n = rooms["normal"]
    rgb = self_check(Normals((n + 1) / 2))
    assert not rgb.ok and "RGB that was not decoded: use Normals.from_rgb" in rgb.text
    long = self_check(Normals(n * 1.5))
    assert not long.ok and long.unit == 0 and "normalise them first" in long.text
    world = self_check(Normals(n[:, [2, 0, 1]]))
    assert not world.ok and world.likely is None and "world coordinates, or their channels in another order" in world.text


def test_noise_does_not_make_a_frame_wrong(rooms):
    rng = torch.Generator().manual_seed(0)
    noisy = F.normalize(rooms["normal"] + 0.15 * torch.randn(rooms["normal"].shape, generator=rng), dim=1)
    assert angular_error(noisy, rooms["normal"]).mean() > 8
    assert self_check(Normals(noisy)).ok


def ball(size=96, radius=0.8, distance=3.0, focal=2.2):
    """A sphere on the axis, seen from outside: normals, depth, camera."""
    v, u = torch.meshgrid(*[(torch.arange(size) + 0.5) / size * 2 - 1] * 2, indexing="ij")
    ray = torch.stack([u / focal, v / focal, torch.ones_like(u)]).double()
    a, b = ray.square().sum(0), -2 * distance * ray[2]
    root = b * b - 4 * a * (distance ** 2 - radius ** 2)
    z = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / (2 * a), torch.nan)
    n = (ray * z - torch.tensor([0, 0, distance]).view(3, 1, 1)) / radius
    return n.float(), z[None].float(), SimpleNamespace(fx=focal * size / 2, fy=focal * size / 2, cx=size / 2, cy=size / 2)


def test_an_object_seen_from_outside_needs_its_depth():
    n, z, eye = ball()
    assert self_check(Normals(n), eye).up < -0.1                                          # what is high looks up
    report = self_check(Normals(n), eye, z)
    assert report.ok and report.up > 0.99 and report.right > 0.99
    for frame in FRAMES:
        assert self_check(mislabelled(n, frame), eye, z).likely == frame
    with pytest.raises(ValueError, match=r"depth: expected \[N, 1, H, W\]"):
        self_check(Normals(n), eye, z[:, 1:])


def test_normals_of_planes_are_exact_at_any_slant():
    eye = SimpleNamespace(fx=50.0, fy=55.0, cx=20.5, cy=14.0)
    v, u = torch.meshgrid(torch.arange(30.0).double(), torch.arange(40.0).double(), indexing="ij")
    ray = torch.stack([(u + 0.5 - eye.cx) / eye.fx, (v + 0.5 - eye.cy) / eye.fy, torch.ones_like(u)])
    for vector in ((0, 0, -1), (0.3, -0.5, -0.8), (0.8, 0.3, -0.52), (0, -0.8, -0.6)):
        n = F.normalize(torch.tensor(vector).double(), dim=0)
        z = -2 / (n.view(3, 1, 1) * ray).sum(0, keepdim=True)
        assert (z > 0).all()
        for step in (1, 3):
            got = from_depth(z.float() if step == 3 else z, eye, step).values.double()
            torch.testing.assert_close(got, n.view(3, 1, 1).expand(3, 30, 40), atol=1e-4 if step == 3 else 1e-9, rtol=0)
    with pytest.raises(ValueError, match=r"depth: expected \[1, H, W\], got \[2, 1, 4, 4\]"):
        from_depth(torch.ones(2, 1, 4, 4), eye)


def test_normals_of_a_sphere_follow_it():
    n, z, eye = ball()
    got = from_depth(z, eye).values
    known = torch.isfinite(got).all(0)
    error = angular_error(got[None], n[None])[0][known]
    assert known.sum() > 0.95 * torch.isfinite(z).sum() and error.median() < 0.5 and error.mean() < 1.5
    assert torch.isnan(got[:, torch.isnan(z[0])]).all()                                   # no surface, no normal


def test_normals_of_rendered_depth_are_the_rendered_normals(rooms):
    errors, shares = [], []
    for i in range(24):
        got = from_depth(rooms["depth"][i], camera(64, SEEDS[i])).values
        known = torch.isfinite(got).all(0)
        errors.append(angular_error(got[None], rooms["normal"][i][None])[0][known])
        shares.append(known.float().mean())
    errors = torch.cat(errors)
    assert errors.median() < 0.05 and errors.mean() < 2 and (errors < 1).float().mean() > 0.9
    assert 0.95 < torch.stack(shares).mean() < 1


def test_there_is_no_normal_on_a_depth_edge_or_beside_missing_depth():
    z = torch.full((1, 20, 20), 2.0)
    z[:, :, 10:] = 5.0
    z[:, 3, 3] = torch.nan
    z[:, 16, 15] = 0
    n = from_depth(z, SimpleNamespace(fx=20.0, fy=20.0, cx=10.0, cy=10.0)).values
    assert torch.isnan(n[:, 3, 3]).all() and torch.isnan(n[:, 16, 15]).all()
    flat = torch.isfinite(n).all(0)
    assert flat.sum() == 20 * 20 - 2                                # both sides of the step keep the plane they are on
    torch.testing.assert_close(n[:, flat], torch.tensor([[0.0], [0.0], [-1.0]]).expand(3, 398), atol=1e-6, rtol=0)
    z[:, :, 10] = 3.0                                               # a pixel between two surfaces lies on neither
    n = from_depth(z, SimpleNamespace(fx=20.0, fy=20.0, cx=10.0, cy=10.0)).values
    assert torch.isnan(n[:, :, 10]).all() and torch.isfinite(n[:, :, 9]).sum() == 60


def test_a_real_photograph_with_real_depth():
    """Middlebury's motorcycle as scikit-image ships it: half-size, disparity from structured light."""
    data = pytest.importorskip("skimage.data")
    folder = data.__path__[0] if hasattr(data, "__path__") else data.__file__.rsplit("/", 1)[0]
    disparity = torch.from_numpy(np.load(f"{folder}/motorcycle_disp.npz")["arr_0"])
    focal, baseline, offset = 994.978, 193.001, 31.086                                    # pixels, mm, pixels
    z = torch.where(torch.isfinite(disparity), baseline * focal / (disparity + offset) / 1000, torch.nan)[None]
    known = z[torch.isfinite(z)]
    assert known.numel() / z.numel() == pytest.approx(0.9265, abs=1e-3)
    assert 2.1 < known.min() and known.max() < 5.1 and 2.5 < known.median() < 3
    eye = SimpleNamespace(fx=focal, fy=focal, cx=311.193, cy=254.877)
    normals = from_depth(z, eye, step=2)
    assert torch.isfinite(normals.values).all(0).float().mean() > 0.85
    for report in (self_check(normals), self_check(normals, eye, z)):
        assert report.ok and report.facing > 0.99 and report.up > 0.4
    for frame in FRAMES:
        assert self_check(mislabelled(normals.values, frame), eye, z).likely == frame
    floor = normals.values[:, 430:490, 250:650].flatten(1)
    floor = floor[:, torch.isfinite(floor).all(0)]
    middle = F.normalize(floor.median(1).values, dim=0)
    tilt = math.degrees(math.acos(-middle[1]))                                            # the camera looks 15° down
    assert abs(middle[0]) < 0.02 and 12 < tilt < 17
    spread = angular_error(floor.view(1, 3, 1, -1), middle.view(1, 3, 1, 1).expand(1, 3, 1, floor.shape[1]))
    assert spread.median() < 3                                                            # and the floor is flat

"""DIODE, NYUv2 and Hypersim in their true layouts: what is read is what was put in, and what is wrong is named."""
import inspect
import json
from importlib import import_module

import make_datasets as make
import numpy as np
import pytest
import torch

from probes.data import get_data, known_data
from probes.data._builtin import LAYOUTS
from probes.data.colour import srgb_to_linear
from probes.images import ImageError

pytest.importorskip("h5py")
pytest.importorskip("scipy")


def first_channel(values):
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1) if values.ndim == 3 else values[None]))


def test_the_options_that_are_told_are_those_the_readers_take():
    for module, name, by_path, options, _ in LAYOUTS.values():
        reader = import_module(f"probes.data.{module}")
        assert tuple(inspect.signature(getattr(reader, name)).parameters)[1:] == options
        assert hasattr(reader, "recognises") == by_path
    assert {"diode:PATH", "nyu:PATH", "hypersim:PATH", "maps:PATH", "manifest:PATH", "hf:PATH"} <= set(known_data())


# DIODE

@pytest.mark.parametrize("meta", [False, True])
def test_diode_is_what_was_scanned(tmp_path, meta):
    stems = make.diode(tmp_path, meta=meta)
    data = get_data(tmp_path)                       # recognised
    assert (data.count, data.exact, data.masked, data.parts) == (3, ("normal", "depth"), True, {"indoors": 2, "outdoor": 1})
    assert sorted(data.sample_name(i) for i in range(3)) == sorted(stems) and data.splits == {"val": 3}
    sample = data.sample(make.number_of(data, stems[1]), ("normal", "depth"))
    image, depth, normal = make.room(make.diode_camera())
    assert torch.allclose((sample.image + 1) * 127.5, first_channel(image).float(), atol=1e-4)
    told, known = sample.maps["depth"], torch.from_numpy(depth)[None]
    assert told[0, 0, 0].isnan() and told.isnan().sum() == 1
    assert torch.equal(told[:, 1:], known[:, 1:])
    told = sample.maps["normal"]                    # OpenGL's turned into ours: the mask's hole, and the zero vector
    assert told[0].isnan().nonzero().tolist() == [[0, 0], [0, 1]]
    assert torch.allclose(told[:, 1:], first_channel(normal)[:, 1:], atol=1e-6)
    assert sample.camera.fx == pytest.approx(886.81 / 32) and sample.camera.cy == 12
    assert sample.name == stems[1]


def test_diode_takes_the_split_itself_and_one_kind_of_scene(tmp_path):
    make.diode(tmp_path)
    make.diode(tmp_path, names=(("outdoor", "00007_00082_outdoor_000_010"),), split="train")
    assert get_data(tmp_path / "val").count == 3
    assert get_data(f"diode:{tmp_path},split=train").count == 1
    assert get_data(f"diode:{tmp_path},scenes=outdoor").count == 1
    assert get_data(f"{tmp_path},scenes=indoors").parts == {"indoors": 2}
    with pytest.raises(ValueError, match="split: .*val is the split val, got train; give the folder above"):
        get_data(f"diode:{tmp_path / 'val'},split=train")


def test_diode_distance_is_turned_into_depth_when_asked(tmp_path):
    make.diode(tmp_path, ray=True)
    _, depth, _ = make.room(make.diode_camera())
    told = get_data(f"diode:{tmp_path},distance=ray").sample(0, ("depth",)).maps["depth"]
    assert torch.allclose(told[0, 1:], torch.from_numpy(depth)[1:], rtol=1e-5)
    raw = get_data(tmp_path).sample(0, ("depth",)).maps["depth"]
    assert raw[0, 1, 0] > depth[1, 0] * 1.1


def test_diode_says_what_it_holds_when_an_archive_is_missing(tmp_path):
    make.diode(tmp_path / "depth", normals=False)
    make.diode(tmp_path / "normals", depths=False)
    assert get_data(tmp_path / "depth").exact == ("depth",)
    data = get_data(tmp_path / "normals")
    assert data.exact == ("normal",) and data.sample(0, ("normal",)).maps["normal"].isnan().any(0).sum() == 1
    with pytest.raises(ValueError, match="has no map of depth; it knows normal"):
        data.sample(0, ("depth",))
    next((tmp_path / "depth").rglob("*_depth.npy")).unlink()
    data = get_data(tmp_path / "depth")
    assert data.exact == () and data.found == {"depth": 2, "normal": 0}


def test_diode_reads_the_official_list(tmp_path):
    stems = make.diode(tmp_path, meta=True)
    (tmp_path / f"{stems[0]}.png").rename(tmp_path / "val/indoors/scene_00019/scan_00183/extra.png")
    data = get_data(tmp_path)
    assert (data.count, data.missing) == (2, 1) and {data.sample_name(i) for i in range(2)} == set(stems[1:])
    (tmp_path / "diode_meta.json").write_text(json.dumps({"val": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"diode_meta.json is not the official list .*download it again, or remove it"):
        get_data(tmp_path)


def test_diode_refuses_what_is_not_there(tmp_path):
    make.diode(tmp_path)
    with pytest.raises(ValueError, match="split: .* holds val, not train; download it, or choose split=val"):
        get_data(f"diode:{tmp_path},split=train")
    with pytest.raises(ValueError, match="split: unknown name 'validation'; .*val"):
        get_data(f"diode:{tmp_path},split=validation")
    with pytest.raises(ValueError, match="diode: unknown name 'scene'; did you mean 'scenes'"):
        get_data(f"diode:{tmp_path},scene=indoors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is not DIODE's; expected the official layout: PATH/val/indoors/scene_00019"):
        get_data(f"diode:{tmp_path / 'empty'}")


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.write_bytes(path.read_bytes()[:200]), "damaged or incomplete, or no .npy"),
    (lambda path: path.write_bytes(b""), "damaged or incomplete, or no .npy"),
    (lambda path: np.save(path, np.array([{"a": 1}], dtype=object)), "pickled Python objects, which may run code"),
    (lambda path: np.save(path, np.ones((8, 8, 1), np.float32)), "its depth is 8×8 pixels, the image 32×24|its mask is 32×24"),
    (lambda path: np.save(path, np.ones((24, 32, 2), np.float32)), r"shape \[24, 32, 2\]; expected depth, \[H, W\]"),
    (lambda path: np.save(path, np.full((24, 32), "a")), "it holds <U1; expected numbers"),
])
def test_a_damaged_file_is_named(tmp_path, damage, message):
    stem = make.diode(tmp_path)[0]
    data = get_data(tmp_path)
    index = make.number_of(data, stem)
    damage(tmp_path / f"{stem}_depth.npy")
    for read in (lambda: data.sample(index, ("depth",)), lambda: data.truth([index], 8, "depth")):
        with pytest.raises(ImageError, match=message) as error:
            read()
        assert "00019_00183_indoors_000_010" in str(error.value)
    assert data.sample(index, ("normal",)) and data.sample((index + 1) % 3, ("depth",))


def test_a_header_that_claims_more_than_the_file_takes_no_memory(tmp_path):
    make.diode(tmp_path)
    data = get_data(tmp_path)
    path = tmp_path / f"{data.sample_name(0)}_depth.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, dict(descr="<f4", fortran_order=False, shape=(1 << 20, 1 << 20)))
    with pytest.raises(ImageError, match="damaged or incomplete"):
        data.sample(0, ("depth",))


def test_what_is_not_finite_or_masked_has_no_value(tmp_path):
    make.diode(tmp_path)
    data = get_data(tmp_path)
    stem = tmp_path / data.sample_name(0)
    depth = np.full((24, 32), 2, np.float32)
    depth[3, 4:7] = np.inf, np.nan, -1
    np.save(f"{stem}_depth.npy", depth)
    told = data.sample(0, ("depth",)).maps["depth"]
    assert told[0].isnan().nonzero().tolist() == [[0, 0], [3, 4], [3, 5], [3, 6]]
    np.save(f"{stem}_depth_mask.npy", np.zeros((24, 32)))
    sample = data.sample(0, ("depth", "normal"))
    assert sample.maps["depth"].isnan().all() and sample.maps["normal"].isnan().all()
    assert data.truth([0], 8, "depth").isnan().all()


def test_the_fingerprint_follows_the_files(tmp_path):
    make.diode(tmp_path)
    before = get_data(tmp_path).fingerprint
    assert before == get_data(tmp_path).fingerprint
    path = next(tmp_path.rglob("*_normal.npy"))
    np.save(path, -np.load(path))
    assert get_data(tmp_path).fingerprint != before


# NYUv2

def test_nyu_turns_matlabs_order_round(tmp_path):
    path = make.nyu(tmp_path)
    data = get_data(path)
    assert (data.count, data.exact, data.masked, data.splits) == (3, ("depth",), False, {"train": 3, "test": 3})
    image, depth, _ = make.room()
    sample = data.sample(1, ("depth",))             # testNdxs 3: frame 2 from 0
    assert sample.name == "0003"
    assert torch.equal(sample.maps["depth"], torch.from_numpy(depth + 2)[None])
    assert torch.allclose((sample.image + 1) * 127.5, first_channel(image).float() + 2, atol=1e-4)
    assert sample.camera.fx == pytest.approx(518.8579 * 32 / 640) and sample.camera.cx == pytest.approx(325.08245 * 32 / 640)


def test_nyu_splits_and_raw_depth(tmp_path):
    make.nyu(tmp_path)
    assert [get_data(f"nyu:{tmp_path},split=train").sample_name(i) for i in range(3)] == ["0002", "0004", "0006"]
    data = get_data(f"nyu:{tmp_path},split=all,depth=raw")
    assert data.count == 6 and data.masked
    assert data.sample(0, ("depth",)).maps["depth"][0].isnan().nonzero().tolist() == [[2, 3]]
    assert len({get_data(f"nyu:{tmp_path},split={s}").fingerprint for s in ("train", "test", "all")}) == 3


def test_nyu_refuses_what_it_cannot_be(tmp_path):
    import h5py
    from scipy.io import savemat

    make.nyu(tmp_path / "alone", splits=False)
    with pytest.raises(ValueError, match="split: .*splits.mat is not there, .*or choose split=all"):
        get_data(tmp_path / "alone")
    assert get_data(f"nyu:{tmp_path}/alone,split=all").count == 6
    (tmp_path / "alone/splits.mat").write_bytes(b"no matlab")
    with pytest.raises(ImageError, match="splits.mat: not the official splits"):
        get_data(tmp_path / "alone")
    savemat(tmp_path / "alone/splits.mat", {"trainNdxs": [1], "testNdxs": [7]})
    with pytest.raises(ImageError, match="do not fit .*which has 6"):
        get_data(tmp_path / "alone")
    old = tmp_path / "old" / "nyu_depth_v2_labeled.mat"
    old.parent.mkdir()
    savemat(old, {"images": np.zeros((2, 2))})       # MATLAB 5
    with pytest.raises(ImageError, match="no HDF5, damaged or incomplete"):
        get_data(old)
    with h5py.File(old, "w") as file:
        file["images"] = np.zeros((2, 3, 32, 24), np.uint8)
    with pytest.raises(ImageError, match="no dataset 'depths'; it has images"):
        get_data(old)
    with h5py.File(old, "a") as file:
        file["depths"] = h5py.ExternalLink("/etc/hostname", "depths")
    with pytest.raises(ImageError, match="link to another file, which is not followed"):
        get_data(old)


# Hypersim

def test_hypersim_becomes_what_a_probe_is_measured_against(tmp_path):
    make.hypersim(tmp_path)
    data = get_data(tmp_path)
    assert (data.count, data.exact) == (4, ("normal", "depth", "albedo", "shading"))
    assert data.splits == {"train": 2, "val": 0, "test": 2}
    sample = data.sample(make.number_of(data, "ai_001_002/cam_00/0001"), data.exact)
    _, depth, normal = make.room()
    told = sample.maps["depth"]                      # float16 files: 0.05 %
    assert told[0].isnan().nonzero().tolist() == [[0, 0]]
    assert torch.allclose(told[0, 1:], torch.from_numpy(depth)[1:], rtol=1e-3)
    assert torch.allclose(sample.maps["normal"], first_channel(normal), atol=1e-3)
    linear = srgb_to_linear(sample.maps["albedo"])[:, 5, 5]
    assert torch.allclose(linear, torch.tensor([0.25, 0.5, 0.75]), atol=1e-3)
    light = srgb_to_linear(sample.maps["shading"])[0, 0]
    assert light[-1] == pytest.approx(1) and light[7] == pytest.approx(8 / 32, rel=0.02)
    assert sample.camera.fx == pytest.approx(16 / np.tan(np.pi / 6)) and sample.camera.fx == pytest.approx(sample.camera.fy)


def test_hypersims_focal_length_at_full_size():
    from probes.data._hypersim import _HALF_WIDTH, _pinhole

    camera = _pinhole(np.diag([_HALF_WIDTH, _HALF_WIDTH * 768 / 1024, -1]), 1024, 768)
    assert camera.fx == pytest.approx(886.81, abs=0.005) and camera.fy == pytest.approx(886.81, abs=0.005)
    assert (camera.cx, camera.cy) == (512, 384)


def test_hypersims_shifted_lens_moves_the_principal_point(tmp_path):
    half = np.tan(np.pi / 6)
    shifted = np.array([[half, 0, 0.1], [0, half * 0.75, -0.2], [0, 0, -1]])
    tilted = np.array([[half, 0, 0], [0, half * 0.75, 0], [0, 0.3, -1]])
    make.hypersim(tmp_path, cameras={"ai_001_001": shifted, "ai_001_002": tilted})
    data = get_data(tmp_path)
    index, tilted = (make.number_of(data, f"{scene}/cam_00/0000") for scene in ("ai_001_001", "ai_001_002"))
    camera = data.sample(index).camera
    # The pixel at the principal point is seen along the axis: there x = 0, so u = -0.1 / half, and px = (u + 1) W / 2.
    assert camera.cx == pytest.approx((1 - 0.1 / half) * 16) and camera.cy == pytest.approx((1 - 0.2 / (half * 0.75)) * 12)
    stored = np.float32(np.linalg.norm([*make.rays(make.camera())[10, 30]]) * make.room()[1][10, 30])
    ray = np.array([(30.5 - camera.cx) / camera.fx, (10.5 - camera.cy) / camera.fy, 1])
    told = data.sample(index, ("depth",)).maps["depth"]
    assert float(told[0, 10, 30]) == pytest.approx(stored / np.linalg.norm(ray), rel=1e-3)
    assert data.sample(tilted).camera is None


def test_hypersims_own_tone_mapping(tmp_path):
    make.hypersim(tmp_path, preview=False)
    sample = get_data(tmp_path).sample(0)
    colour = np.array([0.25, 0.5, 0.75]) * ((np.arange(32) + 1) / 32 * 20)[:, None]
    bright = np.broadcast_to(colour @ [0.3, 0.59, 0.11], (24, 32)).ravel()[1:]       # pixel (0, 0) sees nothing
    expected = np.clip((colour[10] * 0.8**2.2 / np.percentile(bright, 90)) ** (1 / 2.2), 0, 1)
    assert torch.allclose((sample.image[:, 7, 10] + 1) / 2, torch.tensor(expected, dtype=torch.float32), atol=2e-3)


def test_hypersim_splits_and_what_is_missing(tmp_path):
    make.hypersim(tmp_path / "a")
    assert get_data(f"hypersim:{tmp_path}/a,split=test").sample_name(0).startswith("ai_001_002/cam_00/")
    with pytest.raises(ValueError, match=r"none of the scenes .* is of val; there are train \(2\), test \(2\)"):
        get_data(f"hypersim:{tmp_path}/a,split=val")
    make.hypersim(tmp_path / "b", splits=False)
    assert get_data(tmp_path / "b").splits == {"all": 4}
    with pytest.raises(ValueError, match="split: .*metadata_images_split_scene_v1.csv is not there"):
        get_data(f"hypersim:{tmp_path}/b,split=train")
    next((tmp_path / "b").rglob("*diffuse_reflectance.hdf5")).unlink()
    data = get_data(tmp_path / "b")
    assert data.exact == ("normal", "depth", "shading") and data.found["albedo"] == 3
    damaged = tmp_path / "b/ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ImageError, match="frame.0000.depth_meters.hdf5: the file is no HDF5, damaged or incomplete"):
        data.sample(make.number_of(data, "ai_001_001/cam_00/0000"), ("depth",))
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="no frame of Hypersim .*PATH/ai_001_001/images"):
        get_data(f"hypersim:{tmp_path / 'c'}")

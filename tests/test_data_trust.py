"""Files that ask for more than they hold, point elsewhere, or are not what they look like."""
import os
import struct
import sys
import zlib

import make_datasets as make
import numpy as np
import pytest
import torch
from make_images import curve, icc, png16, tiff, xyz
from PIL import Image

from probes.data import get_data
from probes.data._check import check
from probes.data._hdf5 import read_hdf5
from probes.data._map_files import read_map, read_mask
from probes.data.colour import linear_to_srgb, srgb_to_linear
from probes.images import ImageError, write_map

# HDF5

@pytest.fixture
def hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(6.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = np.arange(6.0)
        file["out"] = h5py.ExternalLink("other.h5", "secret")
        file["behind"] = h5py.SoftLink("/out")
        file["inside"] = h5py.SoftLink("/own")
        file["folder"] = h5py.ExternalLink("other.h5", "/")
        file.create_dataset("never", (8192, 8192), "f4", chunks=(64, 64), compression="gzip")
        file.create_dataset("huge", (1 << 20, 1 << 20), "f4", chunks=(64, 64), compression="gzip")
        file.create_dataset("part", (4, 1 << 20, 1 << 20), "f4", chunks=(1, 64, 64))
        zeros = file.create_dataset("zeros", (1024, 1024), "f4", chunks=(1024, 1024), compression="gzip")
        zeros[:] = 0
    return tmp_path / "a.h5"


def test_no_link_leads_out_of_the_file(hdf5):
    assert read_hdf5(hdf5, "own").tolist() == read_hdf5(hdf5, "inside").tolist() == [0, 1, 2, 3, 4, 5]
    for name in ("out", "behind", "folder/secret"):
        with pytest.raises(ImageError, match=f"its {name} is a link to another file, which is not followed"):
            read_hdf5(hdf5, name)


def test_more_than_is_stored_takes_no_memory(hdf5):
    with pytest.raises(ImageError, match=r"never: an array of shape \[8192, 8192\] in 0 bytes, which cannot hold it"):
        read_hdf5(hdf5, "never")
    with pytest.raises(ImageError, match=r"huge: an array of shape \[1048576, 1048576\] has more than \d+ million numbers"):
        read_hdf5(hdf5, "huge")
    with pytest.raises(ImageError, match=r"part: .* has more than \d+ million numbers"):
        read_hdf5(hdf5, "part", 0)
    assert not read_hdf5(hdf5, "zeros").any()               # as small as zlib makes anything


def test_a_large_npy_is_refused_as_a_large_picture_is(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((24, 32), np.float32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="a.npy: an array of shape .* the limit against files made to exhaust the memory"):
        read_map(tmp_path / "a.npy", "depth")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_map(tmp_path / "a.npy", "depth").shape == (1, 24, 32)


def test_a_check_survives_what_does_not_fit_into_the_memory(tmp_path, monkeypatch):
    make.beside(tmp_path)
    data, read = get_data(tmp_path), type(get_data(tmp_path)).sample

    def sample(self, index, intrinsics=()):
        if index == 1:
            raise MemoryError
        return read(self, index, intrinsics)

    monkeypatch.setattr(type(data), "sample", sample)
    found = check(data, full=True)
    assert found.read == [0, 2] and found.unreadable == ["photo1: it does not fit into the memory"]


# Masks and pictures

@pytest.mark.parametrize("save", [
    lambda path, mask: Image.fromarray(mask.astype(np.uint8)).save(path),
    lambda path, mask: Image.fromarray(mask.astype(np.uint8) * 255).save(path),
    lambda path, mask: Image.fromarray(mask).save(path),
    lambda path, mask: Image.fromarray(mask.astype(np.uint16)).save(path),
    lambda path, mask: Image.fromarray(np.stack([mask * 0, mask, mask * 0], -1).astype(np.uint8)).save(path),
    lambda path, mask: Image.merge("LA", [Image.fromarray(np.uint8(p)) for p in (mask, mask * 0 + 255)]).save(path),
], ids=["1", "255", "bits", "16 bits", "one channel", "with alpha"])
def test_every_code_but_zero_of_a_mask_is_a_value(tmp_path, save):
    mask = np.random.default_rng(0).random((24, 32)) < 0.5
    save(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_a_mask_of_ones_keeps_the_maps(tmp_path):
    make.beside(tmp_path, count=1)
    mask = np.ones((24, 32), np.uint8)
    mask[:4] = 0
    Image.fromarray(mask).save(tmp_path / "photo0-mask.png")
    known = torch.isfinite(get_data(tmp_path).sample(0, ("normal",)).maps["normal"]).all(0)
    assert known[4:].all() and not known[:4].any()


def test_a_tiff_of_floating_point_depth_is_told_what_to_become(tmp_path):
    Image.fromarray(np.ones((24, 32), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a.tif: a picture of floating-point numbers, .*; save it as .npy or .exr"):
        read_map(tmp_path / "a.tif", "depth", unit=1.0)


LINEAR_GREY = icc(b"GRAY", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": curve(1.0)})
GAMMA = icc(b"RGB ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.43607, 0.22249, 0.01392), b"gXYZ": xyz(0.38515, 0.71687,
            0.09708), b"bXYZ": xyz(0.14307, 0.06061, 0.71410), **{name: curve(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}})


def test_a_colour_profile_does_not_bend_a_map(tmp_path):
    codes = np.random.default_rng(0).integers(1, 65536, (24, 32)).astype(np.uint16)
    Image.fromarray(codes).save(tmp_path / "depth.png", icc_profile=LINEAR_GREY)
    metres = torch.from_numpy(codes.astype(np.float32) / 1000)[None]
    torch.testing.assert_close(read_map(tmp_path / "depth.png", "depth", unit=1 / 1000), metres)
    normal = make.room()[2]
    Image.fromarray(np.round((normal + 1) * 127.5).astype(np.uint8)).save(tmp_path / "normal.png", icc_profile=GAMMA)
    told = read_map(tmp_path / "normal.png", "normal", frame="omnidata")
    assert torch.allclose(told, torch.from_numpy(normal.transpose(2, 0, 1).copy()), atol=0.006)      # and no hole
    colours = np.random.default_rng(1).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    for intrinsic, stored in (("albedo", colours), ("shading", colours[..., 0])):
        Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=GAMMA if stored.ndim == 3 else LINEAR_GREY)
        told = read_map(tmp_path / "a.png", intrinsic).numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(told, np.atleast_3d(stored).astype(np.float32) / 255)


@pytest.mark.parametrize("intrinsic", ["albedo", "normal"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_transparent_has_no_value_and_what_is_half_transparent_its_own(tmp_path, bits, intrinsic):
    top = 2**bits - 1
    values = np.full((24, 32, 3), 0.25) if intrinsic == "albedo" else (make.room()[2] + 1) / 2
    stored = np.concatenate([values, np.ones((24, 32, 1))], -1)
    stored[2, 3, 3], stored[4:, :, 3] = 0, 0.5
    stored = np.round(stored * top).astype(np.uint8 if bits == 8 else np.uint16)
    if bits == 8:
        Image.fromarray(stored).save(tmp_path / "a.png")
    (tmp_path / "a.tif").write_bytes(tiff(stored))
    (tmp_path / "b.tif").write_bytes(tiff(np.ascontiguousarray(stored[..., :3])))
    told = read_map(tmp_path / ("a.png" if bits == 8 else "a.tif"), intrinsic, frame="omnidata")
    expected = read_map(tmp_path / "b.tif", intrinsic, frame="omnidata")
    assert not expected.isnan().any()
    expected[:, 2, 3] = torch.nan
    torch.testing.assert_close(told, expected, rtol=0, atol=0, equal_nan=True)


def grey_alpha_16(path, codes):
    """A PNG of two 16-bit channels, of which Pillow keeps 8 bits each."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.stack([row, row * 0 + 65535], -1).astype(">u2").tobytes() for row in codes)
    head = struct.pack(">IIBBBBB", codes.shape[1], codes.shape[0], 16, 4, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_depth_with_transparency(tmp_path):
    codes = np.full((24, 32), 5000, np.uint16)
    codes[2, 3] = 7
    Image.fromarray(codes).save(tmp_path / "a.png", transparency=7)      # the code of what is transparent
    for meaning in ("metric", "relative"):
        told = read_map(tmp_path / "a.png", "depth", unit=1 / 1000, meaning=meaning)
        assert told[0].isnan().nonzero().tolist() == [[2, 3]] and told[0, 0, 0] == 5
    grey_alpha_16(tmp_path / "b.png", codes)
    with pytest.raises(ImageError, match="b.png: 8-bit grey cannot hold depth, and of 16 bits beside an alpha channel 8 are"):
        read_map(tmp_path / "b.png", "depth", unit=1 / 1000)
    write_map(tmp_path / "c", np.ones((1, 24, 32), np.float32), "shading", ("png16",))
    grey_alpha_16(tmp_path / "c-16bit.png", codes)                       # the text beside is still that of 16 bits
    with pytest.raises(ImageError, match="c-16bit.png: it says what 16-bit codes mean, and they are read as 8 bits; write"):
        read_map(tmp_path / "c-16bit.png", "shading")


def test_codes_of_twelve_bits_are_not_stretched(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.full((24, 32, 1), 1000, np.uint16), twelve=True))
    assert (read_map(tmp_path / "a.tif", "depth", unit=1 / 1000) == 1).all()
    torch.testing.assert_close(read_map(tmp_path / "a.tif", "shading"), torch.full((1, 24, 32), 1000 / 4095))


def test_a_coloured_shading_is_its_mean_light_and_a_coloured_depth_refused(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    light = srgb_to_linear(torch.from_numpy(colours / np.float32(255)).permute(2, 0, 1))
    torch.testing.assert_close(read_map(tmp_path / "a.png", "shading"), linear_to_srgb(light.mean(0, keepdim=True)))
    wide = np.full((24, 32, 3), 5000, np.uint16)
    png16(tmp_path / "b.png", wide)
    assert (read_map(tmp_path / "b.png", "depth", unit=1 / 1000) == 5).all()
    wide[3, 4, 2] = 1
    png16(tmp_path / "b.png", wide)
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        with pytest.raises(ImageError, match=f"{path.name}: its red, green and blue differ; expected depth as grey, .*.npy"):
            read_map(path, "depth", unit=1 / 1000)


def test_maps_are_read_without_their_image(tmp_path, monkeypatch):
    make.beside(tmp_path / "m")
    make.diode(tmp_path / "d")
    data = [get_data(tmp_path / "m"), get_data(tmp_path / "d")]
    expected = [one.truth([1], 16, "depth") for one in data]

    def never(*args, **kwargs):
        raise AssertionError("the image was decoded")

    monkeypatch.setattr("probes.data._paired.read_image", never)
    monkeypatch.setattr("probes.data._diode.read_image", never)
    for one, values in zip(data, expected, strict=True):
        torch.testing.assert_close(one.truth([1], 16, "depth"), values, rtol=0, atol=0, equal_nan=True)
    np.save(tmp_path / "m/photo1-depth.npy", np.ones((12, 16), np.float32))       # still noticed, by the image's header
    with pytest.raises(ImageError, match="photo1.png: its depth is 16×12 pixels, the image 32×24"):
        data[0].truth([1], 16, "depth")


@pytest.mark.parametrize("turn, size", [(1, (24, 32)), (6, (32, 24)), (3, (24, 32))])
def test_a_turned_photograph_has_the_size_it_is_looked_at(tmp_path, turn, size):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(make.room()[0]).save(tmp_path / "photo0.jpg", exif=exif)
    np.save(tmp_path / "photo0-depth.npy", np.ones(size, np.float32))
    data = get_data(tmp_path)
    assert data.truth([0], 8, "depth").shape == (1, 1, 8, 8) and data.sample(0, ("depth",)).size == size


# Hugging Face

@pytest.fixture
def table(tmp_path, monkeypatch):
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "hub/pictures").mkdir(parents=True)
    for place in (tmp_path / "secret.png", tmp_path / "hub/pictures/a.png"):
        Image.fromarray(make.room()[0]).save(place)
    os.symlink(tmp_path / "secret.png", tmp_path / "hub/link.png")

    def write(paths, **columns):
        cells = [{"bytes": None, "path": str(path)} for path in paths]
        rows = datasets.Dataset.from_dict({"image": cells, **columns}).cast_column("image", datasets.Image(decode=False))
        parquet.write_table(rows.data.table, tmp_path / "hub/test.parquet")         # as it stands: no file is looked at
        return tmp_path / "hub"

    return write


def test_a_row_names_no_file_of_ours_and_no_address(table, tmp_path):
    names = [tmp_path / "hub/pictures/a.png", tmp_path / "secret.png", tmp_path / "hub/../secret.png",
             tmp_path / "hub/link.png", "https://example.invalid/a.png", f"file://{tmp_path}/hub/pictures/a.png"]
    data = get_data(f"hf:{table(names)}")
    assert data.sample(0).size == (24, 32)
    for index in range(1, len(names)):
        with pytest.raises(ImageError, match=f"row {index}: it names .*, which is no file of the dataset, and is not read"):
            data.sample(index)


def test_a_hugging_face_table_as_asked_for(table, tmp_path):
    folder = table([tmp_path / "hub/pictures/a.png"] * 5, depth=[[[0.0] * 32] * 24] * 5)
    data = get_data(f"hf:{folder},count=3")
    assert data.count == 3 and get_data(data.name).fingerprint == data.fingerprint != get_data(f"hf:{folder}").fingerprint
    with pytest.raises(ValueError, match="no image 3 in data"):
        data.sample(3)
    with pytest.raises(ValueError, match="count: .* has 5 rows in .*, got count=6"):
        get_data(f"hf:{folder},count=6")
    assert data.truth([0], 8, "depth").isnan().all()
    data = get_data(f"hf:{folder},depth_meaning=relative")
    assert data.meaning("depth") == "relative" and (data.truth([0], 8, "depth") == 0).all()


@pytest.mark.parametrize("streaming", ["", ",streaming=true,count=3"])
def test_all_splits_of_a_table_only_when_asked(table, tmp_path, streaming):
    folder = table([tmp_path / "hub/pictures/a.png"] * 2)
    (folder / "train.parquet").write_bytes((folder / "test.parquet").read_bytes())
    with pytest.raises(ValueError, match="split: hf:.* holds train and test; choose one, split=train for .*, or split=all"):
        get_data(f"hf:{folder}{streaming}")
    data = get_data(f"hf:{folder},split=all{streaming}")
    assert data.count == (3 if streaming else 4) and data.sample(2).size == (24, 32)


def test_h5py_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install 'probes\[data\]'"):
        read_hdf5(tmp_path / "a.h5", "dataset")


def test_what_is_no_image_is_told_before_a_fit_and_what_is_damaged_with_advice(tmp_path):
    make.beside(tmp_path, count=12)
    (tmp_path / "data.csv").write_text("\n".join(["image,depth", *(f"photo{i}.png,photo{i}-depth.npy" for i in range(12))]))
    photo = tmp_path / "photo11.png"
    photo.unlink()
    with pytest.raises(ValueError, match="1 of the 12 images of manifest:.*/data.csv cannot be read: .*11.png: there is no"):
        get_data(tmp_path / "data.csv").check_training()
    photo.write_bytes(b"<html>" + bytes(range(32, 127)) * 10)
    with pytest.raises(ValueError, match="1 of the 12 images of maps:.* cannot be read: .*photo11.png: this is a web page"):
        get_data(tmp_path).check_training()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(photo)
    photo.write_bytes(photo.read_bytes()[:-800])
    data = get_data(tmp_path)
    data.check_training()
    with pytest.raises(ImageError, match="photo11.png: the file is damaged .*; `probes data check maps:.* --full` reads all"):
        data.images([data.count - 9], 8)


@pytest.mark.parametrize("name", ["", "images:", "maps:,frame=opengl", ",frame=opengl", "hf:"])
def test_no_path_is_not_the_current_folder(name):
    with pytest.raises(ValueError, match=f"data: the path in {name!r} is empty; expected a folder or a file; the current"):
        get_data(name)

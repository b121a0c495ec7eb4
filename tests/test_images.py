"""Photographs in, maps out: every kind of file people have, the sizes networks take, and files that lose nothing."""
from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps

from generators._names import UnknownNameError
from probes._files import OutputError
from probes.data.colour import linear_to_srgb
from probes.images import Fitted, ImageError, Photo, fit, gather, read_image, stems, write_map
from probes.images._codes import coding
from probes.images._png import write_png
from probes.report import display

H, W = 18, 26


def noise(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)


def codes(photo: Photo, bits: int = 8) -> np.ndarray:
    """The integers [H, W, 3] that a photo's pixels stand for; fails if they lie between integers."""
    exact = (photo.pixels.double().numpy().transpose(1, 2, 0) + 1) * (2**bits - 1) / 2
    assert np.abs(exact - exact.round()).max() < 0.01
    return exact.round().astype(int)


def smooth(height: int, width: int) -> torch.Tensor:
    """[3, H, W] in [-1, 1], without frequencies that a resampling could lose."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    return torch.stack([torch.sin(x + y), torch.cos(x) * 0.8, torch.sin(y * 2) * 0.5])


def png16(path, array: np.ndarray, extra: dict | None = None) -> None:
    with open(path, "wb") as file:
        write_png(file, [array], *array.shape, 16, extra)


def tiff(array: np.ndarray, order: str = "<", photometric: int | None = None, planar: bool = False,
         orientation: int = 1, twelve: bool = False) -> bytes:
    """A baseline TIFF of one uncompressed strip (one a channel if planar), 8 or 16 bits, or 12 of the given 16."""
    height, width, channels = array.shape
    stored = array.transpose(2, 0, 1) if planar else array
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    bits = array.dtype.itemsize * 8
    if twelve:
        first, second = array.reshape(-1, 2).T.astype(int)
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
        bits = 12
    part = len(data) // channels
    photometric = photometric if photometric is not None else 2 if channels > 1 else 1
    count = channels if planar else 1
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric]),
               (273, 4, [8 + i * part for i in range(count)]), (274, 3, [orientation]), (277, 3, [channels]),
               (278, 4, [height]), (279, 4, [len(data) // count] * count), (284, 3, [2 if planar else 1])]
    entries += [(338, 3, [2])] if channels == 4 else []
    start, table, far = 8 + len(data), b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind == 4]}", *values)
        if len(packed) > 4:
            packed, far = struct.pack(order + "I", after + len(far)), far + packed
        table += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + data + struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", 0) + far


def icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal version-4 display profile."""
    body, table, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    white = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    head = struct.pack(">I4sI4s4s4s12s4s4sI4s4sQI", offset + len(body), b"", 0x04000000, b"mntr", space, b"XYZ ", b"\0" * 12,
                       b"acsp", b"", 0, b"", b"", 0, 0) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def curve(gamma: float, *rest: float) -> bytes:
    values = (gamma, *rest)
    return b"para\0\0\0\0" + struct.pack(">HH", 3 if rest else 0, 0) + struct.pack(f">{len(values)}i",
                                                                                  *(round(v * 65536) for v in values))


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in values))


def rgb_profile(red: int = 0, green: int = 1) -> bytes:
    """sRGB, its primaries in another order if asked: what is called red may then be green."""
    primaries = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]
    srgb = curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return icc(b"RGB ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(*primaries[red]), b"gXYZ": xyz(*primaries[green]),
                         b"bXYZ": xyz(*primaries[2]), b"rTRC": srgb, b"gTRC": srgb, b"bTRC": srgb})


# ---- reading files


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_every_mode_becomes_the_rgb_that_pillow_shows(mode, tmp_path):
    image = Image.fromarray(noise(H, W, 3)).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "YCbCr" else "a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    photo = read_image(path)
    assert photo.size == (H, W) and photo.name == str(path) and photo.pixels.dtype == torch.float32 and photo.notes == ()
    assert (codes(photo) == np.asarray(Image.open(path).convert("RGB"))).all()
    assert torch.equal(read_image(Image.open(path)).pixels, photo.pixels)


@pytest.mark.parametrize("ending", ["tga", "bmp", "ppm", "gif"])
def test_rarer_formats(ending, tmp_path):
    array = noise(H, W, 3) // 86 * 85       # 27 colours: a GIF keeps them
    Image.fromarray(array).save(tmp_path / f"a.{ending}")
    assert (codes(read_image(tmp_path / f"a.{ending}")) == array).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(orientation, ending, tmp_path):
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(H, W, 3)).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert (codes(read_image(path)) == expected).all() and expected.shape[:2] == ((H, W) if orientation < 5 else (W, H))
    opened = Image.open(path)
    assert (codes(read_image(opened)) == expected).all() and opened.size in ((W, H), (H, W))


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_of_a_tiff_survive(order, channels, orientation, tmp_path):
    array = noise(H, W, channels, bits=16)
    if channels == 4:
        array[..., 3] = 65535
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(array, order, orientation=orientation))
    photo = read_image(path)
    turned = {1: array, 3: array[::-1, ::-1], 6: np.rot90(array, -1), 7: np.rot90(array, 2).swapaxes(0, 1)}[orientation]
    assert photo.notes == () and (codes(photo, 16) == turned[..., :3]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_a_png_survive(channels, tmp_path):
    array = noise(H, W, channels, bits=16)
    png16(tmp_path / "a.png", array)
    photo = read_image(tmp_path / "a.png")
    assert photo.notes == () and (codes(photo, 16) == array).all()
    if channels == 3:       # Pillow has dropped the low bytes of what it hands over, and that is said
        given = read_image(Image.open(tmp_path / "a.png"))
        assert (codes(given) == array >> 8).all() and "read as 8" in given.notes[0]


@pytest.mark.parametrize("channels", [1, 4])
def test_turned_tiffs_that_pillow_maps_into_memory(channels, tmp_path):
    array = noise(H, W, channels)
    array[..., 3:] = 255
    (tmp_path / "a.tif").write_bytes(tiff(array, orientation=6))
    for item in (tmp_path / "a.tif", Image.open(tmp_path / "a.tif")):
        assert (codes(read_image(item)) == np.rot90(array[..., :3], -1)).all()


def test_white_is_zero_and_twelve_bits(tmp_path):
    array = noise(H, W, 1, bits=16)
    (tmp_path / "a.tif").write_bytes(tiff(array, photometric=0))
    assert (codes(read_image(tmp_path / "a.tif"), 16) == 65535 - array).all()
    array = array >> 4
    (tmp_path / "b.tif").write_bytes(tiff(array, twelve=True))
    assert (codes(read_image(tmp_path / "b.tif"), 12) == array).all()


def test_planes_that_pillow_would_misread_are_refused(tmp_path):
    array = noise(H, W, 3, bits=16)
    (tmp_path / "a.tif").write_bytes(tiff(array, planar=True))
    with pytest.raises(ImageError, match="a.tif: a 16-bit TIFF.*separate planes.*contiguous"):
        read_image(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(tiff(noise(H, W, 3), planar=True))     # 8 bits are read well
    assert (codes(read_image(tmp_path / "b.tif")) == noise(H, W, 3)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background,level", [("white", 255), ("black", 0), ("#804020", (128, 64, 32))])
def test_alpha_is_composited(mode, background, level, tmp_path):
    array = noise(H, W, len(mode))
    Image.fromarray(array).save(tmp_path / "a.png")
    photo = read_image(tmp_path / "a.png", background=background)
    alpha = array[..., -1:] / 255
    expected = np.broadcast_to(alpha * array[..., :-1] + (1 - alpha) * np.array(level), (H, W, 3))
    np.testing.assert_allclose((photo.pixels.numpy().transpose(1, 2, 0) + 1) * 127.5, expected, atol=1e-3)


def test_alpha_of_palettes_colour_keys_and_sixteen_bits(tmp_path):
    grey = np.arange(H * W, dtype=np.uint8).reshape(H, W) % 4
    palette = Image.fromarray(grey)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette.save(tmp_path / "p.png", transparency=2)
    out = codes(read_image(tmp_path / "p.png"))
    assert (out[grey == 2] == 255).all() and (out[grey == 1] == [40, 50, 60]).all()
    rgb = np.repeat(grey[..., None], 3, 2)
    Image.fromarray(rgb).save(tmp_path / "k.png", transparency=(3, 3, 3))
    assert (codes(read_image(tmp_path / "k.png")) == np.where(rgb == 3, 255, rgb)).all()
    wide = noise(H, W, 4, bits=16)
    (tmp_path / "w.tif").write_bytes(tiff(wide))
    alpha = wide[..., 3:] / 65535
    got = (read_image(tmp_path / "w.tif", background="black").pixels.numpy().transpose(1, 2, 0) + 1) * 32767.5
    np.testing.assert_allclose(got, alpha * wide[..., :3], atol=0.02)
    with pytest.raises(ValueError, match="background.*'#808080'.*'off-white'"):
        read_image(tmp_path / "w.tif", background="off-white")


def test_colour_profiles_are_converted(tmp_path):
    array = noise(H, W, 3)
    array[0, 0] = 250, 5, 5
    Image.fromarray(array).save(tmp_path / "a.png", icc_profile=rgb_profile(1, 0))
    swapped = codes(read_image(tmp_path / "a.png"))
    assert np.abs(swapped - array[..., [1, 0, 2]]).max() <= 2
    Image.fromarray(array).save(tmp_path / "b.png", icc_profile=rgb_profile())      # sRGB by another vendor
    assert (codes(read_image(tmp_path / "b.png")) == array).all()
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(array[..., 0]).save(tmp_path / "c.png", icc_profile=own)        # grey with an RGB profile
    assert (codes(read_image(tmp_path / "c.png")) == array[..., :1]).all()
    linear = icc(b"GRAY", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": curve(1.0)})
    Image.fromarray(array[..., 0]).save(tmp_path / "d.png", icc_profile=linear)
    expected = linear_to_srgb(torch.from_numpy(array[..., :1] / 255)).numpy() * 255
    assert np.abs(codes(read_image(tmp_path / "d.png")) - expected).max() < 1.5
    Image.fromarray(array).save(tmp_path / "e.png", icc_profile=b"no profile at all" * 20)
    broken = read_image(tmp_path / "e.png")
    assert (codes(broken) == array).all() and "profile is damaged" in broken.notes[0]
    Image.fromarray(array).save(tmp_path / "f.png", icc_profile=linear)
    assert "GRAY" in read_image(tmp_path / "f.png").notes[0]


def test_a_profile_takes_sixteen_bits_only_where_it_must(tmp_path):
    array = noise(H, W, 3, bits=16)
    plain, path = io.BytesIO(), tmp_path / "a.png"
    write_png(plain, [array], H, W, 3, 16)
    for profile, bits in ((rgb_profile(), 16), (rgb_profile(1, 0), 8)):
        data = b"x\0\0" + zlib.compress(profile)
        chunk = struct.pack(">I", len(data)) + b"iCCP" + data + struct.pack(">I", zlib.crc32(b"iCCP" + data))
        path.write_bytes(plain.getvalue()[:33] + chunk + plain.getvalue()[33:])
        photo = read_image(path)
        if bits == 16:
            assert (codes(photo, 16) == array).all() and photo.notes == ()
        else:
            assert np.abs(codes(photo) - (array >> 8)[..., [1, 0, 2]]).max() <= 2 and "profile" in photo.notes[0]


def test_the_first_frame_and_it_is_said(tmp_path):
    frames = [Image.fromarray(noise(H, W, 3, seed=i)) for i in range(3)]
    for name, what in (("a.png", "frames"), ("a.tif", "pages")):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        photo = read_image(tmp_path / name)
        assert (codes(photo) == noise(H, W, 3)).all() and photo.notes == (f"the first of 3 {what} was read",)


def _truncated(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, ending)
    return buffer.getvalue()[:len(buffer.getvalue()) // 2]


BAD_FILES = {
    "empty.jpg": (b"", "the file is empty.*download it again"),
    "text.png": (b"dear diary, " * 20, "this is a text file; expected an image"),
    "page.jpg": (b"\n<!DOCTYPE html><html>404</html>", "a web page, not an image; the download went wrong"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer.*git lfs pull"),
    "drawing.svg": (b'<?xml version="1.0"?><svg/>', "vector drawing.*PNG"),
    "paper.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript.*PNG"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40, "HEIC.*pip install pillow-heif"),
    "new.jxl": (b"\xff\x0a" + b"\0" * 40, "JPEG XL.*pip install pillow-jxl-plugin"),
    "light.exr": (b"v/1\x01" + b"\0" * 40, "OpenEXR.*tone-map"),
    "clip.jpg": (b"\0\0\0\x18ftypisom\0\0\0\0isom" + b"\0" * 40, "a video"),
    "camera.NEF": (b"II*\0" + b"\0" * 40, "camera's raw file.*16-bit TIFF"),
    "half.jpg": (_truncated("jpeg"), "damaged or incomplete.*truncated.*copy or download it again"),
    "half.png": (_truncated("png"), "damaged or incomplete"),
    "half.webp": (_truncated("webp"), "damaged|no image"),
    "header.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "begins as PNG, but its header is damaged"),
    "random.bin": (bytes(range(256)) * 2, "no image that Pillow .* can read; expected JPEG"),
    "small.ppm": (b"P6 1 1 255\nabc", "it is 1×1 pixels; expected at least 8×8"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_not_an_image_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)       # as where they are not installed
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    data, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=f"{name}: .*({expected})") as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_installed_heic_plugin_is_used(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(BAD_FILES["phone.heic"][0])
    called = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: called.append(1)))
    with pytest.raises(ImageError, match="a.heic"):      # this plugin reads nothing
        read_image(tmp_path / "a.heic")
    assert called == [1]


def test_paths_that_lead_nowhere(tmp_path):
    for item, expected in ((tmp_path / "no.jpg", "no.jpg: there is no such file; check the path"),
                           (tmp_path, "a folder.*gather"), ("https://example.org/a.jpg", "no such file; download it first"),
                           ("a\0b", "cannot be read"),
                           (io.BytesIO(b"x"), "got BytesIO.*PIL.Image.open"), (None, "got NoneType")):
        with pytest.raises(ImageError, match=expected):
            read_image(item)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):      # and does not wait for a writer
        read_image(tmp_path / "pipe.jpg")


def test_decompression_bombs(tmp_path, monkeypatch, recwarn):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2100)
    assert read_image(tmp_path / "a.png").size == (64, 64) and not recwarn.list     # below twice the limit, no noise
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ImageError, match="a.png: it claims more than.*MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "a.png")


def test_floating_point_and_wide_integers(tmp_path):
    values = np.random.default_rng(0).random((H, W), np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_allclose(photo.pixels[1].numpy(), values * 2 - 1, atol=1e-6)
    assert photo.notes == ()
    for name, array, expected in (("b.tif", values * 300, "floating-point pixels from .*expected \\[0, 1\\]"),
                                  ("c.tif", values * np.nan, "floating-point pixels from nan"),
                                  ("d.tif", (values * 1e6).astype(np.int32), "mode 'I'.*16-bit PNG")):
        Image.fromarray(array).save(tmp_path / name)
        with pytest.raises(ImageError, match=f"{name}: .*{expected}"):
            read_image(tmp_path / name)


# ---- reading arrays and tensors


def test_arrays_and_tensors_agree():
    rgb = noise(H, W, 3)
    expected = torch.from_numpy(rgb).permute(2, 0, 1).double() / 127.5 - 1
    for item in (rgb, rgb.astype(np.uint16) * 257, rgb / 255, (rgb / 255).astype(np.float32),
                 np.dstack([rgb, np.full_like(rgb[..., :1], 255)]), torch.from_numpy(rgb).permute(2, 0, 1), expected[None],
                 expected.float().requires_grad_(), Image.fromarray(rgb)):
        photo = read_image(item)
        assert photo.pixels.dtype == torch.float32 and not photo.pixels.requires_grad
        torch.testing.assert_close(photo.pixels.double(), expected, atol=1e-6, rtol=0)
    for grey in (rgb[..., 0], rgb[..., :1]):
        torch.testing.assert_close(read_image(grey).pixels.double(), expected[:1].expand(3, -1, -1), atol=1e-6, rtol=0)
    given = expected.float()
    read_image(given).pixels.zero_()
    assert given.abs().max() > 0        # the caller's tensor is the caller's
    assert read_image(rgb, name="frame 3").name == "frame 3"
    assert read_image(read_image(rgb)).size == (H, W)


BAD_VALUES = {
    "nan": (np.full((H, W, 3), np.nan), "array: it holds NaN"),
    "inf": (torch.full((3, H, W), torch.inf), "tensor: it holds NaN or infinite"),
    "bytes as float": (noise(H, W, 3).astype(float), r"run from 0 to 255; expected floats in \[0, 1\]; divide by 255"),
    "signed array": (np.linspace(-1, 1, H * W).reshape(H, W), r"expected floats in \[0, 1\]; \(x \+ 1\) / 2"),
    "wide tensor": (torch.full((3, H, W), 3.0), r"expected floats in \[-1, 1\]; divide by 255 \* 2 - 1"),
    "channels first": (noise(3, H, W), r"channels last.*transpose\(1, 2, 0\)"),
    "channels last": (torch.zeros(H, W, 3), r"permute\(2, 0, 1\)"),
    "two channels": (noise(H, W, 2), r"\[H, W, 1 \| 3 \| 4\]"),
    "batch": (torch.zeros(2, 3, H, W), r"a batch of 2.*list\(tensor\)"),
    "array batch": (noise(2, H, W, 3), r"list\(array\)"),
    "empty": (np.zeros((0, W, 3), np.uint8), "it is 26×0 pixels"),
    "one pixel": (torch.zeros(3, 1, 1), "it is 1×1 pixels; expected at least 8×8"),
    "int64": (noise(H, W, 3).astype(np.int64), "uint8, uint16, or float.*astype"),
    "int tensor": (torch.zeros(3, H, W, dtype=torch.int32), "torch.int32.*uint8"),
    "bool": (np.zeros((H, W), bool), "array of bool"),
    "objects": (np.full((H, W), None), "array of object"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_do_not_fit_are_named(name):
    item, expected = BAD_VALUES[name]
    with pytest.raises(ImageError, match=expected):
        read_image(item)


def test_a_tensor_that_looks_like_zero_to_one_is_noted():
    assert "tensor * 2 - 1" in read_image(torch.rand(3, H, W)).notes[0]
    assert read_image(torch.rand(3, H, W) * 2 - 1).notes == ()


# ---- gathering


def test_folders_patterns_and_lists(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "a.png", "c.heic", ".hidden.png", "notes.txt", "raw.nef", "deep/d.png"):
        (tmp_path / name).write_bytes(b"x")
    said = []
    assert [p.name for p in gather(tmp_path, said.append)] == ["a.png", "b.JPG", "c.heic"]
    assert len(said) == 1 and "3 images; 2 other files left out (notes.txt, raw.nef)" in said[0]
    assert [p.name for p in gather(f"{tmp_path}/*.[pJ]*")] == ["a.png", "b.JPG"]
    assert [p.name for p in gather(f"{tmp_path}/**/*.png")] == ["a.png", "d.png"]
    (tmp_path / "x[1].png").write_bytes(b"x")
    assert [p.name for p in gather(str(tmp_path / "x[1].png"))] == ["x[1].png"]
    array = noise(H, W)
    mixed = gather([array, tmp_path / "deep", "elsewhere/e.jpg"])
    assert mixed[0] is array and [p.name for p in mixed[1:]] == ["d.png", "e.jpg"]
    assert gather(array)[0] is array and len(gather(torch.zeros(3, H, W))) == 1
    assert len(gather(torch.zeros(3, H, W) for _ in range(3))) == 3


def test_nothing_to_gather_is_an_error(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"x")
    for items, expected in ((tmp_path, "holds no image \\(1 other files\\).*subfolders"),
                            (f"{tmp_path}/*.jpg", "no file matches"),
                            ([], "an empty list"), (3, "got int"), (b"x", "got bytes"), (tmp_path / "deep", "no files")):
        with pytest.raises(ImageError, match=expected):
            gather(items)


def test_every_output_has_a_name_of_its_own():
    items = ["p/a.jpg", "p/a.png", "q/A.jpg", "b.tar.tif", noise(H, W), "p/b.jpg", "image-0004.png", "q/b.jpg"]
    assert stems(items) == ["a.jpg", "a.png", "A.jpg-2", "b.tar", "image-0004", "b.jpg", "image-0004-2", "b.jpg-2"]


# ---- fitting and restoring


@pytest.mark.parametrize("policy,size,given,inner,whole", [
    ("resize", 512, (600, 901), (512, 768), (512, 768)), ("resize", 64, (901, 600), (96, 64), (96, 64)),
    ("resize", 512, (100, 100), (512, 512), (512, 512)), ("resize", None, (101, 50), (104, 48), (104, 48)),
    ("resize", 64, (20, 500), (64, 1600), (64, 1600)), ("square", 64, (600, 901), (64, 64), (64, 64)),
    ("native", 512, (33, 40), (33, 40), (40, 40)), ("native", None, (48, 56), (48, 56), (48, 56))])
def test_sizes(policy, size, given, inner, whole):
    fitted = fit(Photo(smooth(*given), "a"), size=size, policy=policy)
    assert (fitted.inner, fitted.size, fitted.original, fitted.policy) == (inner, whole, given, policy)
    assert fitted.pixels.abs().max() <= 1
    for channels in (1, 3):
        assert fitted.restore(torch.zeros(1, channels, *whole), "depth").shape == (1, channels, *given)


def test_a_multiple_of_any_size_is_reflected_as_often_as_it_takes():
    row = torch.arange(9.0).expand(3, 9, 9) / 10
    fitted = fit(Photo(row, "a"), multiple=32, policy="native")
    assert fitted.size == (32, 32)
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1]
    assert torch.equal((fitted.pixels[0] * 10).round(), torch.tensor(expected).float().expand(32, 32))
    near = fit(Photo(smooth(30, 29), "a"), policy="native").pixels
    assert torch.equal(near, F.pad(smooth(30, 29)[None], (0, 3, 0, 2), mode="reflect")[0])


def test_native_comes_back_bit_for_bit_and_resizing_nearly():
    photo = Photo(smooth(33, 45), "a")
    fitted = fit(photo, policy="native")
    assert torch.equal(fitted.restore(fitted.pixels[None], "image")[0], photo.pixels)
    for policy in ("resize", "square"):
        fitted = fit(Photo(smooth(90, 130), "a"), size=64, policy=policy)
        back = fitted.restore(fitted.pixels[None], "image")[0]
        assert (back - smooth(90, 130)).abs().max() < 0.02
        assert (back - smooth(90, 130))[:, 5:-5, 5:-5].abs().max() < 3e-3      # no shift: half a pixel would be 0.01


def test_resizing_does_not_alias_and_does_not_overshoot():
    stripes = (torch.arange(512) % 2 * 2.0 - 1).expand(3, 512, 512)
    assert fit(Photo(stripes, "a"), size=128).pixels[:, :, 4:-4].abs().max() < 0.05     # plain bicubic says ±0.8 or so
    step = torch.where(torch.arange(100) < 50, -1.0, 1.0).expand(3, 100, 100)
    assert fit(Photo(step, "a"), size=256).pixels.abs().max() == 1
    fitted = fit(Photo(step, "a"), size=32)
    depth = torch.where(torch.arange(32) < 16, 1.0, 7.0).expand(1, 1, 32, 32)
    back = fitted.restore(depth, "depth")
    assert back.min() == 1 and back.max() == 7 and len(back.unique()) > 2         # between its neighbours, and not nearest
    albedo = fitted.restore((depth - 1) / 6, "albedo")
    assert albedo.min() == 0 and albedo.max() == 1
    assert fitted.restore(depth * 0 - 3, "shading").max() == 0


def test_normals_stay_unit_vectors_also_where_they_cancel():
    fitted = fit(Photo(smooth(100, 76), "a"), size=64)
    normals = F.normalize(torch.randn(1, 3, *fitted.size, generator=torch.Generator().manual_seed(0)), dim=1)
    back = fitted.restore(normals, "normal")
    torch.testing.assert_close(back.square().sum(1), torch.ones(1, 100, 76))
    opposite = torch.zeros(1, 3, *fitted.size)
    opposite[:, 0, :, ::2], opposite[:, 0, :, 1::2] = 1, -1
    wide = Fitted(fitted.pixels, fitted.inner, (fitted.size[0], fitted.size[1] // 2), "resize", "a")
    back = wide.restore(opposite, "normal")
    torch.testing.assert_close(back.square().sum(1), torch.ones_like(back[:, 0]))
    assert (back[:, 2] == -1).any()
    same = fit(Photo(smooth(64, 64), "a"), size=64)
    assert torch.allclose(same.restore(normals[:, :, :64, :64] * 3, "normal"), normals[:, :, :64, :64], atol=1e-6)


def test_bad_fits_are_named():
    photo = Photo(smooth(20, 20), "a.jpg")
    for options, expected in (({"size": 0}, "size.*got 0"), ({"size": 4}, "at least 8"), ({"multiple": 0}, "multiple.*got 0"),
                              ({"size": 51.2}, "size.*51.2"), ({"policy": "square", "size": None}, "try size=512")):
        with pytest.raises(ValueError, match=expected):
            fit(photo, **options)
    with pytest.raises(UnknownNameError, match="policy.*did you mean 'native'"):
        fit(photo, policy="nativ")
    fitted = fit(photo, size=64)
    for values, kind in ((torch.zeros(1, 3, 8, 8), "normal"), (torch.zeros(2, 3, 64, 64), "normal"),
                         (torch.zeros(1, 1, 64, 64), "normal")):
        with pytest.raises(ValueError, match="values: "):
            fitted.restore(values, kind)


# ---- writing


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
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    read, restored, written = map(float, done.stdout.split())
    assert 1 <= read < 2 and 1 <= restored < 2 and written < 1.5, done.stdout

"""Photographs in: every kind of file people have, arrays and tensors, folders of them; what is none of these is named."""
from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from make_images import H, W, codes, curve, icc, noise, png16, rgb_profile, tiff, xyz
from PIL import Image, ImageCms, ImageOps

from probes.data.colour import linear_to_srgb
from probes.images import ImageError, gather, read_image, stems
from probes.images._file import check_file
from probes.images._png import write_png

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


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_look_at_the_first_bytes_finds_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    data, expected = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    if name.startswith("half"):                     # a whole header
        return check_file(tmp_path / name, name)
    with pytest.raises(ImageError, match=f"{name}: .*({expected})"):
        check_file(tmp_path / name, name)


def test_whole_pictures_are_known_by_their_first_bytes(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("probes.images._file.open_image", lambda path, name: opened.append(name) or Image.open(path))
    for ending in ("png", "jpg", "tif", "webp", "gif", "bmp", "tga"):
        Image.fromarray(noise(64, 64, 3)).save(tmp_path / f"a.{ending}")
        check_file(tmp_path / f"a.{ending}", ending)
    assert opened == ["bmp", "tga"]


def test_an_installed_heic_plugin_is_used(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(BAD_FILES["phone.heic"][0])
    called = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: called.append(1)))
    with pytest.raises(ImageError, match="a.heic"):      # this plugin reads nothing
        read_image(tmp_path / "a.heic")
    assert called == [1]


def test_paths_that_lead_nowhere(tmp_path):
    for item, expected in ((tmp_path / "no.jpg", "no.jpg: there is no such file; check the path"),
                           (tmp_path, f"^{tmp_path}: this is a folder.*gather"), ("", "^item: got an empty path"),
                           ("https://example.org/a.jpg", "no such file; download it first"),
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
    "bool": (np.zeros((H, W), bool), r"array of bool.*; use array.astype\(numpy.uint8\) \* 255$"),
    "bool tensor": (torch.zeros(3, H, W, dtype=torch.bool), r"torch.bool.*; use tensor.to\(torch.uint8\) \* 255$"),
    "two channels of a tensor": (torch.zeros(2, H, W), r"\[1 \| 3 \| 4, H, W\]"),
    "four channels first": (noise(4, H, W), r"channels last.*transpose\(1, 2, 0\)"),
    "objects": (np.full((H, W), None), "array of object"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_do_not_fit_are_named(name):
    item, expected = BAD_VALUES[name]
    with pytest.raises(ImageError, match=expected):
        read_image(item)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("background", ["white", "#204060"])
def test_grey_and_transparent_tensors_are_read_as_arrays_are(channels, background):
    array = noise(H, W, channels)
    expected = read_image(array, background=background).pixels
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    given = tensor.double() / 127.5 - 1
    before = given.clone()
    for item in (tensor, tensor[None], given, given[None], given.float(), *([tensor[0], given[0]] if channels == 1 else [])):
        photo = read_image(item, background=background)
        assert photo.pixels.is_contiguous() and photo.pixels.dtype == torch.float32 and photo.notes == ()
        torch.testing.assert_close(photo.pixels, expected, atol=1e-6, rtol=0)
    photo.pixels.zero_()
    assert torch.equal(given, before) and torch.equal(tensor, torch.from_numpy(array).permute(2, 0, 1))


def test_a_tensor_whose_alpha_looks_like_zero_to_one_is_noted():
    colour, alpha = torch.rand(3, H, W) * 2 - 1, torch.rand(1, H, W)
    assert "its alpha runs from 0" in read_image(torch.cat([colour, alpha])).notes[0]
    assert read_image(torch.cat([colour, torch.ones_like(alpha)])).notes == ()


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
                            ("", "images: got an empty path; .* give . for the current folder"),
                            (["a.png", ""], "empty path"), ([], "an empty list"),
                            (3, "got int"), (b"x", "got bytes"), (tmp_path / "deep", "no files")):
        with pytest.raises(ImageError, match=expected):
            gather(items)


def test_every_output_has_a_name_of_its_own():
    items = ["p/a.jpg", "p/a.png", "q/A.jpg", "b.tar.tif", noise(H, W), "p/b.jpg", "image-0004.png", "q/b.jpg"]
    assert stems(items) == ["a.jpg", "a.png", "A.jpg-2", "b.tar", "image-0004", "b.jpg", "image-0004-2", "b.jpg-2"]

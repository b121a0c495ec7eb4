"""A folder with maps beside its images, manifests, and Hugging Face datasets: what is written is what is read."""
import csv
import json
import sys

import make_datasets as make
import numpy as np
import pytest
import torch
from PIL import Image

from probes.data import get_data
from probes.data._folder import ImageFolder
from probes.images import ImageError, write_map
from probes.teachers import get_teacher


@pytest.mark.parametrize("formats, error", [(("npy",), 0), (("npy", "png"), 0), (("exr", "png"), 0), (("png16", "png"), 2e-5)])
def test_what_predict_writes_is_read_back(tmp_path, formats, error):
    if "exr" in formats:
        pytest.importorskip("OpenEXR")
    depth, normal = make.beside(tmp_path, formats=formats)
    data = get_data(tmp_path)
    assert (data.count, data.exact) == (3, ("normal", "depth"))
    sample = data.sample(2, data.exact)
    assert sample.name == "photo2" and sample.size == (24, 32)
    assert sample.maps["depth"][0].isnan().nonzero().tolist() == [[5, 6]]
    assert (sample.maps["depth"] - torch.from_numpy(depth)[None]).abs().nan_to_num().max() <= error
    assert (sample.maps["normal"] - torch.from_numpy(normal.transpose(2, 0, 1).copy())).abs().max() <= max(error, 2e-7)


def test_maps_in_another_folder_and_images_in_a_subfolder(tmp_path):
    depth, _ = make.beside(tmp_path / "all")
    (tmp_path / "photos/images").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for file in (tmp_path / "all").iterdir():
        file.rename((tmp_path / "photos/images" if file.suffix == ".png" else tmp_path / "out") / file.name)
    data = get_data(f"maps:{tmp_path}/photos,maps={tmp_path}/out")
    assert data.count == 3 and data.sample(0, ("depth",)).maps["depth"][0, 0, 0] == depth[0, 0]
    (tmp_path / "out").rename(tmp_path / "photos/maps")
    assert get_data(tmp_path / "photos").exact == ("normal", "depth")
    with pytest.raises(ValueError, match="maps: there is no folder .*out"):
        get_data(f"maps:{tmp_path}/photos,maps={tmp_path}/out")


def test_a_picture_to_look_at_is_no_map(tmp_path):
    make.beside(tmp_path / "a", formats=("png",))
    with pytest.raises(ValueError, match=r"no map beside the 3 images .*photo0-normal.npy.* need frame="):
        get_data(f"maps:{tmp_path / 'a'}")
    make.beside(tmp_path / "b", count=12, formats=("png",))
    assert isinstance(get_data(tmp_path / "b"), ImageFolder)


def test_normals_and_depth_of_others(tmp_path):
    """OpenGL normals as 8-bit RGB, and depth in millimetres as 16-bit PNG."""
    depth, normal = make.beside(tmp_path, count=1)
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    Image.fromarray(np.round((make.opengl(normal) + 1) * 127.5).astype(np.uint8)).save(tmp_path / "photo0-normal.png")
    Image.fromarray(np.nan_to_num(np.round(depth * 1000)).astype(np.uint16)).save(tmp_path / "photo0-depth.png")
    data = get_data(f"maps:{tmp_path},frame=opengl,depth_scale=1000")
    sample = data.sample(0, data.exact)
    assert torch.allclose(sample.maps["normal"], torch.from_numpy(normal.transpose(2, 0, 1).copy()), atol=0.006)
    assert sample.maps["depth"][0, 5, 6].isnan()
    assert (sample.maps["depth"] - torch.from_numpy(depth)[None]).abs().nan_to_num().max() < 5.1e-4
    with pytest.raises(ValueError, match="frame: unknown name 'gl'; .*opengl"):
        get_data(f"maps:{tmp_path},frame=gl")
    with pytest.raises(ValueError, match="depth_scale: expected a number above 0, got 'mm'"):
        get_data(f"maps:{tmp_path},depth_scale=mm")


def test_albedo_of_eight_and_sixteen_bits(tmp_path):
    make.beside(tmp_path, count=1)
    codes = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / "photo0-albedo.png")
    grey = np.random.default_rng(1).integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "photo0-shading.png")
    maps = get_data(tmp_path).sample(0, ("albedo", "shading")).maps
    assert torch.allclose(maps["albedo"], torch.from_numpy(codes.transpose(2, 0, 1) / np.float32(255)))
    assert torch.allclose(maps["shading"], torch.from_numpy(grey[None] / np.float32(65535)), atol=1e-6)


def test_a_mask_beside_makes_holes(tmp_path):
    make.beside(tmp_path, count=1)
    mask = np.full((24, 32), 255, np.uint8)
    mask[:12] = 0
    Image.fromarray(mask).save(tmp_path / "photo0-mask.png")
    data = get_data(tmp_path)
    maps = data.sample(0, data.exact).maps
    assert data.count == 1 and maps["normal"][:, :12].isnan().all() and not maps["normal"][:, 12:].isnan().any()
    Image.fromarray(mask[:8]).save(tmp_path / "photo0-mask.png")
    with pytest.raises(ImageError, match="its mask is 32×8 pixels, the map 32×24"):
        data.sample(0, ("normal",))


def test_a_map_of_another_size_names_both(tmp_path):
    make.beside(tmp_path)
    np.save(tmp_path / "photo1-depth.npy", np.ones((1, 12, 16), np.float32))
    with pytest.raises(ImageError, match="photo1.png: its depth is 16×12 pixels, the image 32×24"):
        get_data(tmp_path).sample(1, ("depth",))


def test_a_map_that_some_lack_is_not_exact(tmp_path):
    make.beside(tmp_path)
    (tmp_path / "photo1-depth.npy").unlink()
    data = get_data(tmp_path)
    assert data.exact == ("normal",) and data.found == {"normal": 3, "depth": 2}


def test_a_16_bit_png_whose_text_is_damaged(tmp_path):
    make.beside(tmp_path, count=1, formats=("png16",))
    array = np.zeros((24, 32), np.uint16)
    Image.fromarray(array).save(tmp_path / "photo0-depth-16bit.png")       # without its text
    (tmp_path / "photo0-depth-16bit.json").write_text('{"scale": 1}')
    with pytest.raises(ImageError, match="what says what its codes mean is damaged"):
        get_data(tmp_path).sample(0, ("depth",))


# Manifests

def table(path, rows):
    with open(path, "w", newline="") as file:
        csv.DictWriter(file, rows[0]).writeheader()
        csv.DictWriter(file, rows[0]).writerows(rows)


def rows(count=3, split="val"):
    return [dict(image=f"files/photo{i}.png", normal=f"files/photo{i}-normal.npy", depth=f"files/photo{i}-depth.npy",
                 split=split if i else "train", fx=30, fy=31, cx=16, cy=12) for i in range(count)]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_manifest_says_what_belongs_together(tmp_path, ending):
    depth, _ = make.beside(tmp_path / "files")
    path = tmp_path / f"data.{ending}"
    if ending == "csv":
        table(path, rows())
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow
        parquet.write_table(pyarrow.Table.from_pylist(rows()), path)
    with pytest.raises(ValueError, match="split: .*data.* holds train and val; choose one, split=train for .*or split=all"):
        get_data(path)
    data = get_data(f"{path},split=all")
    assert (data.count, data.exact, data.splits) == (3, ("normal", "depth"), {"train": 1, "val": 2})
    data = get_data(f"{path},split=val")
    sample = data.sample(0, ("depth",))
    assert data.count == 2 and sample.name == "files/photo1" and sample.camera.fy == 31
    assert sample.maps["depth"][0, 20, 3] == depth[20, 3]
    with pytest.raises(ValueError, match="split: unknown name 'vall'; did you mean 'val'"):
        get_data(f"{path},split=vall")


def test_a_manifest_that_cannot_be_followed(tmp_path):
    make.beside(tmp_path / "files")
    path = tmp_path / "data.csv"
    table(path, [dict(picture="a.png", normal="b.npy")])
    with pytest.raises(ValueError, match="data.csv lacks the column image; it has picture, normal"):
        get_data(path)
    table(path, [dict(row, normals="x", normal="") for row in rows(split="train")])
    data = get_data(path)
    assert data.exact == ("depth",) and data.notes == ["column 'normals' is not used; did you mean normal?"]
    table(path, [dict(row, image="files/photo0.png") for row in rows(split="train")])
    with pytest.raises(ValueError, match="has 3 rows named 'files/photo0'"):
        get_data(path)
    table(path, [dict(row, fx="wide") for row in rows(split="train")])
    with pytest.raises(ValueError, match="line 2: fx, fy, cx, cy are wide, 31, 16, 12; expected four numbers"):
        get_data(path)
    table(path, [dict(row, image="") for row in rows(split="train")])
    with pytest.raises(ValueError, match="line 2: no image"):
        get_data(path)
    table(path, [dict(row, depth="files/none.npy") for row in rows(split="train")])
    with pytest.raises(ImageError, match="none.npy: there is no such file"):
        get_data(path).sample(0, ("depth",))
    path.write_text("image,depth\n")
    with pytest.raises(ValueError, match="has no rows"):
        get_data(path)
    path.write_bytes(b"image\n\xff\xfe")
    with pytest.raises(ValueError, match="no CSV in UTF-8"):
        get_data(path)


def test_parquet_without_its_package_or_damaged(tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="data.parquet is no Parquet, damaged or incomplete"):
        get_data(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'probes\[data\]'"):
        get_data(path)


# Hugging Face

@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A dataset as a folder of Parquet files: an image, depth as a 16-bit picture, normals as an array, one row damaged."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    image, depth, normal = make.room()
    coded = Image.fromarray((depth * 1000).round().astype(np.uint16))
    features = datasets.Features(image=datasets.Image(), depth_map=datasets.Image(), label=datasets.Value("int32"),
                                 normal=datasets.Array3D((24, 32, 3), "float32"))
    for split, count in (("train", 4), ("test", 3)):
        found = [dict(image=Image.fromarray(image + np.uint8(i)), depth_map=coded, normal=normal, label=i)
                 for i in range(count)]
        rows = datasets.Dataset.from_list(found, features=features)
        (tmp_path / "hub").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "hub", depth, normal


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_hugging_face_dataset(hub, streaming):
    path, depth, normal = hub
    count = ",count=3" if streaming == "true" else ""
    data = get_data(f"hf:{path},split=test,depth_scale=1000,streaming={streaming}{count}")
    assert (data.count, data.exact) == (3, ("normal", "depth"))
    assert data.columns == {"image": "image", "normal": "normal", "depth": "depth_map"}
    for index in (2, 0, 1):                          # a stream begins again where it must
        sample = data.sample(index, ("normal", "depth"))
        assert float((sample.image[0, 23, 0] + 1) * 127.5) == pytest.approx(180 + index, abs=1e-3)
    assert (sample.maps["depth"] - torch.from_numpy(depth)[None]).abs().max() < 5.1e-4
    assert torch.allclose(sample.maps["normal"], torch.from_numpy(normal.transpose(2, 0, 1).copy()), atol=1e-6)
    assert len(data.fingerprint) == 64 and data.truth([0], 8, "depth").shape == (1, 1, 8, 8)


@pytest.mark.parametrize("streaming", ["", ",streaming=true,count=1"])
def test_codes_in_a_hugging_face_dataset_are_shares_of_their_dtype(tmp_path, monkeypatch, streaming):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    lists = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
    rng = np.random.default_rng(0)
    albedo, shading = rng.integers(0, 256, (24, 32, 3), np.uint8), rng.integers(0, 65536, (24, 32), np.uint16)
    depth, holed = rng.integers(1, 65536, (24, 32), np.uint16), shading.tolist()
    holed[3][4] = None
    features = datasets.Features(image=datasets.Image(), albedo=datasets.Array3D((24, 32, 3), "uint8"), shading=lists,
                                 depth=datasets.Array2D((24, 32), "uint16"), plain=datasets.Array2D((24, 32), "float32"))
    row = dict(image=Image.fromarray(make.room()[0]), albedo=albedo, shading=holed, depth=depth, plain=shading / 65535)
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "hub/test.parquet")
    maps = get_data(f"hf:{tmp_path}/hub,depth_scale=1000{streaming}").sample(0, ("albedo", "shading", "depth")).maps
    torch.testing.assert_close(maps["albedo"], torch.from_numpy(albedo.transpose(2, 0, 1) / np.float32(255)))
    expected = torch.from_numpy(shading[None] / np.float32(65535))
    expected[0, 3, 4] = torch.nan
    torch.testing.assert_close(maps["shading"], expected, equal_nan=True)
    torch.testing.assert_close(maps["depth"], torch.from_numpy(depth[None] / np.float32(1000)))
    plain = get_data(f"hf:{tmp_path}/hub,shading=plain{streaming}").sample(0, ("shading",)).maps["shading"]
    torch.testing.assert_close(plain, torch.from_numpy(shading[None] / np.float32(65535)))


def test_images_of_a_hugging_face_dataset_may_be_numbers(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    image = make.room()[0]
    shape = image.shape
    features = datasets.Features(image=datasets.Array3D(shape, "uint8"), shares=datasets.Array3D(shape, "float32"),
                                 wide=datasets.Array3D(shape, "uint16"), odd=datasets.Array3D(shape, "int32"))
    row = dict(image=image, shares=image / 255, wide=image.astype(np.uint16) * 257, odd=image.astype(np.int32) + 200)
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "hub/test.parquet")
    known = get_data(f"hf:{tmp_path}/hub").images([0], 24)
    for column in ("shares", "wide"):
        torch.testing.assert_close(get_data(f"hf:{tmp_path}/hub,image={column}").images([0], 24), known, rtol=0, atol=1e-5)
    with pytest.raises(ImageError, match="what are no codes of an image; expected whole numbers from 0 to 255"):
        get_data(f"hf:{tmp_path}/hub,image=odd").images([0], 24)


def test_a_hugging_face_dataset_that_cannot_be_used(hub, monkeypatch):
    path, _, _ = hub
    with pytest.raises(ValueError, match="split: unknown name 'val'; .*known: train, test"):
        get_data(f"hf:{path},split=val")
    with pytest.raises(ValueError, match="depth: unknown name 'depth_mapp'; did you mean 'depth_map'"):
        get_data(f"hf:{path},split=test,depth=depth_mapp")
    with pytest.raises(ImageError, match="test, row 0, depth_map: nothing says what its codes are in metres; give depth_scale"):
        get_data(f"hf:{path},split=test").sample(0, ("depth",))
    with pytest.raises(ValueError, match="streaming: expected true or false, got 'yes'"):
        get_data(f"hf:{path},streaming=yes")
    with pytest.raises(ValueError, match="no image 3 in data"):
        get_data(f"hf:{path},split=test").sample(3)
    stream = get_data(f"hf:{path},split=test,streaming=true,count=5")
    with pytest.raises(ImageError, match="it ended after 3 rows, row 4 was asked for; give count=3"):
        stream.sample(4)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'probes\[data\]'"):
        get_data(f"hf:{path}")


def test_a_dataset_with_a_script_is_refused(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ValueError, match="hf:.*scripted cannot be opened"):
        get_data(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_one_picture_that_is_damaged_is_an_error_of_its_row(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    import io

    buffer = io.BytesIO()
    Image.fromarray(make.room()[0]).save(buffer, "png")
    whole = buffer.getvalue()
    cells = [{"bytes": whole, "path": None}, {"bytes": whole[:60], "path": None}]
    rows = datasets.Dataset.from_dict({"image": cells}).cast_column("image", datasets.Image())
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub/test.parquet")
    data = get_data(f"hf:{tmp_path / 'hub'}")
    assert data.sample(0).size == (24, 32)
    with pytest.raises(ImageError, match="hub, row 1: .*(damaged|incomplete)"):
        data.sample(1)


def test_a_map_of_write_map_is_taken_whatever_its_shape(tmp_path):
    """[1, H, W] and [H, W, 1] of narrow maps."""
    from probes.data._map_files import read_map

    write_map(tmp_path / "a", np.arange(1, 9, dtype=np.float32).reshape(1, 8, 1), "depth", ("npy",))
    assert read_map(tmp_path / "a.npy", "depth").flatten().tolist() == list(range(1, 9))


@pytest.mark.parametrize("options", ["", ",scenes=indoors"])
def test_what_data_is_called_finds_it_again(tmp_path, options):
    make.diode(tmp_path)
    data = get_data(f"{tmp_path}{options}")
    assert data.name == f"diode:{tmp_path}{options}" and get_data(data.name).fingerprint == data.fingerprint


def test_the_maps_of_a_teacher_are_not_taken_for_the_truth(tmp_path):
    make.beside(tmp_path)
    about = dict(teacher=dict(name="omnidata", version="2"), intrinsics=dict(depth=dict(meaning="relative")))
    (tmp_path / "labels.json").write_text(json.dumps(about))
    zero = np.load(tmp_path / "photo1-depth.npy")
    zero.flat[0] = 0
    np.save(tmp_path / "photo1-depth.npy", zero)
    data = get_data(tmp_path)
    assert (data.made_by, data.meaning("depth")) == ("omnidata 2", "relative")
    assert data.sample(1, ("depth",)).maps["depth"].flatten()[0] == 0           # the nearest point, not a hole
    with pytest.raises(ValueError, match="the word of omnidata 2, not the truth; .*labels:FOLDER"):
        get_teacher("exact", "depth", data)
    (tmp_path / "labels.json").unlink()
    data = get_data(tmp_path)
    assert data.sample(1, ("depth",)).maps["depth"].flatten()[0].isnan() and get_teacher("exact", "depth", data).masked

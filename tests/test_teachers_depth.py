"""Depth networks of transformers: what goes in, what comes out, what it means, and what is refused."""
import json
import os
import pickle

import make_teachers
import numpy as np
import pytest
import torch
from families import FAMILIES
from PIL import Image
from tiny import SMALL

import probes
from generators._download import OfflineError
from generators._hub import quiet
from generators._names import UnknownNameError
from generators.checkpoints import CheckpointError, UnsafePickleError
from probes.teachers import _transformers_depth as module
from probes.teachers._depth_config import meaning_of, range_of
from probes.teachers._preparation import Preparation
from probes.teachers._transformers_depth import TransformersDepthTeacher
from probes.teachers._zoedepth import ZoeDepthTeacher


def images(n=2, height=48, width=64, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth")
    return dict(
        relative=make_teachers.depth_anything(root / "relative"),
        metric=make_teachers.depth_anything(root / "metric", depth_estimation_type="metric", max_depth=20),
        dinov2=make_teachers.dinov2(root / "dinov2"), midas=make_teachers.midas(root / "midas"),
        glpn=make_teachers.glpn(root / "glpn"),
        pro=make_teachers.depth_pro(root / "pro"), zoe=make_teachers.zoedepth(root / "zoe"),
        zoe2=make_teachers.zoedepth(root / "zoe2", heads=2))


def build(folders, name, **options):
    return (ZoeDepthTeacher if name.startswith("zoe") else TransformersDepthTeacher)(folders[name], **options)


MEANINGS = dict(relative="disparity", metric="metric", dinov2="metric", midas="disparity", glpn="metric", zoe="metric",
                zoe2="metric", pro="metric")


@pytest.mark.parametrize("name", MEANINGS)
def test_labels(folders, name):
    teacher = build(folders, name)
    assert teacher.name.endswith(f":{folders[name]}") and teacher.intrinsics == ("depth",)
    found = teacher.label(images(), "depth")
    assert found.shape == (2, 1, 48, 64) and found.dtype == torch.float32 and found.isfinite().all()
    assert torch.equal(found, teacher.label(images(), "depth"))
    assert (found[0] - found[1]).abs().max() > 1e-6                                      # it looks at the image
    alone = torch.cat([teacher.label(image[None], "depth") for image in images()])
    assert torch.allclose(found, alone, atol=1e-4)                                      # and at nothing beside it
    assert teacher.meaning("depth") == MEANINGS[name] and teacher.meaning("normal") == ""
    if MEANINGS[name] == "metric":
        assert found.min() >= 1e-3


def test_what_fits_are_told(folders):
    told = {name: build(folders, name).options("depth") for name in MEANINGS}
    assert told["relative"] == told["midas"] == dict(encoding="inverse")
    assert told["metric"] == dict(near=0.25, far=20.0)
    assert told["dinov2"] == told["glpn"] == told["zoe"] == dict(near=0.25, far=10.0)
    assert told["zoe2"] == told["pro"] == dict(encoding="log", near=0.25, far=80.0)
    assert range_of(dict(model_type="depth_anything", max_depth=80)) == (1.0, 80.0)
    street = TransformersDepthTeacher.from_argument(f"{folders['dinov2']}?near=1&far=80")
    assert street.options("depth") == dict(encoding="log", near=1.0, far=80.0) and street.options("normal") == {}
    relative = TransformersDepthTeacher.from_argument(f"{folders['relative']}?meaning=relative")
    assert relative.options("depth") == dict(encoding="percentile")


def test_what_a_configuration_means():
    assert meaning_of(dict(model_type="depth_pro")) == "metric"
    assert meaning_of(dict(model_type="dpt", backbone_config=dict(model_type="swinv2"))) == "disparity"
    assert meaning_of(dict(model_type="prompt_depth_anything", depth_estimation_type="metric")) == "metric"
    assert meaning_of(dict(model_type="chmv2")) is None


def test_depth_pro_gives_metres():
    """Inverse depth 0.5 for a camera as wide as its focal length; at 90 degrees w / f = 2."""
    assert module._metres(torch.full((1, 1, 2, 2), 0.5), torch.tensor([90.0])).flatten().tolist() == pytest.approx([1.0] * 4)
    assert module._metres(torch.full((1, 1, 2, 2), 0.5), None).flatten().tolist() == [2.0] * 4


@pytest.mark.parametrize("name", ["relative", "dinov2", "zoe"])
def test_images_are_prepared_as_transformers_does(folders, name):
    if name == "zoe":
        processors = pytest.importorskip("transformers.models.zoedepth.image_processing_pil_zoedepth")
        processor = processors.ZoeDepthImageProcessorPil
    else:
        processor = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt").DPTImageProcessorPil
    config = json.loads((folders[name] / "preprocessor_config.json").read_text())
    ours = Preparation.read(config, json.loads((folders[name] / "config.json").read_text()))
    rows, columns = np.mgrid[:45, :70]
    picture = np.stack([rows * 5, columns * 3, (rows + columns) * 2], 2).astype(np.uint8)
    theirs = processor(**config)(Image.fromarray(picture), return_tensors="pt").pixel_values
    found, restore = ours(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    assert found.shape == theirs.shape
    assert (found - theirs).abs().max() < 0.04              # two grey levels, for theirs rounds to bytes on the way
    assert (found - theirs).abs().mean() < 0.01
    assert restore(found[:, :1]).shape == (1, 1, 45, 70)


@pytest.mark.parametrize("name", ["relative", "midas"])
def test_a_label_is_what_transformers_gives(folders, name):
    """Its own network on pictures prepared here, enlarged as its processor does."""
    from transformers import AutoModelForDepthEstimation

    teacher, x = build(folders, name), images(1, 80, 90)
    with quiet():
        network = AutoModelForDepthEstimation.from_pretrained(folders[name]).eval()
    prepared, _ = teacher.preparation((x + 1) / 2)
    with torch.no_grad():
        wanted = network(pixel_values=prepared).predicted_depth
    wanted = torch.nn.functional.interpolate(wanted[:, None], (80, 90), mode="bicubic", align_corners=False)
    found = teacher.label(x, "depth")
    assert prepared.shape[-1] < 90 and wanted.max() > 0.1
    assert torch.allclose(found, wanted.clamp(found.min(), found.max()), atol=1e-5)     # what bicubic overshoots is cut
    assert (found - wanted).abs().max() < 0.1 * (wanted.max() - wanted.min())


def test_a_map_comes_back_to_where_it_was():
    """A ramp through reflection, resizing and padding: the same ramp, to a fraction of its step."""
    ramp = torch.linspace(0, 1, 60).expand(1, 3, 40, 60)
    for preparation in (Preparation((80, 80), keep_aspect=True, multiple=16), Preparation(None, divisor=14),
                        Preparation((64, 64), multiple=32, mode="bilinear", align_corners=True, reflect=True)):
        x, restore = preparation(ramp)
        assert x.shape[-1] != 60
        back = restore(x[:, :1])
        assert (back - ramp[:, :1])[..., 8:-8].abs().max() < 0.013, preparation
    with pytest.raises(ValueError, match="size={'longest_edge': 5}"):
        Preparation.read(dict(size=dict(longest_edge=5)), {})


def test_resolution_is_what_the_network_sees(folders, monkeypatch):
    for options, size in (({}, (42, 56)), (dict(resolution=112), (84, 112))):
        teacher = build(folders, "relative", **options)
        seen = []
        monkeypatch.setattr(teacher, "_predict", lambda x, seen=seen: seen.append(tuple(x.shape[-2:])) or x[:, :1])
        assert teacher.label(images(), "depth").shape == (2, 1, 48, 64) and seen == [size]


def test_zoedepth_averages_with_the_mirror_image(folders):
    x = images()
    once, plain = build(folders, "zoe", flip=False), build(folders, "zoe", flip=False, pad=False)
    twice = build(folders, "zoe").label(x, "depth")
    mirrored = once.label(x.flip(-1), "depth").flip(-1)
    assert (twice - mirrored).abs().max() > 1e-3
    assert torch.allclose(twice, (once.label(x, "depth") + mirrored) / 2, atol=2e-4)
    again = build(folders, "zoe").label(x.flip(-1), "depth").flip(-1)
    assert torch.allclose(again, twice, atol=2e-4)                                      # so it knows no side
    assert (plain.label(x, "depth") - once.label(x, "depth")).abs().max() > 1e-3
    prints = {build(folders, "zoe", flip=flip, pad=pad).fingerprint for flip in (True, False) for pad in (True, False)}
    assert len(prints) == 4


def test_labels_are_known_by_the_files_content(folders, tmp_path):
    first = build(folders, "relative")
    copy = make_teachers.depth_anything(tmp_path / "copy")
    assert TransformersDepthTeacher(copy).fingerprint == first.fingerprint
    assert TransformersDepthTeacher(copy).version == first.version
    other = TransformersDepthTeacher(make_teachers.depth_anything(tmp_path / "other", seed=1))
    assert other.fingerprint != first.fingerprint != build(folders, "relative", resolution=112).fingerprint
    half = build(folders, "relative", dtype="bfloat16")
    assert half.fingerprint != first.fingerprint and half.label(images(), "depth").dtype == torch.float32


def test_a_cached_repository_needs_no_hub(folders, tmp_path, monkeypatch):
    """Laid out as huggingface_hub does, with a second weights file that nobody wants left out."""
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = tmp_path / "models--someone--depth" / "snapshots" / commit
    cached.mkdir(parents=True)
    for file in folders["relative"].iterdir():
        (cached / file.name).write_bytes(file.read_bytes())
    (tmp_path / "models--someone--depth" / "refs").mkdir()
    (tmp_path / "models--someone--depth" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    teacher = TransformersDepthTeacher.from_argument("someone/depth")
    assert teacher.version == commit[:12] and teacher.repository.folder == cached
    assert teacher.fingerprint == build(folders, "relative").fingerprint


def test_a_repository_that_cannot_be_had(monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    with pytest.raises(OfflineError, match=r"(?s)no route to host.*nobody/nothing-at-all/tree/main.*config.json"
                                           r".*model.safetensors.*transformers:FOLDER"):
        TransformersDepthTeacher.from_argument("nobody/nothing-at-all")
    with pytest.raises(ValueError, match="neither a folder nor owner/model .* transformers:FOLDER"):
        TransformersDepthTeacher.from_argument("/no/such/folder")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_folder_is_run(folders, tmp_path):
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text((folders["relative"] / name).read_text())
    with pytest.raises(CheckpointError, match="has no model.safetensors"):
        TransformersDepthTeacher(folder)
    torch.save(load_file(folders["relative"] / "model.safetensors"), folder / "pytorch_model.bin")
    found = TransformersDepthTeacher(folder).label(images(), "depth")              # tensors only: read, with restrictions
    assert torch.equal(found, build(folders, "relative").label(images(), "depth"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    with pytest.raises(UnsafePickleError, match="asks for the global .*mkdir"):
        TransformersDepthTeacher(folder).label(images(), "depth")
    config = json.loads((folder / "config.json").read_text())
    code = dict(config, model_type="mine", auto_map={"AutoModelForDepthEstimation": "mine.Depth"})
    (folder / "config.json").write_text(json.dumps(code))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="is a 'mine', which is no depth network of transformers: .*zoedepth"):
        TransformersDepthTeacher(folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_wrong_is_said(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_teachers.depth_anything(tmp_path / "part")
    state = load_file(folder / "model.safetensors")
    state.pop("head.conv3.weight")
    save_file(state, folder / "model.safetensors", metadata=dict(format="pt"))
    with pytest.raises(CheckpointError, match="do not fill the network, head.conv3.weight is missing"):
        TransformersDepthTeacher(folder).label(images(), "depth")
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json: not JSON"):
        TransformersDepthTeacher(folder)
    (folder / "config.json").write_text(json.dumps(dict(model_type="chmv2")))
    with pytest.raises(ValueError, match=r"does not say what its depth means; add \?meaning=metric"):
        TransformersDepthTeacher(folder)
    with pytest.raises(ValueError, match="not a zoedepth; write transformers:"):
        ZoeDepthTeacher(folders["relative"])
    for wrong, kind in (("flop=1", UnknownNameError), ("meaning=depth", UnknownNameError), ("resolution=big", ValueError),
                        ("dtype=int8", UnknownNameError)):
        with pytest.raises(kind):
            TransformersDepthTeacher.from_argument(f"{folders['relative']}?{wrong}")


def test_a_probe_is_fitted_to_one(folders, tmp_path):
    settings = {**SMALL, "intrinsic": "depth", "teacher": TransformersDepthTeacher(folders["relative"]), "steps": 4}
    probe = probes.fit(FAMILIES["stylegan2"][0](), **{**settings, "controls": [], "out": str(tmp_path)})
    assert probe.intrinsic.options["encoding"] == "inverse"
    assert probe.predict([0]).map.shape == (1, 1, 32, 32)

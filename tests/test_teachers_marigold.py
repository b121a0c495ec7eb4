"""Marigold: frames, spaces and noise; and what is refused."""
import json
import re

import make_teachers
import pytest
import torch

from generators._names import UnknownNameError
from generators.checkpoints import CheckpointError
from probes.data.colour import linear_to_srgb, srgb_to_linear
from probes.teachers._marigold import MarigoldTeacher


def images(n=2, height=32, width=24, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("marigold")
    return dict(
        depth=make_teachers.marigold(root / "depth"),
        normals=make_teachers.marigold(root / "normals", "MarigoldNormalsPipeline", scheduler="LCMScheduler"),
        appearance=make_teachers.marigold(root / "appearance", "MarigoldIntrinsicsPipeline", targets=2,
                                          target_properties=make_teachers.APPEARANCE),
        lighting=make_teachers.marigold(root / "lighting", "MarigoldIntrinsicsPipeline", targets=3,
                                        target_properties=make_teachers.LIGHTING))


LABELS = [("depth", "depth", 1), ("normals", "normal", 3), ("appearance", "albedo", 3), ("appearance", "shading", 1),
          ("lighting", "albedo", 3), ("lighting", "shading", 1)]


@pytest.mark.parametrize("name, intrinsic, channels", LABELS)
def test_labels(folders, name, intrinsic, channels):
    teacher = MarigoldTeacher(folders[name])
    assert intrinsic in teacher.intrinsics and teacher.resolution == 32
    found = teacher.label(images(), intrinsic)
    assert found.shape == (2, channels, 32, 24) and found.dtype == torch.float32 and found.isfinite().all()
    if intrinsic == "normal":
        assert (found.norm(dim=1) - 1).abs().max() < 1e-5
    else:
        assert 0 <= found.min() < found.max() <= 1
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name, intrinsic", [("depth", "depth"), ("normals", "normal")])
def test_noise_is_the_same_for_every_image_and_day(folders, name, intrinsic):
    """With a scheduler that draws noise at every step (LCM) and one that does not (DDIM)."""
    teacher, x = MarigoldTeacher(folders[name], steps=2), images()
    first = teacher.label(x, intrinsic)
    torch.manual_seed(5)
    assert torch.equal(teacher.label(x, intrinsic), first)
    alone = torch.cat([teacher.label(image[None], intrinsic) for image in x])
    assert torch.allclose(alone, first, atol=1e-4)
    other = MarigoldTeacher(folders[name], steps=2, seed=1)
    assert (other.label(x, intrinsic) - first).abs().max() > 1e-3 and other.fingerprint != teacher.fingerprint


def test_an_ensemble_is_merged(folders):
    x = images(1)
    members = [MarigoldTeacher(folders["appearance"], seed=seed).label(x, "albedo") for seed in range(3)]
    merged = MarigoldTeacher(folders["appearance"], ensemble=3).label(x, "albedo")
    assert torch.allclose(merged, torch.stack(members).median(0).values, atol=1e-4)


def test_normals_leave_openGL_for_our_frame(folders, monkeypatch):
    """A wall that faces the camera, a floor, a wall on the left that looks to the right."""
    theirs = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    ours = [[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]
    teacher = MarigoldTeacher(folders["normals"])
    monkeypatch.setattr(teacher, "_predict", lambda x: 0.5 * theirs.T.reshape(1, 3, 1, 3))
    assert torch.allclose(teacher.label(images(1, 1, 3), "normal").reshape(3, 3).T, torch.tensor(ours))


def test_intrinsic_images_come_in_our_space(folders, monkeypatch):
    """Lighting: linear albedo, coloured shading up to a scale. Appearance: sRGB albedo, shading from the image."""
    x = images(1, 20, 20)
    albedo, shading = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20) * 0.2
    teacher = MarigoldTeacher(folders["lighting"])
    monkeypatch.setattr(teacher, "_predict", lambda x: torch.cat([albedo, shading, shading]))
    assert torch.allclose(teacher.label(x, "albedo"), linear_to_srgb(albedo), atol=1e-6)
    found = srgb_to_linear(teacher.label(x, "shading"))
    grey = shading.mean(1, keepdim=True)
    assert (found > 1 - 1e-6).sum() == 4                                            # the brightest percent of 400 pixels
    assert torch.allclose((found / grey)[found < 1 - 1e-6], 1 / grey.flatten().sort().values[396], rtol=1e-4)
    teacher = MarigoldTeacher(folders["appearance"])
    light = srgb_to_linear(albedo) * grey
    monkeypatch.setattr(teacher, "_predict", lambda x: torch.cat([albedo, shading]))
    assert torch.allclose(teacher.label(x, "albedo"), albedo, atol=1e-5)
    found = srgb_to_linear(teacher.label(linear_to_srgb(light) * 2 - 1, "shading"))
    assert ((found / grey)[found < 1 - 1e-6] - 1 / grey.max()).abs().max() < 0.1 / grey.max()


def test_what_depth_means(folders, tmp_path):
    teacher = MarigoldTeacher(folders["depth"])
    assert teacher.meaning("depth") == "relative" and teacher.options("depth") == dict(encoding="percentile")
    assert teacher.meaning("normal") == "" and teacher.options("normal") == {}
    index = json.loads((folders["depth"] / "model_index.json").read_text())
    for file in folders["depth"].rglob("*"):
        if file.is_file():
            (tmp_path / file.relative_to(folders["depth"])).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file.relative_to(folders["depth"])).write_bytes(file.read_bytes())
    (tmp_path / "model_index.json").write_text(json.dumps(dict(index, prediction_type="disparity")))
    inverse = MarigoldTeacher(tmp_path)
    assert inverse.meaning("depth") == "disparity" and inverse.options("depth") == dict(encoding="inverse")
    assert inverse.fingerprint != teacher.fingerprint


def test_options_come_with_the_name(folders):
    told = MarigoldTeacher.from_argument(f"{folders['depth']}?steps=1&resolution=16&dtype=bfloat16")
    assert told.name == f"marigold:{folders['depth']}?steps=1&resolution=16&dtype=bfloat16"
    assert (told.steps, told.resolution, told.dtype) == (1, 16, torch.bfloat16)
    assert told.label(images(1), "depth").shape == (1, 1, 32, 24)
    for wrong in ("steps=0", "steps=1001", "resolution=4", "resolution=5000", "ensemble=0", "seed=-1"):
        with pytest.raises(ValueError, match=f"{wrong}, expected a whole number from"):
            MarigoldTeacher.from_argument(f"{folders['depth']}?{wrong}")
    with pytest.raises(UnknownNameError, match="step"):
        MarigoldTeacher.from_argument(f"{folders['depth']}?step=1")


def test_what_is_refused(folders, tmp_path):
    folder = make_teachers.marigold(tmp_path / "other")
    index = json.loads((folder / "model_index.json").read_text())

    def again(**changed):
        (folder / "model_index.json").write_text(json.dumps({**index, **changed}))
        return MarigoldTeacher(folder)

    with pytest.raises(ValueError, match="is a 'StableDiffusionPipeline', expected one of MarigoldDepthPipeline"):
        again(_class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="predicts material, and no albedo"):
        again(_class_name="MarigoldIntrinsicsPipeline", target_properties=dict(target_names=["material"]))
    with pytest.raises(ValueError, match="declares no steps or no resolution"):
        again(default_denoising_steps=None)
    for wrong, told in ((dict(default_denoising_steps="4"), "default_denoising_steps='4', expected a whole number"),
                        (dict(default_processing_resolution=10**6), "resolution=1000000, expected a whole number from 8"),
                        (dict(_class_name=["MarigoldDepthPipeline"]), "expected one of MarigoldDepthPipeline"),
                        (dict(target_properties=dict(target_names=[1])), "expected an object with target_names"),
                        (dict(target_properties=dict(target_names=["albedo"], albedo=3)), "say 3 of albedo, expected an obj")):
        with pytest.raises(ValueError, match=re.escape(told)):
            again(**wrong)
    with pytest.raises(CheckpointError, match="takes 8 channels and gives 4, expected 12 and 8 for 2 predicted maps"):
        again(_class_name="MarigoldIntrinsicsPipeline", target_properties=make_teachers.APPEARANCE).label(images(1), "albedo")
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**scheduler, "_class_name": "Anything"}))
    with pytest.raises(UnknownNameError, match="Anything"):
        again().label(images(1), "depth")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=re.escape("has no unet/ weights (.safetensors)")):
        again()


PARTS = [("unet", "_class_name", "UNet3DConditionModel"), ("vae", "_class_name", "AutoencoderTiny"),
         ("text_encoder", "architectures", ["BertModel"])]


@pytest.mark.parametrize("part, field, value", PARTS)
def test_parts_of_other_classes_are_refused(tmp_path, part, field, value):
    folder = make_teachers.marigold(tmp_path / "other")
    config = folder / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), field: value}))
    with pytest.raises(CheckpointError, match=f"its {part} is a {value if isinstance(value, str) else value[0]}, expected a"):
        MarigoldTeacher(folder).label(images(1), "depth")


def test_what_else_lies_in_a_folder_has_no_part_in_labels(folders, tmp_path):
    """Attention to fetch, quantisation, another precision's weights and a stray index change neither labels nor network."""
    folder = make_teachers.marigold(tmp_path / "crowded")
    for part, more in (("text_encoder", dict(attn_implementation="someone/kernel", _attn_implementation="someone/kernel",
                                             quantization_config=dict(quant_method="gptq"), auto_map=dict(AutoModel="a.B"))),
                       ("unet", dict(quantization_config=dict(quant_method="gptq"), attention_type="default"))):
        config = folder / part / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **more}))
    shard = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (folder / "unet" / "other.safetensors").write_bytes(shard[:-4] + b"\0\0\0\x40")
    weights = dict(weight_map={"conv_in.weight": "other.safetensors"})
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(weights))
    teacher = MarigoldTeacher(folder)
    assert torch.equal(teacher.label(images(1), "depth"), MarigoldTeacher(folders["depth"]).label(images(1), "depth"))
    assert teacher.network()["text_encoder"].config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("name", ["depth", "lighting"])
def test_the_parts_are_what_diffusers_builds(folders, name):
    import diffusers
    import transformers

    ours = MarigoldTeacher(folders[name]).network()
    theirs = dict(unet=diffusers.UNet2DConditionModel, vae=diffusers.AutoencoderKL, text_encoder=transformers.CLIPTextModel)
    for part, made in theirs.items():
        wanted, found = made.from_pretrained(folders[name] / part).state_dict(), ours[part].state_dict()
        assert wanted.keys() == found.keys() and all(torch.equal(wanted[key], found[key]) for key in wanted)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders[name] / "unet")
    x, text = torch.randn(1, unet.config.in_channels, 8, 8), torch.randn(1, 5, unet.config.cross_attention_dim)
    with torch.no_grad():
        assert torch.equal(unet(x, 7, text).sample, ours["unet"](x, 7, text).sample)


def test_an_ensemble_of_depth_without_scipy_says_what_to_install(folders, monkeypatch):
    from probes.teachers import _marigold

    assert MarigoldTeacher(folders["depth"], ensemble=2).ensemble == 2
    monkeypatch.setattr(_marigold, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("ensemble=2 predictions of depth are aligned by scipy; `pip install")):
        MarigoldTeacher(folders["depth"], ensemble=2)
    assert MarigoldTeacher(folders["normals"], ensemble=2).ensemble == MarigoldTeacher(folders["depth"]).ensemble + 1


def test_the_hubs_files_are_those_that_are_listed():
    from generators._hub import TOKENIZER
    from generators.stable_diffusion._hub import DESCRIPTIONS
    from probes.teachers._marigold import LAYOUT

    assert set(LAYOUT.needed) == set(DESCRIPTIONS) and set(TOKENIZER) < set(LAYOUT.wanted)

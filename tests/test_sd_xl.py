"""Stable Diffusion XL: folders as its pipeline saves them say what diffusers' own pipeline says, and carry probes."""
import json
import shutil

import make_sd
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import generators
import probes
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._format import expected_shapes
from generators.stable_diffusion._hub import _wanted
from generators.stable_diffusion._original import check_names, convert, width
from generators.stable_diffusion._parts import assemble, published
from probes.data import get_data

ROUNDED = dict(atol=1e-5, rtol=1e-4)          # as the memory lies: the same weights need not round alike
PROMPT, PARTS = "ab c", ("unet", "vae", "text_encoder", "text_encoder_2")
FIT = dict(data="scenes", teacher="exact", samples=10, batch=2, prompt=PROMPT, quiet=True)


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl") / "xl"
    return folder, make_sd.write_xl_folder(folder)


@pytest.fixture(scope="module")
def pipeline(forged):
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    folder, parts = forged
    first, second = (CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2"))
    assert second("ab", padding="max_length").input_ids[-1] == 0 != first("ab", padding="max_length").input_ids[-1]
    return StableDiffusionXLPipeline(**parts, tokenizer=first, tokenizer_2=second)


@pytest.fixture
def generator(forged):
    return generators.load(forged[0])


def copied(forged, tmp_path):
    return shutil.copytree(forged[0], tmp_path / "copy")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def test_it_is_told_what_the_pipeline_tells(generator, pipeline):
    words, silent, summary, nothing = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=True)
    context = generator.context(1, PROMPT)
    torch.testing.assert_close(context[:, :-1], words)
    torch.testing.assert_close(context[:, -1, :12], summary)
    assert not silent.any() and not nothing.any() and not generator.context(1, "").any() and context.shape == (1, 10, 40)
    torch.testing.assert_close(generator.network.embed([PROMPT, "", "h"])[0], context[0])

    x = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    sizes = pipeline._get_add_time_ids((32, 48), (0, 0), (32, 48), words.dtype, pipeline.text_encoder_2.config.projection_dim)
    expected = pipeline.unet(x, 400, encoder_hidden_states=words.expand(2, -1, -1), added_cond_kwargs=dict(
        text_embeds=summary.expand(2, -1), time_ids=sizes.expand(2, -1))).sample
    torch.testing.assert_close(generator.denoise(x, 400, generator.context(2, PROMPT)), expected)
    other = generator.denoise(x.mT.contiguous(), 400, generator.context(2, PROMPT))          # sizes are height, then width
    assert not torch.allclose(other.mT, expected)


@torch.no_grad()
def test_an_empty_prompt_is_read_where_the_model_says_so(forged, pipeline, tmp_path):
    folder = copied(forged, tmp_path)
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    found = generators.load(folder).context(1, "")
    words, _, summary, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
    torch.testing.assert_close(found[:, :-1], words)
    torch.testing.assert_close(found[:, -1, :12], summary)


def test_a_probe_of_it(generator, tmp_path):
    """Fit beside its random U-Net, save, load; what is trained is the LoRA on all attention."""
    probe = probes.fit(generator, "normal", steps=3, evaluate=4, controls=["random"], out=tmp_path / "run", **FIT)
    count = sum(8 * sum(generator.network.get_submodule(site).base_layer.weight.shape) for site in generator.sites("all"))
    assert probe.record["method"]["parameters"] == count > 0
    rooms = list(get_data("scenes").images(range(2), 64))
    said = probe.predict(images=rooms)
    assert torch.equal(probes.load(tmp_path / "run").predict(images=rooms)[1].map, said[1].map)
    crossed = generator.randomised(1)
    assert crossed.network.text_encoder_2 is generator.network.text_encoder_2
    assert crossed.network.unet is not generator.network.unet


@torch.no_grad()
def test_our_own_file_keeps_both_encoders(forged, generator, tmp_path):
    generators.checkpoints.convert(forged[0], tmp_path / "xl.safetensors")
    again = generators.load(tmp_path / "xl.safetensors", tokenizer=str(forged[0] / "tokenizer"))
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(again.context(1, PROMPT), generator.context(1, PROMPT), **ROUNDED)
    assert_close(again.denoise(x, 999, again.context(1, "")), generator.denoise(x, 999, generator.context(1, "")), **ROUNDED)
    assert again.fingerprint == generator.fingerprint


@torch.no_grad()
def test_a_single_file_is_the_same_model(forged, generator, tmp_path):
    folder, parts = forged
    state = make_sd.original(*(parts[name].state_dict() for name in PARTS), layers=1)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "xl.safetensors")
    read = generators.load(tmp_path / "xl.safetensors", config=folder, tokenizer=str(folder / "tokenizer"))
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert read.fingerprint == generator.fingerprint            # the weights are the same, bit for bit
    assert_close(read.context(1, PROMPT), generator.context(1, PROMPT), **ROUNDED)
    assert not read.context(1, "").any()
    ours, theirs = (g.denoise(x, 999, g.context(1, PROMPT)) for g in (read, generator))
    assert_close(ours, theirs, **ROUNDED)
    image = get_data("scenes").images(range(1), 64)
    assert_close(read.to_target(image), generator.to_target(image), **ROUNDED)


# Of the model's report (arXiv 2307.01952, table 1): a U-Net of 2.6B parameters, text encoders of 817M together.
def test_the_published_model_at_its_true_size():
    stated = published("sdxl")
    config = assemble(stated, stated["scheduler"], "sdxl", silent_is_zero=True)
    state = {name: torch.empty(shape, device="meta") for name, shape in expected_shapes(config.to_dict(), "sdxl").items()}
    given = {part: {n.removeprefix(f"{part}."): v for n, v in state.items() if n.startswith(f"{part}.")} for part in PARTS}
    assert {part: sum(v.numel() for v in own.values()) for part, own in given.items()} == dict(
        unet=2_567_463_684, vae=83_653_863, text_encoder=123_060_480, text_encoder_2=694_659_840)
    assert config.resolution == 1024 and config.vae["scaling_factor"] == 0.13025
    original = make_sd.original(*given.values())
    check_names(original, "sdxl")
    assert width(original, "sdxl") == (2048, 4)
    found = convert(original, config.to_dict(), "sdxl")
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in state.items()}


def test_halves_of_single_files(forged):
    state = make_sd.original(*(forged[1][name].state_dict() for name in PARTS), layers=1)
    with pytest.raises(CheckpointError, match="x lacks the second text encoder"):
        check_names([n for n in state if ".embedders.1." not in n], "x")
    with pytest.raises(CheckpointError, match="x is the refiner of a Stable Diffusion XL; give its base"):
        check_names([n.replace("embedders.1.", "embedders.0.") for n in state if "embedders.0." not in n], "x")


def test_several_steps(forged):
    """Guidance stacks what the U-Net is told three times over."""
    multi = generators.load(forged[0], mode="multi", conv_in="doubled", steps=2, zero_snr=False)
    state = multi.prepare(multi.encode(get_data("scenes").images(range(2), 64)))
    with torch.no_grad(), multi.prompted(PROMPT):
        both = multi.forward(state)
        first = multi.forward({name: value[:1] for name, value in state.items()})
    torch.testing.assert_close(both[:1], first, rtol=1e-3, atol=1e-3)
    assert both.shape == (2, 4, 8, 8) and torch.isfinite(both).all()


def test_words_are_not_learnt_for_two_encoders(generator):
    with pytest.raises(ValueError, match="method: words cannot be learnt for a model with two text encoders"):
        probes.fit(generator, "normal", method="token", steps=1, **FIT)


@pytest.mark.parametrize("part, name, changes, message", [
    ("text_encoder_2", "config", {"projection_dim": 10}, "takes 60 numbers .text_time., expected the 10 of its second"),
    ("unet", "config", {"addition_embed_type": None}, "expected the 12 of its second text encoder and 48 of six sizes"),
    ("unet", "config", {"cross_attention_dim": 16}, "attends to vectors of 16 numbers, the text encoders give 40"),
    ("", "model_index", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is a CLIPTextModel, expected a "
     "CLIPTextModelWithProjection"),
    ("", "model_index", {"text_encoder_2": [None, None]}, "attends to vectors of 40 numbers, the text encoder gives 16"),
    ("", "model_index", {"text_encoder_3": ["transformers", "T5EncoderModel"]}, "which has three text encoders"),
])
def test_folders_of_something_else(part, name, changes, message, forged, tmp_path):
    folder = copied(forged, tmp_path)
    edit(folder / part / f"{name}.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        generators.load(folder)


def test_a_half_is_missing(forged, tmp_path):
    folder = copied(forged, tmp_path)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(CheckpointError, match="has no text_encoder_2/; expected .*text_encoder_2/, scheduler/"):
        generators.load(folder)


def test_what_is_fetched(forged):
    folder = forged[0]
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    wanted, missing, _ = _wanted([*names, "text_encoder_2/model.onnx"], None, lambda _: [])
    assert not missing and {"text_encoder_2/config.json", "text_encoder_2/model.safetensors"} <= set(wanted)
    assert "text_encoder_2/model.onnx" not in wanted
    assert _wanted([n for n in names if n != "text_encoder_2/model.safetensors"], None, lambda _: [])[1] == [
        "text_encoder_2/ weights"]

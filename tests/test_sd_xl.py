"""Stable Diffusion XL: folders as its pipeline saves them say what diffusers' own pipeline says, and carry probes."""
import json
import shutil

import make_sd
import pytest
import torch

import generators
import probes
from generators.checkpoints import CheckpointError
from generators.stable_diffusion._hub import _wanted
from probes.data import get_data

PROMPT = "ab c"


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
    probe = probes.fit(generator, "normal", data="scenes", teacher="exact", samples=10, steps=3, batch=2, evaluate=4, controls=["random"],
                       out=tmp_path / "run", prompt=PROMPT, quiet=True)
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
    assert torch.equal(again.context(1, PROMPT), generator.context(1, PROMPT))
    assert torch.equal(again.denoise(x, 999, again.context(1, "")), generator.denoise(x, 999, generator.context(1, "")))
    assert again.fingerprint == generator.fingerprint


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
        probes.fit(generator, "normal", data="scenes", teacher="exact", method="token", samples=10, steps=1, prompt=PROMPT, quiet=True)


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

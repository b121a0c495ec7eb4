"""Redrawing and editing as baselines: SDEdit, InstructPix2Pix, and instructions that are learnt."""
import json
from dataclasses import replace

import make_sd
import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, states
from methods import Pairs
from tiny import SMALL

import adapters
import generators
import probes
from generators.checkpoints import CheckpointError
from generators.stable_diffusion import StableDiffusion, StableDiffusionNetwork
from generators.stable_diffusion._multi import same_noise, solver

SEED = torch.Generator().manual_seed


def redrawer(**scheduler):
    """A tiny text-to-image model."""
    generator = FAMILIES["stable-diffusion"][0]()
    if scheduler:
        config = generator.network.config
        generator.network.config = replace(config, scheduler={**config.scheduler, **scheduler})
    return generator


def editor(**scheduler):
    """A tiny model that edits: its U-Net came with two latents."""
    config = FAMILIES["stable-diffusion"][0]().network.config
    config = replace(config, unet={**config.unet, "in_channels": 8},
                     scheduler={**config.scheduler, "prediction_type": "epsilon", **scheduler})
    return StableDiffusion("tiny", StableDiffusionNetwork(config, seed=3), world="scenes")


def redrawn(generator, latent, prompt="shading", **options):
    adapter = adapters.build("sdedit", generator, "a", prompt, dict(steps=8, guidance=2.0) | options)
    with adapter.active():
        result = adapter.forward({"latent": latent})
    adapters.detach(adapter)
    return result


@pytest.fixture(scope="module")
def latent():
    return states(redrawer(), range(3))["latent"]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_strength_goes_from_the_image_to_nothing_of_it(kind, latent):
    generator = redrawer(prediction_type=kind)
    assert torch.equal(redrawn(generator, latent, strength=0), latent)
    little, half, whole = (redrawn(generator, latent, strength=s) for s in (0.125, 0.5, 1.0))
    ways = [F.mse_loss(x, latent).item() for x in (little, half, whole)]
    assert min(ways) > 0 and (kind == "sample" or ways == sorted(ways))     # untrained, that says about the same of any noise
    assert torch.equal(whole, whole[:1].expand_as(whole))
    assert torch.equal(redrawn(generator, latent.flip(0), strength=1.0), whole)
    assert kind == "sample" or (half[0] - half[1]).abs().max() > 0.05


def test_without_noise_it_is_what_the_autoencoder_makes_of_the_image(latent):
    generator = redrawer()
    adapter = adapters.build("sdedit", generator, "a", "shading", dict(strength=0.0))
    with adapter.active():
        assert torch.equal(adapter.emit({"latent": latent}), generator.to_image(latent))
    assert adapter.size == 0 and adapter.options == dict(strength=0.0, steps=25, guidance=3.0, noise_seed=0)


def test_what_a_row_becomes_follows_from_its_image_and_the_seed_alone(latent):
    generator = redrawer()
    generator.network.double()                          # rounds too finely for how many rows there are to matter
    latent = latent.double()
    together = redrawn(generator, latent)
    assert torch.equal(redrawn(generator, latent), together)
    for row in range(3):
        torch.testing.assert_close(redrawn(generator, latent[row:row + 1])[0], together[row], atol=1e-5, rtol=1e-5)
    assert (redrawn(generator, latent, noise_seed=1) - together).abs().max() > 0.05
    assert (redrawn(generator, latent, prompt="depth map") - together).abs().max() > 1e-4       # and the words
    editing = editor()
    editing.network.double()
    adapter = adapters.build("edit", editing, "e", "shading", dict(instruction="{prompt} map", steps=3))
    with adapter.active():
        both, one = adapter.forward({"latent": latent}), adapter.forward({"latent": latent[1:2]})
        assert torch.equal(adapter.forward({"latent": latent}), both)
    torch.testing.assert_close(one[0], both[1], atol=1e-5, rtol=1e-5)


def test_as_many_passes_as_the_strength_says(latent):
    generator, calls = redrawer(), []
    generator.network.unet.register_forward_hook(lambda m, a, o: calls.append((len(a[0]), int(a[1]))))
    redrawn(generator, latent, strength=0.29, steps=100, guidance=1.0)      # 0.29 · 100 is a little less than 29
    assert [rows for rows, _ in calls] == [3] * 29 and calls[0][1] == 289
    calls.clear()
    redrawn(generator, latent, strength=0.5, steps=4)
    assert [rows for rows, _ in calls] == [6] * 2 and calls[0][1] == 499
    calls.clear()
    redrawn(generator, latent, strength=1, steps=4)         # one picture for all of them
    assert [rows for rows, _ in calls] == [2] * 4 and calls[0][1] == 999


@pytest.mark.slow
def test_the_steps_are_ddims_in_the_limit_of_many(latent):
    """Another solver of the same equation, in diffusers too, ends where this one does."""
    from diffusers import DDIMScheduler

    generator, latent = redrawer(), latent[:1]
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type="v_prediction", clip_sample=False,
                              timestep_spacing="trailing")
    scheduler.set_timesteps(200)
    times = scheduler.timesteps[100:]
    x = scheduler.add_noise(latent, same_noise(latent, 0), times[:1])
    with torch.no_grad(), generator.prompted("shading"):
        context = torch.cat([generator.context(1, words) for words in ("", "shading")])
        for t in times:
            without, with_ = generator.denoise(torch.cat([x, x]), t, context).chunk(2)
            x = scheduler.step(without + 2.0 * (with_ - without), t, x).prev_sample
    found = redrawn(generator, latent, strength=0.5, steps=40)
    assert F.mse_loss(found, x) < 1e-3 * F.mse_loss(latent, x)


def test_an_editing_model_opens_as_what_it_is(tmp_path):
    make_sd.write_folder(tmp_path / "ip2p", in_channels=8)
    generator = generators.load(str(tmp_path / "ip2p"))
    assert generator.mode == "multi" and generator.options["conv_in"] == "own" and generator.options["zero_snr"] is False
    again = generators.load(str(tmp_path / "ip2p"), **generator.options)
    assert again.fingerprint == generator.fingerprint
    make_sd.write_folder(tmp_path / "sd")
    assert generators.load(str(tmp_path / "sd")).mode == "single"
    with pytest.raises(ValueError, match="takes 8 channels, which is no single-step predictor; pass mode='multi'"):
        generators.load(str(tmp_path / "ip2p"), mode="single")
    make_sd.write_folder(tmp_path / "inpainting", in_channels=9)
    with pytest.raises(CheckpointError, match="takes 9 channels.*inpainting"):
        generators.load(str(tmp_path / "inpainting"))
    for stated, wanted in ((False, False), (True, True)):       # v: as its own schedule has it
        assert editor(prediction_type="v_prediction", rescale_betas_zero_snr=stated).options["zero_snr"] is wanted
    widened = StableDiffusion("tiny", redrawer().network, mode="multi", conv_in="doubled")
    assert widened.options["zero_snr"] is True                  # the paper's way


def test_guidance_by_the_image_and_by_the_words(latent):
    """One step, from the formula: e(0, 0) + 1.5 (e(image, 0) - e(0, 0)) + 7.5 (e(image, words) - e(image, 0))."""
    generator, latent = editor(), latent[:1]
    adapter = adapters.build("edit", generator, "a", "shading", dict(instruction="{prompt} map", steps=1))
    noise = torch.randn((1, 4, 8, 8), generator=SEED(0))
    scheduler = solver(generator.network.config, False)
    scheduler.set_timesteps(1)
    with torch.no_grad():
        def said(beside, words):
            return generator.denoise(torch.cat([noise, beside], 1), 999, generator.context(1, words))

        nothing, image = torch.zeros_like(latent), latent / 2.0         # not scaled: the VAE's factor is 2
        free, seen, told = said(nothing, ""), said(image, ""), said(image, "shading map")
        wanted = scheduler.step(free + 1.5 * (seen - free) + 7.5 * (told - seen), 999, noise).prev_sample
        with adapter.active():
            torch.testing.assert_close(adapter.forward({"latent": latent}), wanted, atol=1e-4, rtol=1e-4)
        # Without guidance by the image it is the generator's own sampling, without its rescaling.
        plain = adapters.build("edit", generator, "b", "shading", dict(
            instruction="shading", steps=3, guidance=3.0, image_guidance=1.0))
        own = StableDiffusion("tiny", generator.network, steps=3, rescale=0.0)
        with own.prompted("shading"), plain.active():
            torch.testing.assert_close(plain.forward({"latent": latent}), own.forward({"latent": latent}))


def denoising(adapter, pairs):
    """The loss on every pair, at timesteps from 83 to 996 that are always the same."""
    prediction, target = adapter.regress(pairs.states, pairs.latents, [1000 * r + 83 * (r + 1) for r in range(len(pairs))])
    return F.mse_loss(prediction, target)


def test_an_instruction_is_learnt_from_where_the_words_are():
    generator = editor()
    pairs, state = Pairs(generator), {"latent": states(generator, range(2))["latent"]}
    told = adapters.build("edit", generator, "told", "shading", dict(instruction="{prompt} map", steps=2))
    learnt = adapters.build("visii", generator, "learnt", "shading", dict(instruction="{prompt} map", steps=2))
    assert learnt.options["tokens"] == 2 and learnt.size == 2 * 16 and adapters.build(
        "visii", generator, "three", "shading", dict(instruction="{prompt} map", tokens=3)).size == 3 * 16
    with told.active():
        words = told.emit(state)
    with learnt.active():
        torch.testing.assert_close(learnt.emit(state), words)
    kept, (vectors,), losses = {k: v.clone() for k, v in generator.base_state().items()}, learnt.parameters().values(), []
    with learnt.active(train=True):         # an untrained model hardly listens, so: downhill, on the same noise throughout
        for _ in range(4):
            losses.append(denoising(learnt, pairs))
            slope = torch.autograd.grad(losses[-1], vectors)[0]
            with torch.no_grad():
                vectors -= 0.01 * slope / slope.norm()
    assert losses[3] < losses[2] < losses[1] < losses[0]
    assert all(torch.equal(v, kept[k]) for k, v in generator.base_state().items())
    with learnt.active():
        assert not torch.equal(learnt.emit(state), words)
    other = adapters.build("visii", generator, "other", "shading", learnt.options)
    other.load_file(learnt.file()[0])
    with torch.no_grad(), learnt.active():
        after = denoising(learnt, pairs)
    with torch.no_grad(), other.active():
        assert denoising(other, pairs) == after < losses[0]


@pytest.mark.parametrize("method, options, build", [
    ("sdedit", dict(strength=0.5, steps=4), redrawer),
    ("edit", dict(instruction="{prompt} map", steps=2), editor),
    ("visii", dict(instruction="{prompt}", tokens=2, steps=2), editor)])
def test_through_fit_and_back(method, options, build, tmp_path):
    small = {k: v for k, v in SMALL.items() if k not in ("rank", "steps")} | (dict(steps=4) if method == "visii" else {})
    generator = build()
    probe = probes.fit(generator, out=str(tmp_path), method=method, method_options=options, controls=[], **small)
    assert probe.record["method"]["options"].items() >= options.items()
    assert probe.last_evaluation.metrics["metrics"]["rms"]["skill"] is not None
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["method"] == method
    loaded = probes.load(tmp_path, generator)
    assert torch.equal(loaded.predict([5]).map, probe.predict([5]).map)
    assert loaded.adapter.size == (32 if method == "visii" else 0)


@pytest.mark.parametrize("method, build, options, message", [
    ("sdedit", FAMILIES["stylegan2"][0], {}, "sdedit asks in words, and tiny reads no text"),
    ("sdedit", editor, {}, "mode: the U-Net of tiny reads the image's latent beside the noise.*pass mode='single'"),
    ("sdedit", redrawer, dict(strength=1.5), r"strength: expected a number in \[0, 1\], got 1.5"),
    ("sdedit", redrawer, dict(strength="0.5"), r"strength: expected a number in \[0, 1\], got '0.5'"),
    ("sdedit", redrawer, dict(strength=0.1, steps=4), "strength: 0.1 of 4 steps is less than one; choose at least 0.25"),
    ("sdedit", redrawer, dict(steps=0), "steps: expected 1 … 1000"),
    ("sdedit", redrawer, dict(guidance=-1.0), "guidance: expected a number of at least 0"),
    ("sdedit", redrawer, dict(noise_seed=0.5), "noise_seed: expected an integer of at least 0"),
    ("edit", redrawer, {}, "edit needs a model that edits images.*the U-Net of tiny was not trained.*instruct-pix2pix"),
    ("edit", FAMILIES["stable-diffusion-multi"][0], {}, "edit needs a model that edits images"),      # widened, not trained
    ("visii", redrawer, {}, "visii needs a model that edits images"),
    ("edit", editor, {}, "prompt: 'turn' in 'turn it into a shading' is no word of this model's vocabulary"),
    ("edit", editor, dict(instruction=" "), "instruction: expected words, such as 'turn it into"),
    ("edit", editor, dict(instruction="map", image_guidance="1"), "image_guidance: expected a number of at least 0"),
    ("visii", editor, dict(instruction="map", tokens=0), "tokens: expected a number of vectors of at least 1, got 0"),
    ("visii", editor, dict(instruction="map", tokens=5), "5 vectors and 0 words .* 6 places.*at most 4"),
    ("sdedit", redrawer, dict(stength=1), "method_options: .*did you mean 'strength'"),
])
def test_bad_input_says_what_is_needed(method, build, options, message):
    with pytest.raises(ValueError, match=message):
        adapters.build(method, build(), "a", "shading", options)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Builds one of diffusers' own pipelines, and the generator of the very same folder; importing them takes ten seconds."""
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInstructPix2PixPipeline
    from transformers import CLIPTokenizerFast

    def build(version, **unet):
        folder = tmp_path_factory.mktemp("sd")
        models = make_sd.write_folder(folder, version, **unet)
        generator = generators.load(str(folder))
        kind = StableDiffusionInstructPix2PixPipeline if unet else StableDiffusionImg2ImgPipeline
        pipeline = kind(models[1], models[2], CLIPTokenizerFast.from_pretrained(folder / "tokenizer"), models[0],
                        solver(generator.network.config, False), None, None, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline, generator

    return build


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])             # which predict the noise, and v
@pytest.mark.parametrize("strength, guidance", [(0.5, 3.0), (0.9, 1.0)])
def test_redrawing_is_diffusers_img2img(version, strength, guidance, pipelines):
    pipeline, generator = pipelines(version)
    image = torch.rand(1, 3, 64, 64, generator=SEED(1)) * 2 - 1
    latent = generator.prepare(generator.encode(image))["latent"]
    wanted = pipeline("ab c", latent, strength, 10, guidance_scale=guidance, generator=SEED(0), output_type="latent").images
    found = redrawn(generator, latent, "ab c", strength=strength, steps=10, guidance=guidance)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert F.mse_loss(found, latent) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_editing_is_diffusers_instruct_pix2pix(version, pipelines):
    pipeline, generator = pipelines(version, in_channels=8)
    image = torch.rand(1, 3, 64, 64, generator=SEED(1))
    wanted = pipeline("h ab c", image, 6, 7.5, 1.5, generator=SEED(0), output_type="latent").images
    adapter = adapters.build("edit", generator, "a", "ab c", dict(instruction="h {prompt}", steps=6))
    with adapter.active():
        found = adapter.forward(generator.prepare(generator.encode(image * 2 - 1)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

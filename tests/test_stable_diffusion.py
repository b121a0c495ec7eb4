"""Stable Diffusion's own: what a step runs, prompts, the two modes' arithmetic, exact targets, folders of images."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES, states
from full_size import on_meta
from PIL import Image
from safetensors.torch import save_file
from tiny import SMALL

import adapters
import generators
import probes
from generators.stable_diffusion import StableDiffusion, StableDiffusionNetwork
from probes._bank import Request, open_bank
from probes.data import get_data
from probes.teachers import get_teacher


@pytest.fixture
def generator():
    return FAMILIES["stable-diffusion"][0]()


@pytest.fixture
def multi():
    return FAMILIES["stable-diffusion-multi"][0]()


def test_single_step_is_one_pass_at_the_last_timestep(generator):
    state = states(generator, range(2))
    image = get_data("scenes").images(range(2), 32)
    latent = generator.network.vae.encode(image).latent_dist.mode() * 2.0
    torch.testing.assert_close(state["latent"], latent)
    context = generator.network.embed(["surface normal"]).expand(2, -1, -1)
    with torch.no_grad(), generator.prompted("surface normal"):
        expected = generator.network.unet(latent, torch.tensor(999), encoder_hidden_states=context).sample
        torch.testing.assert_close(generator.forward(state), expected)
    torch.testing.assert_close(generator.to_image(latent), generator.network.vae.decode(latent / 2.0).sample)
    torch.testing.assert_close(generator.to_target(image), latent)


def test_scopes_are_the_attentions_of_their_place(generator):
    every = generator.sites("all")
    assert set(generator.sites("self")) | set(generator.sites("cross")) == set(every) and len(every) == len(set(every))
    assert sorted(generator.sites("down") + generator.sites("mid") + generator.sites("up")) == sorted(every)
    assert all(".attn2." in name for name in generator.sites("cross"))
    modules = dict(generator.network.named_modules())
    assert all(isinstance(modules[name], torch.nn.Linear) for name in every)
    assert {name.rpartition(".attn1.")[2] for name in generator.sites("self")} == {"to_q", "to_k", "to_v", "to_out.0"}


# The paper's LoRA of rank 8 on Stable Diffusion 1.5 has 1.59M parameters (arXiv 2311.17137).
@pytest.mark.parametrize("version, count, size", [("sd15", 128, 199_296), ("sd21-base", 128, 207_488), ("sd21", 128, 207_488),
                                                  ("sdxl", 560, 1_451_520)])
def test_the_scopes_of_the_published_models(version, count, size):
    generator = on_meta(version)
    found = {scope: generator.sites(scope) for scope in generator.scopes}
    every = found["all"]
    assert len(every) == len(set(every)) == count
    assert sorted(found["self"] + found["cross"]) == sorted(every) and len(found["self"]) == len(found["cross"])
    assert sorted(found["down"] + found["mid"] + found["up"]) == sorted(every) and all(found.values())
    sizes = {scope: adapters.lora_size(generator, scope, 8) for scope in found}
    assert sizes["all"] == 8 * size == sizes["self"] + sizes["cross"] == sizes["down"] + sizes["mid"] + sizes["up"]
    if version == "sd15":
        assert sizes["all"] == 1_594_368
    attentions = {name for name, module in generator.network.unet.named_modules() if type(module).__name__ == "Attention"}
    assert {name.removeprefix("unet.").rpartition(".to_")[0] for name in every} == attentions and count == 4 * len(attentions)


def test_an_adapter_brings_its_prompt_and_takes_it_away(generator):
    state = states(generator, range(1))
    outside = generator.forward(state)
    normal = adapters.attach(generator, "n", rank=2, prompt="surface normal")
    depth = adapters.attach(generator, "d", rank=2, prompt="depth map")
    with torch.no_grad():
        with normal.active():
            first = generator.forward(state)
        with depth.active():
            second = generator.forward(state)
        with normal.active(), generator.prompted("surface normal"):
            assert torch.equal(generator.forward(state), first)
    assert not torch.allclose(first, second, atol=1e-5)
    assert torch.equal(generator.forward(state), outside)


def test_a_step_runs_the_unet_and_nothing_else(generator, tmp_path, monkeypatch):
    calls = []
    for name in ("vae", "text_encoder"):
        getattr(generator.network, name).register_forward_hook(lambda m, a, o, name=name: calls.append(name))
    encode = generator.network.encode
    monkeypatch.setattr(generator.network, "encode", lambda *a: calls.append("encode") or encode(*a))
    runs = []
    generator.network.unet.register_forward_hook(lambda m, a, o: runs.append(list(calls)))
    probes.fit(generator, out=str(tmp_path), **{**SMALL, "evaluate": 0, "steps": 3})
    assert len(runs) == 3 and runs[0] == runs[2] and runs[0].count("text_encoder") == 1


def test_targets_are_latents_sampled_by_the_images_number(generator, tmp_path):
    data = get_data("scenes")
    exact, normal = get_teacher("exact", "normal", data), probes.get_intrinsic("normal")
    request = Request(generator, exact, normal, 5, 6, data=data, latents=True)
    whole = open_bank(request, tmp_path / "a", batch=6)
    pieces = open_bank(request, tmp_path / "b", batch=4)
    _, target = whole.lesson(slice(0, 6))
    torch.testing.assert_close(pieces.lesson(slice(0, 6))[1], target)
    posterior = generator.network.vae.encode(data.truth(range(5, 11), 32, "normal")).latent_dist
    mode, spread = posterior.mode() * 2.0, posterior.std * 2.0
    deviation = (target - mode) / spread
    assert 0.8 < deviation.std() < 1.2 and deviation.mean().abs() < 0.2
    assert not torch.allclose(target, mode, atol=1e-3)
    other = Request(generator.randomised(1), exact, normal, 5, 6, data=data, latents=True)
    assert other.key == request.key and other.generator.fingerprint != generator.fingerprint   # controls share the bank


def test_exact_maps_teach_and_judge(generator, tmp_path):
    small = {**SMALL, "intrinsic": "normal"}
    probe = probes.fit(generator, out=str(tmp_path), **{**small, "teacher": "exact"})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["against"].startswith("exact")
    truth = get_data("scenes").truth(range(8), 32, "normal")
    torch.testing.assert_close(probe.truths(range(8), probe.judge()).truth(slice(0, 8)), truth)
    taught = probes.fit(generator, against="exact", out=str(tmp_path / "taught"), **{**small, "teacher": "scenes"})
    assert json.loads((tmp_path / "taught" / "metrics.json").read_text())["against"].startswith("exact")
    assert taught.record["teacher"]["name"] == "scenes"
    assert metrics["judge"]["name"] == "exact" and not metrics["judge"]["exact_errors"]
    judged = taught.evaluate(8, controls=()).metrics
    assert judged["against"].startswith("scenes") and judged["judge"]["exact_errors"]["normal mean angular error (degrees)"] < 6
    with pytest.raises(ValueError, match="teacher: nobody knows the exact maps"):
        probes.fit(FAMILIES["stylegan2"][0](), out=str(tmp_path / "no"), **{**small, "teacher": "exact"})


def test_a_folder_of_photographs_is_split_and_remembered(generator, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02d}.png")
    probe = probes.fit(generator, data=str(tmp_path / "photos"), out=str(tmp_path / "run"), **{**SMALL, "samples": 100})
    record = json.loads((tmp_path / "run" / "probe.json").read_text())
    assert record["bank"]["first_seed"] == 4 and record["bank"]["samples"] == 16 and record["request"]["evaluate"] == 4
    assert torch.equal(probes.load(tmp_path / "run", generator).predict([1]).map, probe.predict([1]).map)
    Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(tmp_path / "photos" / "07.png")
    with pytest.raises(probes.RunError, match="data: .*photos are not those this probe was fitted on"):
        probes.load(tmp_path / "run", generator).predict([1])


def test_multi_step_training_is_v_prediction_on_a_schedule_that_ends_in_noise(multi):
    from diffusers import DDPMScheduler

    latent, target, seeds = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), [999, 500]
    schedule = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    seen = []
    multi.network.unet.register_forward_hook(lambda m, a, k, o: seen.append((a[0], a[1])), with_kwargs=True)
    _, wanted = multi.regress({"latent": latent}, target, seeds)
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
    t = torch.tensor(seeds)
    torch.testing.assert_close(wanted, schedule.get_velocity(target, noise, t), atol=1e-5, rtol=1e-5)
    given, at = seen[0]
    assert at.tolist() == seeds
    torch.testing.assert_close(given[:, :4], schedule.add_noise(target, noise, t), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given[0, :4], noise[0])               # nothing of the target at the end
    torch.testing.assert_close(given[:, 4:], latent / 2.0)                                  # the released code's: unscaled
    scaled = FAMILIES["stable-diffusion-multi"][0]()
    scaled = StableDiffusion("tiny", scaled.network, world="scenes", **{**scaled.options, "scale_image_latent": True})
    scaled.network.unet.register_forward_hook(lambda m, a, k, o: seen.append((a[0], a[1])), with_kwargs=True)
    scaled.regress({"latent": latent}, target, seeds)
    torch.testing.assert_close(seen[-1][0][:, 4:], latent)


def predicting(kind, generator):
    """A tiny configuration, of another kind of prediction."""
    config = generator.network.config
    return StableDiffusionNetwork(replace(config, scheduler={**config.scheduler, "prediction_type": kind}), seed=1)


def test_multi_step_training_of_a_model_that_predicts_noise(generator):
    from diffusers import DDPMScheduler

    made = StableDiffusion("tiny", predicting("epsilon", generator), mode="multi", conv_in="random:0", steps=2, world="scenes")
    latent, target, seeds = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), [999, 500]
    schedule = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type="epsilon")
    seen = []
    made.network.unet.register_forward_hook(lambda m, a, k, o: seen.append((a[0], a[1], o.sample)), with_kwargs=True)
    with torch.no_grad():
        said, wanted = made.regress({"latent": latent}, target, seeds)
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
    torch.testing.assert_close(wanted, noise)
    given, at, answered = seen[0]
    assert made.options["zero_snr"] is False and at.tolist() == seeds and torch.equal(said, answered)
    torch.testing.assert_close(given[:, :4], schedule.add_noise(target, noise, torch.tensor(seeds)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(given[0, :4], noise[0], atol=1e-2)               # something of the target is left at the end
    torch.testing.assert_close(given[:, 4:], latent / 2.0)


@pytest.mark.parametrize("kind, options, message", [
    ("epsilon", dict(zero_snr=True), "zero_snr: a U-Net that predicts the noise .epsilon. says nothing .* pass zero_snr=False"),
    ("sample", {}, "mode: a U-Net that predicts 'sample' cannot be run in several steps; only epsilon and v_prediction"),
])
def test_what_cannot_be_trained_in_several_steps(kind, options, message, generator):
    with pytest.raises(ValueError, match=message):
        StableDiffusion("tiny", predicting(kind, generator), mode="multi", conv_in="random:0", world="scenes", **options)


def test_sampling_is_diffusers_dpm_solver_with_guidance(multi):
    """Against a loop written from the papers' formulas, first order, where one step suffices."""
    latent = torch.randn(1, 4, 8, 8)
    one = StableDiffusion("tiny", multi.network, world="scenes", **{**multi.options, "steps": 1, "rescale": 0.5})
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), one.prompted("depth map"):
        both = torch.cat([noise, latent / 2.0], 1)
        without, with_ = (one.denoise(both, 999, one.context(1, prompt)) for prompt in ("", "depth map"))
        guided = without + 3.0 * (with_ - without)
        guided = 0.5 * guided * with_.std() / guided.std() + 0.5 * guided
        # At a signal-to-noise ratio of zero v is minus the sample itself, and one step goes all the way.
        torch.testing.assert_close(one.forward({"latent": latent}), -guided, atol=2e-2, rtol=2e-2)
    free = StableDiffusion("tiny", multi.network, world="scenes", **{**multi.options, "guidance": 1.0})
    calls = []
    free.network.unet.register_forward_hook(lambda m, a, o: calls.append(len(a[0])))
    with torch.no_grad():
        free.forward({"latent": latent})
    assert calls == [1, 1]


def test_the_first_convolution_is_widened_and_frozen(generator):
    unet, before = generator.network.unet, generator.network.unet.conv_in.weight.clone()
    multi = StableDiffusion("tiny", generator.network, mode="multi", conv_in="doubled", steps=2, world="scenes")
    torch.testing.assert_close(unet.conv_in.weight, torch.cat([before, before], 1) / 2)
    assert not any(p.requires_grad for p in unet.parameters())
    assert not any("conv_in" in name for name in multi.sites("all"))
    with pytest.raises(ValueError, match="mode: the U-Net of tiny takes 8 channels"):
        StableDiffusion("tiny", generator.network, world="scenes")


def test_a_first_convolution_is_widened_once(generator):
    options = dict(mode="multi", steps=2, world="scenes")
    first = StableDiffusion("tiny", generator.network, conv_in="random:7", **options)
    again = StableDiffusion("tiny", generator.network, **options)
    assert first.options["conv_in"] == again.options["conv_in"] == "random:7"       # what loads it again
    for late in ("doubled", "own", "nowhere/instruct-pix2pix"):
        with pytest.raises(ValueError, match=r"conv_in: the U-Net of tiny takes 8 channels already \(conv_in='random:7'\)"):
            StableDiffusion("tiny", generator.network, conv_in=late, **options)


def test_a_first_convolution_of_a_file_is_known_by_its_whole_path(generator, tmp_path, monkeypatch):
    unet = generator.network.unet.conv_in
    file = tmp_path / "ip2p.safetensors"
    save_file({"conv_in.weight": unet.weight.repeat(1, 2, 1, 1), "conv_in.bias": unet.bias.clone()}, file)
    monkeypatch.chdir(tmp_path)
    made = StableDiffusion("tiny", generator.network, mode="multi", conv_in="ip2p.safetensors", steps=2, world="scenes")
    assert made.options["conv_in"] == str(file)
    again = StableDiffusion("tiny", generator.network, mode="multi", conv_in=str(file), steps=2, world="scenes")
    assert again.options["conv_in"] == str(file)
    for wrong in ("random", "nowhere.safetensors", "models/nowhere.ckpt"):
        with pytest.raises(FileNotFoundError, match="conv_in: .* is neither 'doubled', nor 'random:SEED', nor an Instruct"):
            StableDiffusion("tiny", FAMILIES["stable-diffusion"][0]().network, mode="multi", conv_in=wrong, world="scenes")


def test_the_halves_of_a_random_first_convolution_are_not_alike(multi):
    both = multi.randomised(0).network.unet.conv_in.weight.flatten(2).transpose(0, 1).flatten(1)
    assert torch.corrcoef(torch.stack([both[:4].flatten(), both[4:].flatten()]))[0, 1].abs() < 0.1


def test_a_unet_of_two_latents_has_its_own(generator):
    config = generator.network.config
    network = StableDiffusionNetwork(replace(config, unet={**config.unet, "in_channels": 8}), seed=1)
    kept = network.unet.conv_in.weight.clone()
    for asked in (None, "own"):
        built = StableDiffusion("tiny", network, mode="multi", conv_in=asked, steps=2, world="scenes")
        assert built.options["conv_in"] == "own" and torch.equal(network.unet.conv_in.weight, kept)
    fresh = built.randomised(2)
    assert fresh.options["conv_in"] == "own" and not torch.equal(fresh.network.unet.conv_in.weight, kept)
    with pytest.raises(ValueError, match="conv_in: the U-Net of tiny takes 8 channels already.*'doubled' would change nothing"):
        StableDiffusion("tiny", network, mode="multi", conv_in="doubled", world="scenes")
    with pytest.raises(ValueError, match="conv_in: mode 'multi' needs the half .* which the U-Net of tiny has not"):
        StableDiffusion("tiny", generator.network, mode="multi", conv_in="own", world="scenes")


def test_less_precision_and_less_memory_say_nearly_the_same(generator):
    state = states(generator, range(2))
    adapter = adapters.attach(generator, "a", rank=2)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(0.1)

    def gradient():
        with adapter.active(train=True):
            prediction = generator.forward(state)
            return prediction.detach(), torch.autograd.grad(prediction.square().mean(), list(adapter.parameters().values()))

    prediction, wanted = gradient()
    generator.network.unet.enable_gradient_checkpointing()
    again, got = gradient()
    torch.testing.assert_close(again, prediction)
    torch.testing.assert_close(got, wanted)
    generator.network.unet.disable_gradient_checkpointing()
    generator.network.unet.to(torch.bfloat16)
    rough, slopes = gradient()
    assert (rough - prediction).norm() < 0.03 * prediction.norm()
    for a, b in zip(slopes, wanted, strict=True):
        assert torch.nn.functional.cosine_similarity(a.float().flatten(), b.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("options, message", [
    (dict(mode="triple"), "mode: expected 'single' or 'multi'"),
    (dict(mode="multi"), "conv_in: mode 'multi' needs the half"),
    (dict(mode="multi", conv_in="random:0", steps=0), "steps"),
    (dict(mode="multi", conv_in="random:0", rescale=2), "rescale"),
    (dict(mode="multi", conv_in="random:0", steps=1001), "steps: expected 1 … 1000, .* got 1001"),
    (dict(mode="multi", conv_in="random:0", guidance=-1), "guidance"),
    (dict(mode="multi", conv_in="random:0", guidance="3"), "guidance: expected a number of at least 0.* got '3'"),
    (dict(mode="multi", conv_in="random:0", rescale="all"), "rescale: expected a number in .* got 'all'"),
    (dict(timestep=1000), "timestep: expected 0 … 999"),
    (dict(precision="fp8"), "precision"),
    (dict(resolution=30), "resolution: expected a multiple of 4"),
])
def test_bad_options_are_named(options, message, generator):
    with pytest.raises(ValueError, match=message):
        StableDiffusion("tiny", generator.network, world="scenes", **options)


def test_bad_images_data_and_prompts_are_named(generator, tmp_path):
    with pytest.raises(ValueError, match=r"images: expected \[N, 3, H, W\] with H and W multiples of 4, got \[1, 3, 30, 32\]"):
        generator.encode(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="images: some values are not finite"):
        generator.encode(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(generators.UnknownNameError, match="intrinsic: unknown name 'roughness'; .*probes.register_intrinsic"):
        probes.fit(generator, out=str(tmp_path), **{**SMALL, "intrinsic": "roughness", "prompt": "roughness map"})
    with pytest.raises(generators.UnknownNameError, match="scenes"):
        probes.fit(generator, data="scene", out=str(tmp_path), **SMALL)
    with pytest.raises(ValueError, match="data: tiny draws its own images"):
        probes.fit(FAMILIES["stylegan2"][0](), data="scenes", out=str(tmp_path), **SMALL)
    generator.world = "photographs"
    with pytest.raises(ValueError, match="data: .* needs some; give the path of a folder"):
        probes.fit(generator, out=str(tmp_path), **SMALL)


def test_random_and_crossed_are_one_control_of_given_images(generator, tmp_path, capsys):
    small = {**SMALL, "steps": 4, "quiet": False}
    probe = probes.fit(generator, out=str(tmp_path), controls=("random", "crossed"), **small)
    entry = probe.last_evaluation.metrics["metrics"]["rms"]
    assert set(entry["controls"]) == {"random"} and "random and crossed are one control" in capsys.readouterr().out
    assert entry["controls"]["random"]["trivial"] == pytest.approx(entry["trivial"]["value"])      # the same targets

"""LoRA files as probes and probes as LoRA files."""
import json

import make_sd
import make_sd_lora as forge
import pytest
import torch
from families import FAMILIES
from tiny import SMALL

import generators
import probes
from adapters.sd_files import read_lora, write_lora
from generators.checkpoints import CheckpointError
from generators.stable_diffusion import StableDiffusion
from probes import cli
from probes.data._scenes import Scenes

BUILD, MULTI = FAMILIES["stable-diffusion"][0], FAMILIES["stable-diffusion-multi"][0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, probes.fit(FAMILIES["stable-diffusion"][0](), out=str(folder), **{**SMALL, "evaluate": 0, "steps": 20})


@pytest.mark.parametrize("style", ["diffusers", "comfyui"])
def test_a_probe_goes_out_and_comes_back(run, style, tmp_path):
    _, probe = run
    written = probes.export_lora(probe, tmp_path / "shading.safetensors", style)
    file = read_lora(written)
    assert file.metadata["probes.prompt"] == "shading" and file.metadata["probes.intrinsic"] == "shading"
    again = probes.import_lora(written, FAMILIES["stable-diffusion"][0](), "shading")
    picture = torch.rand(3, 40, 36) * 2 - 1
    torch.testing.assert_close(again.predict(images=picture)[0].map, probe.predict(images=picture)[0].map)
    saved = again.save(tmp_path / "run")
    loaded = probes.load(saved, FAMILIES["stable-diffusion"][0]())
    torch.testing.assert_close(loaded.predict(images=picture)[0].map, probe.predict(images=picture)[0].map)
    record = json.loads((saved / "probe.json").read_text())
    assert record["training"]["imported"]["style"] == file.style and record["method"]["prompt"] == "shading"
    with pytest.raises(FileExistsError, match="overwrite"):
        probes.export_lora(probe, tmp_path / "shading.safetensors", style)


def test_what_a_file_does_not_say_is_asked_for(run, tmp_path):
    _, probe = run
    written = probes.export_lora(probe, tmp_path / "a.safetensors")
    alone = probes.import_lora(written, FAMILIES["stable-diffusion"][0](), "shading")
    on_scenes = probes.import_lora(written, FAMILIES["stable-diffusion"][0](), "shading", data="scenes")
    with pytest.raises(ValueError, match="teacher: this probe came as a LoRA file"):
        on_scenes.evaluate(4)
    with pytest.raises(ValueError, match="data: this probe came without data"):
        alone.predict(range(2))
    judged = probes.import_lora(written, FAMILIES["stable-diffusion"][0](), "shading", teacher="exact", data="scenes")
    judged.record["bank"]["samples"] = 12
    assert judged.evaluate(4, controls=()).metrics["against"].startswith("exact")
    foreign = write_lora(tmp_path / "b.safetensors", *probe.adapter.plain(), metadata={"title": "a community's"})
    depth = probes.import_lora(foreign, FAMILIES["stable-diffusion"][0](), "depth", prompt="depth")
    values = depth.predict(images=torch.rand(3, 32, 32))[0].map
    assert depth.intrinsic.options["encoding"] == "relative" and 0 <= values.min() and values.max() <= 1
    assert depth.adapter.prompt == "depth" and probes.import_lora(foreign, BUILD(), "normal").adapter.prompt == "surface normal"
    with pytest.raises(ValueError, match="intrinsic: .*b.safetensors does not say what it emits; pass one of normal, depth"):
        probes.import_lora(foreign, BUILD())


def fitted(generator, folder, **changes):
    """A probe that says something, on a generator."""
    probe = probes.fit(generator, out=str(folder), **{**SMALL, "evaluate": 0, "steps": 2, "samples": 12, **changes})
    rng = torch.Generator().manual_seed(0)
    for parameter in probe.adapter.parameters().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return probe


def predicts_the_same(one, other):
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(one.predict(images=picture)[0].map, other.predict(images=picture)[0].map)


@pytest.mark.parametrize("style", ["diffusers", "comfyui"])
def test_depth_comes_back_in_metres_and_with_its_prompt(style, tmp_path):
    asked = dict(intrinsic="depth", teacher="exact", encoding="log,near=0.5,far=12", prompt="map shading")
    probe = fitted(BUILD(), tmp_path / "run", **asked)
    written = probes.export_lora(probe, tmp_path / "depth.safetensors", style)
    again = probes.import_lora(written, BUILD(), "depth")
    assert again.intrinsic.options == dict(encoding="log", near=0.5, far=12.0) and again.intrinsic.meaning == "metric"
    assert again.adapter.prompt == "map shading" and again.record["intrinsic"]["options"]["encoding"] == "log"
    predicts_the_same(again, probe)
    predicts_the_same(probes.import_lora(written, BUILD()), probe)
    saved = probes.load(again.save(tmp_path / "saved"), BUILD())
    assert saved.intrinsic.options == again.intrinsic.options and saved.adapter.prompt == "map shading"
    relative = probes.get_intrinsic("depth").with_options(dict(encoding="relative"))
    with pytest.raises(ValueError, match="intrinsic: .* was trained with encoding='log' of depth, .* got 'relative'"):
        probes.import_lora(written, BUILD(), relative)
    with pytest.raises(ValueError, match="prompt: .* was trained with 'map shading', .* got 'depth map'; leave prompt out"):
        probes.import_lora(written, BUILD(), prompt="depth map")


def test_what_a_file_emits_is_not_taken_for_another_intrinsic(run, tmp_path):
    written = probes.export_lora(run[1], tmp_path / "a.safetensors")
    assert probes.import_lora(written, BUILD()).intrinsic.name == "shading"
    with pytest.raises(ValueError, match="intrinsic: .*a.safetensors was trained to emit shading, .* got depth; pass shading"):
        probes.import_lora(written, BUILD(), "depth")


def test_an_adapter_of_several_steps_is_not_taken_for_one_of_one(run, tmp_path):
    probe = fitted(MULTI(), tmp_path / "run")
    written = probes.export_lora(probe, tmp_path / "multi.safetensors")
    predicts_the_same(probes.import_lora(written, MULTI()), probe)
    with pytest.raises(ValueError, match="was trained with mode='multi', as its header says, got mode='single'; pass its name, "
                                         "or a Generator that was loaded with mode='multi', conv_in='random:0'"):
        probes.import_lora(written, BUILD())
    single = probes.export_lora(run[1], tmp_path / "single.safetensors")
    with pytest.raises(ValueError, match="was trained with mode='single'.*loaded with mode='single', timestep=999"):
        probes.import_lora(single, MULTI())
    earlier = StableDiffusion("tiny", BUILD().network, timestep=500, world="scenes")
    with pytest.raises(ValueError, match="was trained with timestep=999, .* got timestep=500"):
        probes.import_lora(single, earlier)
    for name, value in dict(scale_image_latent=True, zero_snr=False).items():
        other = MULTI()
        other = StableDiffusion("tiny", other.network, world="scenes", **{**other.options, name: value})
        with pytest.raises(ValueError, match=f"was trained with {name}={not value}, .* got {name}={value}"):
            probes.import_lora(written, other)
    doubled = StableDiffusion("tiny", BUILD().network, mode="multi", conv_in="doubled", steps=2, world="scenes")
    with pytest.raises(ValueError, match="was trained with conv_in='random:0', .* got conv_in='doubled'"):
        probes.import_lora(written, doubled)
    sampled = StableDiffusion("tiny", MULTI().network, mode="multi", steps=3, guidance=1.0, world="scenes")
    assert probes.import_lora(written, sampled).generator is sampled        # how it is sampled is no part of an adapter


def test_a_generator_that_is_built_for_a_file_is_run_as_it_says(tmp_path):
    make_sd.write_folder(tmp_path / "sd", version=2)
    options = dict(mode="multi", conv_in="random:3", steps=2, guidance=2.0, resolution=32)
    probe = fitted(generators.load(tmp_path / "sd", **options), tmp_path / "run", data="scenes", prompt="ab c")
    written, place = probes.export_lora(probe, tmp_path / "lora"), str(tmp_path / "sd")
    again = probes.import_lora(written, place)
    assert again.generator.options == probe.generator.options and again.generator.fingerprint == probe.generator.fingerprint
    predicts_the_same(again, probe)
    other = probes.import_lora(written, place, generator_options=dict(steps=3, conv_in=None))
    assert other.generator.multi.steps == 3 and other.generator.options["conv_in"] == "random:3"
    for name, value in dict(mode="single", conv_in="doubled", zero_snr=False).items():
        with pytest.raises(ValueError, match=f"was trained with {name}=.*got {name}={value!r}; leave it out"):
            probes.import_lora(written, place, generator_options={name: value})
    with pytest.raises(ValueError, match="is a stylegan2; LoRA files are exchanged"):
        probes.import_lora(written, "stylegan2-scenes@760k")


def test_the_place_of_a_first_convolution_is_not_told_and_nothing_is_read_on_a_files_word(tmp_path):
    for name, channels in (("sd", 4), ("ip2p", 8)):
        make_sd.write_folder(tmp_path / name, version=2, in_channels=channels)
    options = dict(mode="multi", conv_in=str(tmp_path / "ip2p"), steps=2, resolution=32)
    probe = fitted(generators.load(tmp_path / "sd", **options), tmp_path / "run", data="scenes", prompt="ab c")
    written, place = probes.export_lora(probe, tmp_path / "lora"), str(tmp_path / "sd")
    assert json.loads(read_lora(written).metadata["probes.generator_options"])["conv_in"] == "ip2p"
    with pytest.raises(ValueError, match="was trained with conv_in='ip2p', and nothing is read or fetched.*; pass conv_in"):
        probes.import_lora(written, place)
    again = probes.import_lora(written, place, generator_options=dict(conv_in=str(tmp_path / "ip2p")))
    predicts_the_same(again, probe)
    predicts_the_same(probes.import_lora(written, again.generator), probe)


@pytest.mark.parametrize("name, text, message", [
    ("generator_options", "mode", "is not JSON"), ("generator_options", "[]", "is not a JSON object"),
    ("generator_options", '{"mode": "triple"}', "says mode='triple'"), ("generator_options", '{"mode": []}', "says mode="),
    ("generator_options", '{"timestep": 1}', "says mode=None"),
    ("generator_options", '{"mode": "multi", "conv_in": 5}', "says conv_in=5"),
    ("generator_options", '{"mode": "single", "turns": 5}', "says turns=5"),
    ("intrinsic_options", '{"near": "x"}', "is not of depth"), ("intrinsic_options", '{"encoding": []}', "is not of depth"),
    ("intrinsic_options", '{"unit": "inch"}', "is not of depth .*has no option 'unit'"),
])
def test_headers_that_make_no_sense_are_named(run, name, text, message, tmp_path):
    file = write_lora(tmp_path / "a.safetensors", *run[1].adapter.plain(), metadata={f"probes.{name}": text})
    with pytest.raises(CheckpointError, match=f"a.safetensors: probes.{name} in its header {message}"):
        probes.import_lora(file, BUILD(), "depth")


def test_the_papers_released_files_predict(tmp_path):
    """The attention processors' spelling, in a pickle: as a network that has the update within its weights predicts."""
    merged = BUILD()
    unet = merged.network.unet
    pairs = forge.lora(unet, forge.attention_sites(unet), rank=3, scale=0.1)
    file = forge.attention_processors(tmp_path / "depth.bin", pairs)
    nothing = forge.attention_processors(tmp_path / "zero.bin", {site: (a, b * 0) for site, (a, b) in pairs.items()})
    for site, (a, b) in pairs.items():
        unet.get_submodule(site).weight.data += b @ a
    probe = probes.import_lora(file, BUILD(), "depth")
    predicts_the_same(probe, probes.import_lora(nothing, merged, "depth"))
    assert probe.intrinsic.meaning == "relative" and probe.adapter.prompt == "depth map"
    assert probe.record["training"]["imported"] == dict(file="depth.bin", style="attention-processor")
    with pytest.raises(AssertionError):
        predicts_the_same(probe, probes.import_lora(nothing, BUILD(), "depth"))


def test_an_imported_run_is_scored_by_whatever_it_is_given(run, tmp_path, monkeypatch):
    monkeypatch.setattr("probes._probe.REFERENCE", 12)
    _, probe = run
    build = FAMILIES["stable-diffusion"][0]
    written = probes.export_lora(probe, tmp_path / "a.safetensors")
    saved = probes.import_lora(written, build(), "shading").save(tmp_path / "run")
    with pytest.raises(ValueError, match="load or import it with data="):
        probes.load(saved, build()).evaluate(4)
    with pytest.raises(ValueError, match="teacher: this probe came as a LoRA file"):
        probes.load(saved, build(), data="scenes").evaluate(4)
    loaded = probes.load(saved, build(), teacher="exact", data="scenes")
    result = loaded.evaluate(4, controls=["rgb"])
    assert result.metrics["against"].startswith("exact") and loaded.fitted_on == range(1_000_000, 1_000_012)
    truths = loaded.truths(range(4), loaded.judge())
    expected = loaded.scores(truths, loaded.emit, loaded.judge())["rms"].mean()
    assert result.metrics["metrics"]["rms"]["value"] == pytest.approx(expected)
    torch.testing.assert_close(truths.truth(slice(0, 4)), Scenes().truth(range(4), 32, "shading"))


def test_a_generator_stays_on_its_device(run, tmp_path, monkeypatch):
    _, probe = run
    written, generator, asked = probes.export_lora(probe, tmp_path / "a.safetensors"), FAMILIES["stable-diffusion"][0](), []
    with monkeypatch.context() as patch:
        patch.setattr(type(generator), "device", property(lambda self: torch.device("cuda", 1)))
        patch.setattr("generators.load", lambda *a, device, **k: asked.append(device) or FAMILIES["stylegan2"][0]())
        for options in ({}, dict(device="cpu")):
            with pytest.raises(ValueError, match="is a stylegan2"):
                probes.import_lora(written, generator, "shading", **options)
        with pytest.raises(ValueError, match="is a stylegan2"):
            probes.import_lora(written, "stylegan2-scenes@760k", "shading")
    assert asked == ["cuda:1", "cpu", "cpu"]


def test_other_generators_and_other_base_models_are_refused(run, tmp_path):
    _, probe = run
    written = probes.export_lora(probe, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="generator: tiny is a stylegan2; LoRA files are exchanged for Stable Diffusion"):
        probes.import_lora(written, FAMILIES["stylegan2"][0](), "shading")
    wide = FAMILIES["stable-diffusion"][0]()
    wide.network.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q = torch.nn.Linear(48, 48)
    with pytest.raises(ValueError, match="another base model"):
        probes.import_lora(written, wide, "shading")
    own = probes.fit("stylegan2-scenes@760k", out=str(tmp_path / "own"), **{**SMALL, "evaluate": 0, "steps": 2})
    with pytest.raises(ValueError, match="this probe is on a stylegan2"):
        probes.export_lora(own, tmp_path / "b.safetensors")


def test_command_line(run, tmp_path, capsys, monkeypatch):
    folder, probe = run
    monkeypatch.setattr("probes._probe.load", lambda run, device: probe)
    assert cli.main(["export", str(folder), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists() and "shading" in capsys.readouterr().out
    monkeypatch.setattr("generators.load", lambda *a, **k: FAMILIES["stable-diffusion"][0]())
    assert cli.main(["import", "--file", str(tmp_path / "out"), "--generator", "sd", "--intrinsic", "shading", "--out",
                     str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    again = ["import", "--file", str(tmp_path / "out"), "--generator", "sd", "--intrinsic", "shading", "--out"]
    own = tmp_path / "own"
    probes.fit(FAMILIES["stable-diffusion"][0](), out=str(own), **{**SMALL, "evaluate": 4, "steps": 2, "controls": []})
    before = (own / "probe.json").read_bytes()
    assert cli.main([*again, str(own)]) == 1
    assert "holds a run already; choose another folder with --out" in capsys.readouterr().err
    assert (own / "probe.json").read_bytes() == before and (own / "metrics.json").exists()
    assert cli.main([*again, str(own), "--overwrite", "true"]) == 0
    assert "imported" in json.loads((own / "probe.json").read_text())["training"]
    assert not (own / "metrics.json").exists() and not (own / "report.html").exists()


def test_evaluating_again_compares_with_what_the_run_was_scored_against(run, capsys, monkeypatch):
    folder, probe = run
    monkeypatch.setattr("probes._probe.load", lambda run, device: probe)
    monkeypatch.setitem(probe.record["request"], "against", "exact")
    assert cli.main(["evaluate", str(folder), "--seeds", "4", "--controls", "[]"]) == 0
    assert probe.last_evaluation.metrics["against"].startswith("exact")
    assert cli.main(["evaluate", str(folder), "--seeds", "4", "--controls", "[]", "--against", "brightness"]) == 0
    assert probe.last_evaluation.metrics["against"] == "brightness 1"

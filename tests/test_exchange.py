"""LoRA files as probes and probes as LoRA files."""
import json

import pytest
import torch
from families import FAMILIES
from tiny import SMALL

import probes
from adapters.sd_files import read_lora
from probes import cli
from probes.data._scenes import Scenes


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
    depth = probes.import_lora(written, FAMILIES["stable-diffusion"][0](), "depth", prompt="depth")
    values = depth.predict(images=torch.rand(3, 32, 32))[0].map
    assert depth.intrinsic.options["encoding"] == "relative" and 0 <= values.min() and values.max() <= 1


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
            probes.import_lora(written, "stylegan2-scenes", "shading")
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
    own = probes.fit("stylegan2-scenes", out=str(tmp_path / "own"), **{**SMALL, "evaluate": 0, "steps": 2})
    with pytest.raises(ValueError, match="this probe is on a stylegan2"):
        probes.export_lora(own, tmp_path / "b.safetensors")


def test_command_line(run, tmp_path, capsys, monkeypatch):
    folder, probe = run
    monkeypatch.setattr("probes._probe.load", lambda run: probe)
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

"""The methods beside LoRA on the main road: `fit`, run folder, load; the shuffled control; bad input."""
import json

import numpy as np
import pytest
import torch
from families import FAMILIES
from tiny import SMALL

import adapters
import probes
from adapters._base import living
from probes import _controls, _probe
from probes._intrinsics import get_intrinsic


def test_methods_through_fit(tmp_path):
    """The whole road of two methods with a file of their own, on a shared generator; the record rebuilds them."""
    generator = FAMILIES["stylegan2"][0]()
    small = {k: v for k, v in SMALL.items() if k != "rank"}
    linear = probes.fit(generator, out=str(tmp_path / "linear"), method="linear", method_options=dict(layers=-1), controls=[],
                        **{**small, "steps": 12})
    assert linear.record["method"]["options"] == {"layers": -1} and linear.record["method"]["rank"] is None
    assert linear.record["request"]["learning_rate"] == adapters.get_method("linear").learning_rate
    assert linear.record["training"]["steps_per_second"] > 0 and linear.record["training"]["peak_memory_mib"] > 50
    config = json.loads((tmp_path / "linear" / "adapter" / "adapter_config.json").read_text())
    assert config == dict(method="linear", layers=-1)
    pixels = probes.fit(generator, out=str(tmp_path / "pixels"), method="pixels", controls=[], **{**SMALL, "steps": 12})
    assert pixels.record["request"]["rank"] == 2 and pixels.record["request"]["alpha"] is None
    for probe, folder in ((linear, "linear"), (pixels, "pixels")):
        loaded = probes.load(tmp_path / folder, generator)
        assert torch.equal(loaded.predict([5]).map, probe.predict([5]).map)
        assert loaded.adapter.size == probe.record["method"]["parameters"]
    stamp = (tmp_path / "pixels" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    probes.fit(generator, out=str(tmp_path / "pixels"), method="pixels", controls=[], **{**SMALL, "steps": 12})
    assert (tmp_path / "pixels" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_prompt_alone_and_pixels_of_a_latent_model_through_fit(tmp_path):
    generator = FAMILIES["stable-diffusion"][0]()
    small = {k: v for k, v in SMALL.items() if k not in ("rank", "steps")}
    probe = probes.fit(generator, out=str(tmp_path / "prompt"), method="prompt", controls=[], **small)
    assert probe.adapter.size == 0 and probe.record["training"]["steps"] == 0
    assert probe.record["training"]["final_loss"] is None
    image = probe.images.images([5], 32)
    state = generator.prepare(generator.encode(image))
    with torch.no_grad(), generator.prompted("shading"):
        said = generator.to_image(generator.forward(state))
    torch.testing.assert_close(probe.predict([5]).map, probe.intrinsic.to_map(said))
    assert torch.equal(probes.load(tmp_path / "prompt", generator).predict([5]).map, probe.predict([5]).map)
    pixels = probes.fit(generator, out=str(tmp_path / "pixels"), method="pixels", controls=[], **{**small, "steps": 40})
    assert pixels.curve[-1][1] < 0.8 * pixels.curve[0][1]
    with pytest.raises(ValueError, match="steps: method 'prompt' trains nothing"):
        probes.fit(generator, out=str(tmp_path / "x"), method="prompt", steps=5, **small)


def test_shuffled_pairs_teach_nothing(tmp_path):
    """On a task that is easily learnt, the same fit on other pictures' targets is no better than their mean."""
    generator = FAMILIES["stylegan2"][0]()
    probe = probes.fit(generator, out=str(tmp_path), controls=["shuffled"], method="pixels", learning_rate=0.02,
                       **{**SMALL, "samples": 96, "evaluate": 24})
    entry = probe.last_evaluation.metrics["metrics"]["rms"]
    assert entry["skill"] > 0.7
    assert -0.1 < entry["controls"]["shuffled"]["skill"] < 0.05
    record = json.loads((tmp_path / "controls" / "shuffled" / "probe.json").read_text())
    assert record["request"]["shuffled"] is True and record["bank"]["key"] == probe.record["bank"]["key"]
    bank = probe.training_bank()
    wrong = _controls.Shuffled(bank, 3)
    assert sorted(wrong.other) == list(range(96)) and not (wrong.other == np.arange(96)).any()
    rows = np.array([4, 17])
    assert torch.equal(wrong.batch(rows)[1], bank.batch(wrong.other[rows])[1])
    assert torch.equal(wrong.lesson(rows)[0]["w"], bank.state(rows)["w"])
    assert not (wrong.other == _controls.Shuffled(bank, 4).other).all()


@pytest.mark.parametrize(("change", "message"), [
    (dict(method="liner"), "method: .*did you mean 'linear'"),
    (dict(method="linear", method_options=dict(layer=1)), "method_options: .*did you mean 'layers'"),
    (dict(method="full", method_options=dict(layers=1)), "method_options: full has none"),
    (dict(method="linear", rank=4), "rank: method 'linear' has no rank; leave it out .*lora, pixels"),
    (dict(method="pixels", alpha=4.0), "alpha: method 'pixels' has no alpha"),
    (dict(method="full", scope="affine"), "scope: method 'full' has no scope"),
    (dict(method="token"), "token asks in words, and stylegan2-scenes@760k reads no text"),
    (dict(method_options=dict(init="best")), "init: unknown name 'best'"),
])
def test_bad_input_names_the_argument(change, message, tmp_path):
    small = {k: v for k, v in SMALL.items() if k != "rank"}
    with pytest.raises(ValueError, match=message):
        probes.fit("stylegan2-scenes@760k", **{**small, "out": str(tmp_path), **change})


def test_a_probe_of_another_method_is_not_exchanged_as_a_lora(tmp_path):
    generator = FAMILIES["stable-diffusion"][0]()
    adapter = adapters.build("offset", generator, "a")
    probe = _probe.Probe(generator, adapter, get_intrinsic("shading"), {})
    with pytest.raises(ValueError, match="fitted with method 'offset'; only LoRAs"):
        probes.export_lora(probe, tmp_path / "x.safetensors")


def test_every_method_is_listed(capsys):
    from probes.cli import main

    assert main(["list", "methods"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("lora", "full", "linear", "offset", "token", "prompt", "sdedit",
                                           "edit", "visii", "pixels", "encoder"))


@pytest.mark.parametrize("method, told", [
    ("pixels", "sees nothing but the finished picture"), ("full", "all of its drawing part"), ("lora", "A tiny adapter was")])
def test_the_report_says_what_was_trained(method, told, tmp_path):
    settings = {**SMALL, "steps": 2, "controls": [], "method": method}
    if method == "full":
        del settings["rank"]
    probes.fit(FAMILIES["stylegan2"][0](), out=str(tmp_path), **settings)
    assert told in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("method", ["lora", "linear"])
def test_a_record_of_another_adapter_than_the_one_that_was_saved_is_refused(tmp_path, method):
    """The tensors alone do not say what they are multiplied by."""
    generator = FAMILIES["stylegan2"][0]()
    probes.fit(generator, method=method, out=str(tmp_path), **{**SMALL, "steps": 2, "evaluate": 0, "rank": None})
    fitted = probes.load(tmp_path, generator)
    names = {adapter.name for adapter in living(generator)}
    about = tmp_path / "adapter" / "adapter_config.json"
    if method == "lora":
        record = json.loads((tmp_path / "probe.json").read_text())
        record["method"]["alpha"] *= 2
        (tmp_path / "probe.json").write_text(json.dumps(record))
        with pytest.raises(probes.RunError, match=r"probe.json of .* another adapter than adapter_config.json \(lora_alpha 8"):
            probes.load(tmp_path, generator)
    about.write_text("[")
    with pytest.raises(probes.RunError, match="adapter_config.json is damaged .*--overwrite true"):
        probes.load(tmp_path, generator)
    assert {adapter.name for adapter in living(generator)} == names      # nothing half-built stays
    assert fitted.predict([0]).map.isfinite().all()

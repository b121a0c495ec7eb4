"""The main road: fit, run folder, load, predict, evaluate, several probes on one generator, controls, bad input."""
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from families import FAMILIES
from tiny import SMALL, Brightness

import adapters
import generators
import probes
from probes import cli
from probes._settings import Settings, default_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "shading"
    probe = probes.fit("stylegan2-scenes@760k", out=str(folder), controls=("latent", "rgb", "random", "crossed"), **SMALL)
    return folder, probe


def test_run_folder_is_complete_and_consistent(run):
    folder, probe = run
    names = {p.name for p in folder.iterdir()}
    assert {"adapter", "probe.json", "metrics.json", "samples.csv", "samples.png", "report.html"} <= names
    assert not {n for n in names if "training-state" in n or n.endswith(".tmp")}
    record = json.loads((folder / "probe.json").read_text())
    assert record["generator"]["fingerprint"] == generators.load("stylegan2-scenes@760k").fingerprint
    assert record["method"]["parameters"] == probe.adapter.size and len(record["method"]["sites"]) == 14
    metrics = json.loads((folder / "metrics.json").read_text())
    entry = metrics["metrics"][metrics["primary"]]
    assert entry["n"] == 8 and entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
    assert entry["skill"] == pytest.approx(1 - entry["value"] / entry["trivial"]["value"])
    assert set(entry["controls"]) == {"latent", "rgb", "random", "crossed"}
    with open(folder / "samples.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["seed"]) for r in rows] == list(range(8))
    assert np.mean([float(r["rms"]) for r in rows]) == pytest.approx(entry["value"], rel=1e-5)
    assert np.mean([float(r["crossed_rms"]) for r in rows]) == pytest.approx(entry["controls"]["crossed"]["value"], rel=1e-5)
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page.replace("http://www.w3.org", "")


def test_training_taught_it_something(run):
    _, probe = run
    assert probe.curve[-1][1] < 0.6 * probe.curve[0][1]


def test_adapter_files_are_pefts(run):
    folder, probe = run
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 2 and config["target_modules"] == probe.adapter.site_names
    tensors = safetensors.torch.load_file(folder / "adapter" / "adapter_model.safetensors")
    from peft import PeftConfig, set_peft_model_state_dict

    network = generators.load("stylegan2-scenes@760k").network
    peft_config = PeftConfig.from_pretrained(folder / "adapter")
    adapters._lora.inject_adapter_in_model(peft_config, network, "default")
    result = set_peft_model_state_dict(network, {k.removeprefix("base_model.model."): v for k, v in tensors.items()})
    assert not result.unexpected_keys


def test_load_predicts_the_same_and_generator_stays_untouched(run):
    folder, probe = run
    before = probe.predict(range(3))
    loaded = probes.load(folder)
    after = loaded.predict(range(3))
    assert torch.equal(before.map, after.map) and torch.equal(before.image, after.image)
    plain = generators.load("stylegan2-scenes@760k")
    state = plain.prepare(plain.sample(range(3)))
    assert torch.equal(loaded.generator.forward(state), plain.forward(state))
    again = loaded.evaluate(8)
    assert again.skill == pytest.approx(probe.last_evaluation.skill, abs=1e-6)


def test_a_probe_goes_where_there_is_a_device(run, tmp_path, capsys):
    folder, _ = run
    sought = "cuda" if torch.cuda.is_available() else "cpu"
    assert probes.load(folder, device="auto").generator.device.type == sought
    again = shutil.copytree(folder, tmp_path / "run")
    assert cli.main(["predict", str(again), "--seeds", "2", "--device", "auto", "--output", str(tmp_path / "a.png")]) == 0
    assert cli.main(["evaluate", str(again), "--seeds", "4", "--controls", "[]", "--device", "auto"]) == 0
    assert cli.main(["predict", str(again), "--device", "gpu"]) == 1
    assert "device: expected 'cpu', 'cuda', a GPU by its number" in capsys.readouterr().err


def test_several_probes_share_a_generator(run, tmp_path):
    folder, _ = run
    generator = generators.load("stylegan2-scenes@760k")
    state = generator.prepare(generator.sample(range(2)))
    untouched = generator.forward(state)
    other = probes.fit(generator, out=str(tmp_path / "albedo"), **{**SMALL, "intrinsic": "albedo", "steps": 10, "evaluate": 0})
    shading, again = probes.load(folder, generator), probes.load(folder, generator)
    first = shading.predict(range(2)).map
    assert torch.equal(again.predict(range(2)).map, first)
    assert other.predict(range(2)).map.shape[1] == 3
    assert torch.equal(shading.predict(range(2)).map, first)
    assert torch.equal(generator.forward(state), untouched)


def test_a_finished_run_is_loaded_and_another_is_refused(run):
    folder, probe = run
    stamp = (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    settings = dict(SMALL, out=str(folder), controls=("latent", "rgb", "random", "crossed"))
    assert probes.fit("stylegan2-scenes@760k", **settings).record == json.loads((folder / "probe.json").read_text())
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(probes.RunError, match="another steps.*--overwrite"):
        probes.fit("stylegan2-scenes@760k", **{**settings, "steps": 61})


def test_a_probe_fits_only_its_generator(run, tmp_path):
    folder, _ = run
    with pytest.raises(probes.RunError, match="fingerprint"):
        probes.load(folder, FAMILIES["stylegan2"][0]())
    with pytest.raises(probes.RunError, match="not a finished run"):
        probes.load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(probes.RunError, match="damaged"):
        probes.load(broken)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "stylegan2-scenes"])
def test_every_family_fits_saves_and_loads(family, tmp_path):
    generator = FAMILIES[family][0]()
    probe = probes.fit(generator, out=str(tmp_path), **{**SMALL, "steps": 12})
    loaded = probes.load(tmp_path, FAMILIES[family][0]())
    assert torch.equal(loaded.predict([5]).map, probe.predict([5]).map)


def test_crossed_weights_of_a_generator_that_is_built_already(tmp_path):
    settings = {**SMALL, "steps": 4, "evaluate": 0, "controls": []}
    trained = FAMILIES["stylegan2"][0]()
    probe = probes.fit(trained, out=str(tmp_path / "a"), weights="crossed:1", **settings)
    assert probe.record["generator"]["weights"] == "crossed:1" and probe.drawn_by is trained
    for weights in ("pretrained", "crossed"):
        with pytest.raises(ValueError, match="crossed generator cannot be fitted by itself"):
            probes.fit(trained.crossed(0) if weights == "pretrained" else probe.generator, out=str(tmp_path / "b"),
                       weights=weights, **settings)


def test_a_probe_saved_over_another_does_not_keep_its_scores(run, tmp_path):
    folder, probe = run
    shutil.copytree(folder, tmp_path / "run")
    results = [tmp_path / "run" / name for name in ("metrics.json", "samples.csv", "samples.png", "report.html")]
    probes.load(tmp_path / "run").save(tmp_path / "run")
    assert all(path.exists() for path in results)
    other = probes.load(folder)
    other.adapter.load_state({k: v / 2 for k, v in other.adapter.state().items()})
    other.save(tmp_path / "run")
    assert not any(path.exists() for path in results)
    assert probes.load(tmp_path / "run").last_evaluation is None


@pytest.mark.parametrize(("generator", "folder"), [
    ("owner/model-v1.5", "model-v1.5-normal"), ("stylegan2-scenes@64k", "stylegan2-scenes@64k-normal"),
    ("/data/ffhq.v2.safetensors", "ffhq.v2-normal"), ("/data/ffhq.PKL", "ffhq-normal"), ("/data/sd-2.1", "sd-2.1-normal")])
def test_default_folders_name_the_generator(generator, folder):
    arguments = dict.fromkeys(("teacher", "method", "rank", "alpha", "scope", "samples", "steps", "batch", "learning_rate",
                               "evaluate", "controls", "seed"))
    assert default_folder(Settings(generator, "normal", weights="pretrained", **arguments)) == Path("runs") / folder


@pytest.mark.parametrize("family", ["stylegan2-conditional", "stylegan-xl-conditional", "vqgan-conditional"])
def test_classes_decide_what_is_drawn_and_are_recorded(family, tmp_path):
    generator = FAMILIES[family][0]()
    probe = probes.fit(generator, out=str(tmp_path), classes=[2, 0], **{**SMALL, "steps": 8})
    record = json.loads((tmp_path / "probe.json").read_text())
    assert record["bank"]["classes"] == record["request"]["classes"] == [2, 0]
    state = generator.prepare(generator.sample(range(4), [2, 0, 2, 0]))
    assert torch.equal(probe.predict(range(4)).image, generator.image(state))
    assert torch.equal(probes.load(tmp_path, generator).predict([1], [1]).image,
                       generator.image(generator.prepare(generator.sample([1], [1]))))
    drawn = next(iter(probe.training_bank().state(slice(0, 4)).values()))
    seeds = range(record["bank"]["first_seed"], record["bank"]["first_seed"] + 4)
    wanted = next(iter(generator.prepare(generator.sample(seeds, [[2, 0][s % 2] for s in seeds])).values()))
    torch.testing.assert_close(drawn, wanted)
    assert torch.equal(probe.predict([1, 2], 1).image, probe.predict([1, 2], [1, 1]).image)
    for classes in ([3], [-1], [1.5], [], 3):
        with pytest.raises(ValueError, match=r"classes: expected (one label.* 0 … 2|whole numbers, got 1.5)"):
            probes.fit(generator, out=str(tmp_path / "bad"), classes=classes, **SMALL)


class Own(generators.Generator):
    """A user's generator: no prefix, labels as whole numbers, a word of its own on how it is fitted."""

    family, scopes, recommended = "own", ("all",), dict(learning_rate=0.003)

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        network = torch.nn.ModuleDict(dict(label=torch.nn.Embedding(3, 8), out=torch.nn.Linear(8, 3 * 16 * 16)))
        super().__init__("own", network, resolution=16, num_classes=3, world="scenes")

    def sample(self, seeds, classes=None):
        z = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return {"z": z, "c": torch.tensor([s % 3 for s in seeds] if classes is None else classes)}

    def forward(self, state):
        return torch.tanh(self.network["out"](state["z"] + self.network["label"](state["c"]))).view(-1, 3, 16, 16)

    def sites(self, scope="all"):
        return ["out"]

    def randomised(self, seed):
        return Own(seed + 1)


def test_a_generator_of_the_users_own(tmp_path):
    settings = {k: v for k, v in SMALL.items() if k != "steps"}
    probe = probes.fit(Own(), out=str(tmp_path), steps=12, controls=["latent", "crossed"], classes=[2, 1], **settings)
    request = probe.record["request"]
    assert (request["learning_rate"], request["samples"], request["classes"]) == (0.003, 24, [2, 1])
    bank = probe.training_bank()
    assert bank.state(slice(0, 2))["c"].dtype == torch.int64 and bank.state(slice(0, 2))["c"].tolist() == [2, 1]
    assert torch.equal(probes.load(tmp_path, Own()).predict([4]).map, probe.predict([4]).map)
    with pytest.raises(ValueError, match="no default for a generator that draws faces"):
        faces = Own()
        faces.world = "faces"
        probes.fit(faces, "albedo", out=str(tmp_path / "faces"))


@pytest.mark.parametrize(("change", "message"), [
    (dict(classes=[1]), "stylegan2-scenes@760k is unconditional"),
    (dict(intrinsic="shadng"), "did you mean 'shading'"),
    (dict(teacher="brightnes"), "did you mean 'brightness'"),
    (dict(method="lroa"), "did you mean 'lora'"),
    (dict(controls=["latant"]), "did you mean 'latent'"),
    (dict(generator="stylegan2-scene"), "did you mean 'stylegan2-scenes'"),
    (dict(teacher="retinex", intrinsic="normal"), "cannot label normal"),
    (dict(scope="affin"), "has no scope"),
    (dict(rank=0), "rank: expected at least 1"),
    (dict(steps=0), "steps: expected at least 1"),
    (dict(learning_rate=-1.0), "learning_rate"), (dict(alpha=0.0), "alpha: expected a positive number"),
    (dict(alpha=float("nan")), "alpha: expected a positive number"),
    (dict(evaluate=-1), "evaluate"),
    (dict(prompt="shading"), "prompt: stylegan2-scenes@760k reads no text; leave prompt out"),
])
def test_bad_input_names_the_argument(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        probes.fit(**{"generator": "stylegan2-scenes@760k", **SMALL, "out": str(tmp_path), **change})


@pytest.mark.parametrize("change", [dict(intrinsic="shadng"), dict(teacher="brightnes"), dict(against="brightnes"),
                                    dict(teacher="lables:maps"), dict(device="gpu"), dict(weights="trained")], ids=str)
def test_names_are_checked_before_a_generator_is_fetched(change, tmp_path, monkeypatch):
    monkeypatch.setattr("generators._catalog._locate", lambda *given: 1 / 0)
    with pytest.raises(ValueError, match=f"^{next(iter(change)).replace('against', 'teacher')}: "):
        probes.fit("sd-v1-5", **{**SMALL, "out": str(tmp_path), **change})


class Unasked(Brightness):
    version = "unasked"         # no bank of another test is its

    def label(self, image, intrinsic):
        raise AssertionError("something was labelled")


@pytest.mark.parametrize(("family", "change", "message"), [
    ("stable-diffusion", dict(prompt="roughness map"), "prompt: 'roughness' .* is no word"),
    ("stable-diffusion", dict(method="prompt", prompt="roughness"), "prompt: 'roughness' .* is no word"),
    ("stylegan2", dict(scope="affin"), "has no scope 'affin'"),
])
def test_what_cannot_be_fitted_is_known_before_anything_is_labelled(family, change, message, tmp_path):
    generator = FAMILIES[family][0]()
    small = {k: v for k, v in SMALL.items() if k not in ("steps", "rank")}
    with pytest.raises(ValueError, match=message):
        probes.fit(generator, out=str(tmp_path), **{**small, "teacher": Unasked(), **change})
    assert not adapters.names_on(generator)


def test_a_missing_tokenizer_is_known_before_anything_is_labelled(tmp_path):
    generator = FAMILIES["stable-diffusion"][0]()
    generator.network.config = replace(generator.network.config, vocabulary=None)
    with pytest.raises(ValueError, match="tokenizer: this checkpoint holds no tokenizer"):
        probes.fit(generator, out=str(tmp_path), **{**SMALL, "teacher": Unasked()})
    assert not adapters.names_on(generator)
    pixels = {k: v for k, v in SMALL.items() if k != "rank"}            # it sees the picture, and is told nothing
    probes.fit(generator, method="pixels", out=str(tmp_path), **{**pixels, "steps": 1, "evaluate": 0})


def test_bad_seeds(run):
    _, probe = run
    with pytest.raises(ValueError, match="seeds"):
        probe.predict([])
    with pytest.raises(ValueError, match="overlaps"):
        probe.evaluate(range(1_000_000, 1_000_005))

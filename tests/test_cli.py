"""The command line: same arguments as the API, YAML, one-line errors, every subcommand."""
import json

import numpy as np
import pytest
import tiny  # noqa: F401  (registers the teacher)
import yaml
from PIL import Image

import probes
from probes.cli import main
from probes.metrics import get_protocol

FIT = ["fit", "--generator", "stylegan2-scenes@760k", "--intrinsic", "albedo", "--teacher", "brightness", "--samples", "16",
       "--steps", "20", "--batch", "4", "--evaluate", "6", "--rank", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*FIT, "--out", str(folder)]) == 0
    return folder


def test_fit_prints_a_table_and_says_where(run, capsys, tmp_path):
    assert main([*FIT, "--out", str(tmp_path / "again"), "--controls", "latent"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("RMS", "probe", "latent", "trivial", "skill", "brightness", "run folder:"))


def test_yaml_is_the_same_request(run, tmp_path, capsys):
    request = json.loads((run / "probe.json").read_text())["request"]
    fields = {k: request[k] for k in ("generator", "intrinsic", "teacher", "samples", "steps", "batch", "evaluate", "rank")}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**fields, "out": str(run)}))
    assert main(["fit", "--config", str(config)]) == 0
    assert "this very run" in capsys.readouterr().out


def test_predict_and_evaluate(run, tmp_path, capsys):
    picture = tmp_path / "p.png"
    assert main(["predict", str(run), "--seeds", "3", "--first_seed", "40", "--output", str(picture)]) == 0
    values = np.load(picture.with_suffix(".npy"))
    assert values.shape == (3, 3, 64, 64) and values.dtype == np.float32 and Image.open(picture).width > 128
    assert main(["evaluate", str(run), "--seeds", "5", "--controls", "latent"]) == 0
    assert "n = 5" in " ".join(capsys.readouterr().out.split())


def test_a_probe_that_draws_is_scored_by_any_protocol(run, tmp_path, capsys):
    asked = ["evaluate", str(run), "--seeds", "5", "--controls", "[]", "--protocol", "image-si/1,image-similarity"]
    assert main([*asked, "--output", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "protocol image-si/1; n = 5" in out and "protocol image-similarity/1; n = 5" in out
    probe, protocol = probes.load(run), get_protocol("image-si/1")
    drawn = probe.predict(range(5))
    scores = protocol.score(drawn.map, probe.taught_by().label(drawn.image, "albedo"))
    told = json.loads((tmp_path / "image-si.json").read_text())
    assert told["primary"] == "si_rms" and told["metrics"]["si_rms"]["value"] == pytest.approx(float(scores["si_rms"].mean()),
                                                                                               rel=1e-4)
    assert (tmp_path / "image-similarity.csv").read_text().count("\n") == 6
    for more, said in ((["--protocol", "depth-metric"], "protocol: depth-metric/1 is for depth, not albedo"),
                       (["--protocol", "image-rms/9"], "expected image-rms/1, the version that this software has, got"),
                       (["--count", "4"], "count: without --data a probe is scored on seeds")):
        assert main(["evaluate", str(run), *more]) == 1
        assert said in capsys.readouterr().err
    assert main(["evaluate", "scenes", "--intrinsic", "normal"]) == 1
    assert "probes evaluate scenes --data scenes" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "word"), [("generators", "stylegan2-scenes"), ("intrinsics", "shading"),
                                            ("teachers", "retinex"), ("methods", "lora"), ("protocols", "image-rms/1")])
def test_lists(what, word, capsys):
    assert main(["list", what]) == 0
    assert word in capsys.readouterr().out


def test_list_of_one(capsys):
    assert main(["list", "generators", "stylegan-xl-ffhq-256", "stylegan2-scenes"]) == 0
    out = capsys.readouterr().out
    assert "models/ffhq256.pkl" in out and "embedded/stylegan2-scenes.safetensors" in out and "builds on StyleGAN3" in out
    assert main(["list", "methods", "lora"]) == 0
    assert "low-rank" in (out := capsys.readouterr().out) and "linear" not in out
    assert main(["list", "studies", "ranks"]) == 1
    assert "did you mean 'rank'" in capsys.readouterr().err


def test_convert_and_use(tmp_path, capsys):
    """An NVIDIA pickle becomes a native file, and either draws the same images by its path."""
    import make_pickles
    from test_checkpoints import TINY, random_state

    import generators

    source, target = tmp_path / "ffhq.pkl", tmp_path / "ffhq.safetensors"
    source.write_bytes(make_pickles.ada_pickle(random_state(TINY), TINY))
    assert main(["convert", str(source), str(target)]) == 0
    assert "stylegan2" in capsys.readouterr().out
    assert main(["convert", str(source), str(target)]) == 1
    assert "exists" in capsys.readouterr().err
    first, second = generators.load(source), generators.load(target)
    state = first.prepare(first.sample(range(2)))
    assert first.fingerprint == second.fingerprint and first.world == "photographs"
    assert (first.forward(state) - second.forward(state)).abs().max() == 0
    assert main(["convert", str(tmp_path / "none.pkl"), str(tmp_path / "out.safetensors")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err


def test_classes_from_the_command_line(tmp_path, capsys):
    from families import FAMILIES

    from generators.checkpoints import write_native

    drawn = FAMILIES["vqgan-conditional"][0]()
    path = write_native(tmp_path / "faces.safetensors", "vqgan", drawn.network.config.to_dict(), drawn.network.state_dict())
    fit = ["fit", "--generator", str(path), *FIT[3:], "--out", str(tmp_path / "run")]
    assert main([*fit, "--classes", "[1]"]) == 0
    assert json.loads((tmp_path / "run" / "probe.json").read_text())["request"]["classes"] == [1]
    assert main([*fit[:-1], str(tmp_path / "likely"), "--generator_options.top_k", "5"]) == 0
    assert json.loads((tmp_path / "likely" / "probe.json").read_text())["generator"]["options"]["top_k"] == 5
    assert main(["predict", str(tmp_path / "run"), "--classes", "[2]", "--output", str(tmp_path / "p.png")]) == 0
    assert main(["predict", str(tmp_path / "run"), "--classes", "[7]"]) == 1
    assert "0 … 2" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["fit", "--generator", "stylegan2-scene"], "did you mean 'stylegan2-scenes'"),
    (["fit", "--intrinsic", "normals"], "did you mean 'normal'"),
    (["predict", "nowhere"], "not a finished run folder"),
])
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error

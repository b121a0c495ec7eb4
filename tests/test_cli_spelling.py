"""The command line takes options as people write them."""
import pytest

import probes
from probes import cli
from probes.cli._spelling import spelled


@pytest.mark.parametrize(("written", "read"), [
    (["study", "rank", "--small"], ["study", "rank", "--small", "true"]),
    (["study", "--small", "rank", "--out", "a-b"], ["study", "rank", "--small", "true", "--out", "a-b"]),
    (["study", "rank", "--small", "False", "--plot-only"], ["study", "rank", "--small", "False", "--plot_only", "true"]),
    (["study", "rank", "--small=true"], ["study", "rank", "--small=true"]),
    (["fit", "--learning-rate=1e-3", "--report-to", "none"], ["fit", "--learning_rate=1e-3", "--report_to", "none"]),
    (["fit", "--generator-options.a-b", "c-d"], ["fit", "--generator_options.a-b", "c-d"]),
    (["predict", "run", "--", "--x-y", "--small"], ["predict", "run", "--", "--x-y", "--small"]),
    (["study", "rank", "--reuse", "a", "--small", "--reuse=b"], ["study", "rank", "--small", "true", '--reuse=["a", "b"]']),
    (["study", "--reuse", "[a, b]", "rank"], ["study", "rank", '--reuse=["a", "b"]']),
    (["predict", "run", "--formats", "exr", "a.png"], ["predict", "run", "a.png", '--formats=["exr"]']),
    (["predict", "run", "--formats", "[npy, exr]"], ["predict", "run", '--formats=["npy", "exr"]']),
    (["fit", "--controls", "latent,random"], ["fit", '--controls=["latent", "random"]']),
    (["fit", "--controls=[ latent, 'rgb' ]"], ["fit", '--controls=["latent", "rgb"]']),
    (["fit", "--controls", "[]"], ["fit", "--controls=[]"]),
    (["predict", "run", "--size", "64", "a.png", "--overwrite", "b.png", "--first-seed", "-1"],
     ["predict", "run", "a.png", "b.png", "--size", "64", "--overwrite", "true", "--first_seed", "-1"]),
    (["fit", "--seed", "1", "--config", "a.yaml"], ["fit", "--config=a.yaml", "--seed", "1"]),
    (["list", "data"], ["list", "data"]), (["--help"], ["--help"]), ([], [])],
    ids=str)
def test_one_spelling(written, read):
    assert spelled(written, {"study": cli.study, "fit": probes.fit, "predict": cli.predict, "list": cli.list_}) == read


def test_the_command_understands_them(monkeypatch):
    given = {}
    monkeypatch.setattr("probes.studies.study", lambda *a, **b: given.update(a=a, **b) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["study", "rank", "--small", "--only", "rank=2", "--plot-only"])
    assert given["a"][:3] == ("rank", None, True) and given["a"][5] == "rank=2" and given["a"][7] is True
    with pytest.raises(SystemExit):
        cli.main(["study", "rank", "--smaller"])


def test_one_format_needs_no_list(monkeypatch):
    given = []
    monkeypatch.setattr("probes._probe.load", lambda *a, **b: None)
    monkeypatch.setattr("probes.cli._runs._predict_photos", lambda *a: given.append(a))
    assert cli.main(["predict", "run", "a.png", "--formats", "exr"]) == 0
    assert cli.main(["predict", "run", "a.png", "--formats", "exr", "--formats", "npy"]) == 0
    assert [(a[1], a[3]) for a in given] == [(["a.png"], ["exr"]), (["a.png"], ["exr", "npy"])]

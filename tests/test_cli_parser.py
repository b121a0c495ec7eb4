"""What the command line says of arguments that it cannot read: one line, with what to type."""
import pytest

from probes.cli import main


@pytest.mark.parametrize(("typed", "said"), [
    ("fit --sampels 16", "probes fit: nothing is called --sampels; did you mean '--samples'"),
    ("fit --samples 1.5", "probes fit: samples: expected a whole number, got '1.5'"),
    ("fit --learning-rate fast", "probes fit: learning_rate: expected a number, got 'fast'"),
    ("fit --overwrite maybe", "probes fit: nothing was expected where 'maybe' stands"),
    ("list generator", "probes list: what: unknown name 'generator'; did you mean 'generators'?"),
    ("fti", "probes: command: unknown name 'fti'; did you mean 'fit'?"),
    ("evaluate", "probes: missing: source"),
    ("", "probes: expected"),
    ("fit --config nowhere.yaml", "nowhere.yaml")], ids=str)
def test_one_line_says_what_to_type(typed, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    err = capsys.readouterr().err
    assert ended.value.code == 2 and said in err and err.count("\n") == 1 and "--help` says what there is" in err


def test_a_key_of_a_file_is_named(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("sampls: 3\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "run.yaml")])
    assert "nothing is called sampls; did you mean 'samples'" in capsys.readouterr().err


def test_photographs_may_stand_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text("images: [a.png, b.png]\n")
    given = []
    monkeypatch.setattr("probes.labelling.label", lambda images, *others: given.append(images) or 1 / 0)
    for typed in ([], ["c.png"]):
        with pytest.raises(ZeroDivisionError):
            main(["label", "--config", str(tmp_path / "run.yaml"), *typed])
    assert given == [["a.png", "b.png"], "c.png"]


@pytest.mark.parametrize("before", [True, False])
def test_what_is_typed_stands_above_a_file(tmp_path, capsys, before):
    (tmp_path / "run.yaml").write_text("samples: 32\nintrinsic: albedo\n")
    typed, file = ["--samples", "16"], ["--config", str(tmp_path / "run.yaml")]
    with pytest.raises(SystemExit):
        main(["fit", *(typed + file if before else file + typed), "--print_config"])
    out = capsys.readouterr().out
    assert "samples: 16" in out and "intrinsic: albedo" in out

"""Rows of other folders are taken over where they are the same fits, and only there."""
from pathlib import Path

import pytest
from study_rows import TOY, Toy, comparable

from probes.studies import Cell, StudyError, _registry, _run, _stale, _work, grid, studies, study
from probes.studies._reuse import reused, sources


class Other(Toy):
    """Two of Toy's fits, whose defaults it does not say and which have further controls, and one of its own."""

    name, tags = "other", ("shape", "control_latent_low", "control_latent_high")

    def cells(self, small):
        about = dict(generator="stylegan2-scenes@760k", controls=["latent", "rgb", "shuffled"])
        return [Cell(about, dict(shape="round")), *(Cell(dict(about, rank=r), dict(shape="flat")) for r in (2, 16))]


class Whole(Toy):
    """Toy's fits with intervals of a control."""

    name, tags = "whole", ("colour", "control_latent_low", "control_latent_high")


OTHER, WHOLE = Other(), Whole()


@pytest.fixture
def fitted(monkeypatch):
    """The ranks that were fitted, by a fit that takes no time."""
    ranks = []

    def score(cell, place, device):
        Path(place).mkdir(parents=True)
        ranks.append(cell.fit.get("rank", 8))
        names = cell.fit.get("controls", ("latent", "rgb"))
        return dict(family="stylegan2", weights="pretrained", skill=ranks[-1] / 100, skill_low=0.0, skill_high=1.0,
                    rank=ranks[-1], seed=cell.fit["seed"], seconds=0.5, fingerprint="abc",
                    **{f"control_{n}{end}": 0.1 for n in names for end in ("", "_low", "_high")})

    monkeypatch.setattr(_work, "score", score)
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: "abc")
    monkeypatch.setattr(_registry, "_STUDIES", {**studies(), "toy": TOY, "other": OTHER, "whole": WHOLE})
    return ranks


def test_the_same_fits_are_not_run_again(fitted, tmp_path, capsys):
    theirs = {r["rank"]: r for r in study(OTHER, tmp_path / "other", seeds=2, quiet=True).rows if r["seed"] == 1}
    assert fitted == [8, 2, 16] * 2
    done = study(TOY, tmp_path / "toy", reuse=tmp_path / "other")
    assert fitted[6:] == [1, 3, 4] * 2 and done.missing == 0 and len(done.rows) == 8
    assert f"{tmp_path / 'other'}: 2 rows taken over" in capsys.readouterr().out
    mine = next(r for r in done.rows if (r["rank"], r["seed"]) == (2, 1))
    assert mine["study"] == "toy" and mine["colour"] == "red" and mine["key"] == next(
        c.key for c in grid(TOY) if (c.fit["rank"], c.fit["seed"]) == (2, 1))
    assert mine["skill"] == theirs[2]["skill"] and mine["seconds"] == 0.5 and mine["frechet"] == pytest.approx(16.5093)
    assert mine["control_rgb"] == 0.1 and mine["control_shuffled"] is None          # not asked for
    assert [comparable(r) for r in study(TOY, tmp_path / "toy", reuse=tmp_path / "other", quiet=True).rows] == [
        comparable(r) for r in done.rows]
    assert len(fitted) == 12


def test_a_default_that_is_said_is_the_same_fit(fitted, tmp_path):
    study(OTHER, tmp_path / "other", only="shape=round", seeds=1, quiet=True)
    cells = [Cell(dict(generator="stylegan2-scenes@760k", intrinsic="normal", scope="auto", rank=rank, seed=0, **more))
             for rank in (None, 8, 9) for more in ({}, dict(steps=5), dict(alpha=2.0))]
    taken = reused(sources([tmp_path / "other"], TOY), TOY, cells)[tmp_path / "other"]
    assert [row["key"] for row in taken] == [cells[0].key, cells[3].key]


def test_folders_of_one_study_are_joined(fitted, tmp_path):
    study(TOY, tmp_path / "a", only="colour=red", quiet=True)
    study(TOY, tmp_path / "b", only="colour=blue", quiet=True)
    done = study(TOY, tmp_path / "whole", reuse=[tmp_path / "a", tmp_path / "b"], quiet=True)
    assert len(fitted) == 8 and len(done.rows) == 8 and done.verdict.kind == "reproduced"


def test_what_a_row_has_not_is_not_taken_from_it(fitted, tmp_path, monkeypatch):
    study(TOY, tmp_path / "toy", only="colour=red", seeds=1, quiet=True)
    assert fitted == [1, 2]
    study(WHOLE, tmp_path / "whole", only="colour=red", seeds=1, reuse=tmp_path / "toy", quiet=True)
    assert fitted == [1, 2, 1, 2]                       # Toy's rows have no column for the intervals of its controls
    study(OTHER, tmp_path / "other", seeds=1, reuse=tmp_path / "whole", quiet=True)
    assert fitted[4:] == [8, 2, 16]                     # and none was made for shuffled
    cells = grid(WHOLE, only="colour=red", seeds=1)

    def ranks():
        return [row["rank"] for row in reused(sources([tmp_path / "other"], WHOLE), WHOLE, cells)[tmp_path / "other"]]

    assert ranks() == [2]
    monkeypatch.setattr(Whole, "isolated", True)
    assert ranks() == []                                # its peak memory was not its own
    monkeypatch.setattr(Other, "isolated", True)
    assert ranks() == [2]


def test_rows_of_another_generator_and_failed_ones_are_left(fitted, tmp_path, monkeypatch, capsys):
    study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: "def")
    with pytest.raises(StudyError, match="fitted with another generator"):
        study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    study(TOY, tmp_path / "toy", only="colour=red", seeds=1, reuse=tmp_path / "other")
    assert fitted[3:] == [1, 2] and "0 rows taken over" in capsys.readouterr().out
    study(TOY, tmp_path / "new", only="colour=red", seeds=1, quiet=True)
    text = (tmp_path / "new" / "rows.csv").read_text()
    (tmp_path / "new" / "rows.csv").write_text(text.replace(",abc,", ",def,"))
    study(TOY, tmp_path / "toy2", only="colour=red", seeds=1, reuse=[tmp_path / "other", tmp_path / "new"])
    assert len(fitted) == 7 and "new: 2 rows taken over" in capsys.readouterr().out         # an old one does not stand before
    text = (tmp_path / "new" / "rows.csv").read_text()
    (tmp_path / "new" / "rows.csv").write_text(text.replace(",ok,", ",failed,"))
    study(TOY, tmp_path / "toy3", only="colour=red", seeds=1, reuse=tmp_path / "new", quiet=True)
    assert fitted[7:] == [1, 2]


@pytest.mark.parametrize("options", [dict(data="photos"), dict(generator_options={"conv_in": "ip2p/unet.safetensors"}),
                                     dict(teacher="maps/")], ids=str)
def test_fits_that_name_files_are_run_again(fitted, tmp_path, options):
    """The same name may be other photographs in another place."""
    study(TOY, tmp_path / "a", only="colour=red", seeds=1, options=options, quiet=True)
    study(TOY, tmp_path / "b", only="colour=red", seeds=1, options=options, reuse=tmp_path / "a", quiet=True)
    assert fitted == [1, 2, 1, 2]


def test_folders_that_cannot_be_reused(fitted, tmp_path, monkeypatch):
    def refused(match, **more):
        with pytest.raises(StudyError, match=match):
            study(TOY, tmp_path / "toy", quiet=True, **more)
        assert not (tmp_path / "toy").exists()

    refused("reuse: .*nowhere holds no study .*beside its rows.csv", reuse=tmp_path / "nowhere")
    study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    with pytest.raises(StudyError, match="reuse: plot_only takes no rows over"):
        study(TOY, tmp_path / "other", reuse=tmp_path / "other", plot_only=True, quiet=True)
    text = (tmp_path / "other" / "rows.csv").read_text()
    (tmp_path / "other" / "rows.csv").write_text(text + "a,b\n")
    refused("reuse: line 5 of .*rows.csv is damaged; leave it out", reuse=tmp_path / "other")
    (tmp_path / "other" / "rows.csv").write_text(text)
    monkeypatch.setattr(Other, "version", 2)
    refused("reuse: .*other was made by version 1 of other, this software has version 2", reuse=tmp_path / "other")
    monkeypatch.setattr(_registry, "_STUDIES", {})
    refused("reuse: .*other holds the study 'other', which nobody registered here", reuse=[tmp_path / "other"])


def test_the_command_takes_several_folders(monkeypatch, tmp_path):
    from probes import cli

    given = {}
    monkeypatch.setattr("probes.studies.study", lambda *a, **b: given.update(b) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["study", "rank", "--reuse", "a", "--reuse", "b"])
    assert given == {"reuse": ["a", "b"]}
    (tmp_path / "study.yaml").write_text("name: rank\nreuse: [c, d]\nplot_only: true\n")
    for more, folders in ([], ["c", "d"]), (["--reuse", "e,f"], ["e,f"]), (["--reuse", '["g", "h"]'], ["g", "h"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(["study", "rank", "--config", str(tmp_path / "study.yaml"), *more])
        assert given["reuse"] == folders


def test_random_is_a_part_of_controls(monkeypatch):
    """The two studies ask for the same fits, so that the one may be made of the other's rows."""
    controls = {cell.measured for cell in _run.grid(studies()["controls"])}
    assert all(cell.measured in controls for cell in _run.grid(studies()["random"]))

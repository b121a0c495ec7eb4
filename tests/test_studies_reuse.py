"""Rows of other folders are taken over where they are the same fits, and only there."""
from pathlib import Path

import pytest
from study_rows import TOY, Toy, comparable

from probes.studies import Cell, StudyError, _registry, _run, _stale, _work, grid, studies, study
from probes.studies._reuse import reused


class Other(Toy):
    """Two of Toy's fits under another name, whose defaults it does not say and which have further controls, and one of its own."""

    name, tags = "other", ("shape", "control_latent_low", "control_latent_high")

    def cells(self, small):
        about = dict(generator="stylegan2-scenes", controls=["latent", "rgb", "shuffled"])
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
    cells = [Cell(dict(generator="stylegan2-scenes", intrinsic="normal", scope="auto", rank=rank, seed=0, **more))
             for rank in (None, 8, 9) for more in ({}, dict(steps=5), dict(alpha=2.0))]
    taken = reused([tmp_path / "other"], TOY, cells)[tmp_path / "other"]
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
        return [row["rank"] for row in reused([tmp_path / "other"], WHOLE, cells)[tmp_path / "other"]]

    assert ranks() == [2]
    monkeypatch.setattr(Whole, "isolated", True)
    assert ranks() == []                                # its peak memory was not its own
    monkeypatch.setattr(Other, "isolated", True)
    assert ranks() == [2]


def test_rows_of_another_generator_and_failed_ones_are_left(fitted, tmp_path, monkeypatch, capsys):
    study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: "def")
    with pytest.raises(StudyError, match="fitted on another generator"):
        study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    study(TOY, tmp_path / "toy", only="colour=red", seeds=1, reuse=tmp_path / "other")
    assert fitted[3:] == [1, 2] and "0 rows taken over, 1 left since their generators are others now" in capsys.readouterr().out
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: "abc")
    text = (tmp_path / "other" / "rows.csv").read_text()
    (tmp_path / "other" / "rows.csv").write_text(text.replace(",ok,", ",failed,"))
    study(TOY, tmp_path / "toy2", only="colour=red", seeds=1, reuse=tmp_path / "other", quiet=True)
    assert fitted[5:] == [1, 2]


def test_folders_that_cannot_be_reused(fitted, tmp_path, monkeypatch):
    with pytest.raises(StudyError, match="reuse: .*nowhere holds no study .*beside its rows.csv"):
        study(TOY, tmp_path / "toy", reuse=tmp_path / "nowhere", quiet=True)
    study(OTHER, tmp_path / "other", seeds=1, quiet=True)
    with pytest.raises(StudyError, match="reuse: plot_only takes no rows over"):
        study(TOY, tmp_path / "other", reuse=tmp_path / "other", plot_only=True, quiet=True)
    monkeypatch.setattr(Other, "version", 2)
    with pytest.raises(StudyError, match="reuse: .*other was made by version 1 of other, this software has version 2"):
        study(TOY, tmp_path / "toy", reuse=tmp_path / "other", quiet=True)


def test_random_is_a_part_of_controls(monkeypatch):
    """The two studies ask for the same fits, so that the one may be made of the other's rows."""
    controls = {cell.measured for cell in _run.grid(studies()["controls"])}
    assert all(cell.measured in controls for cell in _run.grid(studies()["random"]))

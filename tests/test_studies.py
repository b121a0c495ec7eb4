"""Studies: only what is missing runs, a failed fit is a row, and folders, arguments and grids that cannot be are refused."""
import json
from pathlib import Path

import pytest
from study_rows import TOY, Toy, comparable, lines

from probes import DivergedError, OutputError, frechet
from probes.studies import Cell, StudyError, Verdict, _work, get_study, grid, studies, study
from probes.studies._engines import ENGINES, Engine
from probes.studies._folder import Folder, columns, open_folder
from probes.studies._page import count, table
from probes.studies._progress import Progress
from probes.teachers import get_teacher


@pytest.fixture
def asked(monkeypatch):
    """Which ranks and seeds were fitted, by a fit that takes no time; `asked.bad` fail."""
    class Asked(list):
        bad = {}

    calls = Asked()

    def score(cell, place, device):
        Path(place).mkdir(parents=True)
        rank, seed = cell.fit["rank"], cell.fit["seed"]
        calls.append((rank, seed))
        if error := calls.bad.get((rank, seed)):
            raise error
        return dict(family="stylegan2", weights="pretrained", skill=rank / 10, skill_low=0.0, skill_high=1.0,
                    rank=rank, seed=seed, seconds=0.5)

    monkeypatch.setattr(_work, "score", score)
    return calls


def test_every_cell_is_one_row_and_only_what_is_missing_runs(asked, tmp_path):
    done = study(TOY, tmp_path, only="colour=red", quiet=True)
    assert asked == [(1, 0), (2, 0), (1, 1), (2, 1)] and done.missing == 0 and not done.failed
    first = lines(tmp_path)
    done = study(TOY, tmp_path, quiet=True)
    assert sorted(asked[4:]) == [(3, 0), (3, 1), (4, 0), (4, 1)] and len(done.rows) == 8
    assert lines(tmp_path)[:5] == first and len({r["key"] for r in done.rows}) == 8
    assert not (tmp_path / "fits").exists()
    row = next(r for r in done.rows if (r["rank"], r["seed"]) == (4, 1))
    assert row["skill"] == 0.4 and row["colour"] == "blue" and row["status"] == "ok" and row["level"] == "760k"
    assert row["frechet"] == pytest.approx(16.5093) and row["frechet_samples"] == 2500 and row["wall_seconds"] >= 0
    assert (tmp_path / "plot.png").read_bytes() == b"plot of 8"
    page = (tmp_path / "README.md").read_text()
    assert "**Verdict here: reproduced.** 8 rows." in page and "| 4 | 0.40 [0.00, 1.00] |" in page
    assert json.loads((tmp_path / "study.json").read_text())["version"] == 1


def test_seeds_small_and_keep(asked, tmp_path):
    study(TOY, tmp_path / "a", small=True, seeds=3, keep=True, quiet=True)
    assert sorted(asked) == [(r, s) for r in (1, 2) for s in range(3)]
    assert len(list((tmp_path / "a" / "fits").iterdir())) == 6
    with pytest.raises(StudyError, match="seeds: expected at least 1, got 0"):
        study(TOY, tmp_path / "b", seeds=0)


def test_a_torn_last_line_is_dropped_and_its_fit_runs_again(asked, tmp_path):
    whole = study(TOY, tmp_path, small=True, quiet=True).rows
    text = (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(text[:-7])
    again = study(TOY, tmp_path, small=True, quiet=True).rows
    assert len(asked) == 3 and [comparable(r) for r in again] == [comparable(r) for r in whole]
    (tmp_path / "rows.csv").write_bytes(text[:5])               # within the header
    assert len(study(TOY, tmp_path, small=True, quiet=True).rows) == 2 and len(asked) == 5
    damaged = lines(tmp_path)
    (tmp_path / "rows.csv").write_bytes(b"".join([damaged[0], b"a,b\n", damaged[2]]))
    with pytest.raises(StudyError, match="line 2 of .*rows.csv is damaged; remove it"):
        study(TOY, tmp_path, small=True, quiet=True)
    (tmp_path / "rows.csv").write_bytes(b"".join([*damaged[:3], damaged[1]]))
    with pytest.raises(StudyError, match="lines 2 and 4 of .*rows.csv are of the same fit; remove one"):
        study(TOY, tmp_path, small=True, quiet=True)


def test_a_failing_cell_is_a_row_and_is_retried_on_request(asked, tmp_path):
    asked.bad = {(2, 0): DivergedError("the loss is nan,\nat step 3")}
    done = study(TOY, tmp_path, only="colour=red", seeds=1, quiet=True)
    assert len(done.rows) == 2 and [r["failure"] for r in done.failed] == ["DivergedError: the loss is nan, at step 3"]
    assert done.failed[0]["rank"] == 2 and done.failed[0]["skill"] is None and done.failed[0]["frechet"] is None
    assert "## Failed" in (tmp_path / "README.md").read_text() and "plot of 1" in (tmp_path / "plot.png").read_text()
    study(TOY, tmp_path, only="colour=red", seeds=1, quiet=True)
    assert len(asked) == 2
    asked.bad = {}
    done = study(TOY, tmp_path, only="colour=red", seeds=1, retry=True, quiet=True)
    assert asked[2:] == [(2, 0)] and not done.failed and len(done.rows) == 2
    assert "## Failed" not in (tmp_path / "README.md").read_text()


def test_an_incomplete_or_small_grid_reproduces_nothing(asked, tmp_path, monkeypatch):
    done = study(TOY, tmp_path / "a", only="colour=red", quiet=True)
    assert done.verdict == Verdict("not testable here", "(4 of 8 cells) the rule holds so far, and needs every cell of the "
                                   "grid: 4 rows.")
    page = (tmp_path / "a" / "README.md").read_text()
    assert "**Verdict here: not testable here.** (4 of 8 cells)" in page
    assert "`probes study toy --only colour=red` (version 1); 4 of 8 cells; 4 fits" in page
    small = study(TOY, tmp_path / "b", small=True, options=dict(steps=5), quiet=True)
    assert small.verdict.kind == "not testable here" and "(2 of 2 cells; small)" in small.verdict.reason
    assert """`probes study toy --small true --options '{"steps": 5}'`""" in (tmp_path / "b" / "README.md").read_text()
    assert study(TOY, tmp_path / "a", quiet=True).verdict.kind == "reproduced"
    asked.bad = {(4, 1): ValueError("no")}
    failed = study(TOY, tmp_path / "c", quiet=True)
    assert failed.verdict.kind == "not testable here" and "(7 of 8 cells)" in failed.verdict.reason
    monkeypatch.setattr(Toy, "verdict", lambda self, rows: Verdict("not reproduced", "no."))
    assert study(TOY, tmp_path / "c", quiet=True).verdict == Verdict("not reproduced", "(7 of 8 cells) no.")
    monkeypatch.setattr(Toy, "as_a_whole", True)
    assert study(TOY, tmp_path / "c", quiet=True).verdict.kind == "not testable here"


def test_what_cannot_begin_claims_no_folder(asked, tmp_path, monkeypatch):
    def missing(name):
        raise frechet.DetectorError("detector: no weights")

    monkeypatch.setattr(frechet, "get_detector", missing)
    with pytest.raises(frechet.DetectorError, match="no weights"):
        study(TOY, tmp_path / "a", detector="inception", quiet=True)
    with pytest.raises(ValueError, match="options: unknown name 'stepz'; did you mean 'steps'"):
        study(TOY, tmp_path / "a", options=dict(stepz=5), quiet=True)
    assert not (tmp_path / "a").exists() and not asked
    asked.bad = {(r, 0): ValueError("no") for r in (1, 2)}
    study(TOY, tmp_path / "a", small=True, quiet=True)
    assert not (tmp_path / "a" / "plot.png").exists()


def test_a_fit_whose_process_is_lost_costs_no_other(asked, tmp_path):
    class Losing(Engine):
        def run(self, cells, work):
            for cell in cells:
                yield work.failed(cell, RuntimeError("its process was killed")) if cell.fit["rank"] == 1 else work(cell)

    done = study(TOY, tmp_path, small=True, engine=Losing())
    assert [r["status"] for r in done.rows] == ["failed", "ok"] and "its process was killed" in done.rows[0]["failure"]


def test_one_seed_reproduces_nothing(asked, tmp_path):
    done = study(TOY, tmp_path, seeds=1, quiet=True)
    assert done.missing == 0 and done.verdict.kind == "not testable here" and "(4 of 8 cells)" in done.verdict.reason
    assert study(TOY, tmp_path, seeds=3, quiet=True).verdict.kind == "reproduced"


def test_a_crossed_row_is_of_the_trained_generator_too(monkeypatch):
    from probes.studies import _stale

    cell = Cell(dict(generator="a", intrinsic="normal", generator_options=dict(steps=5, mode="multi")), sampled_by=("steps",))
    loaded = []
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: loaded.append((name, options)) or "new")
    rows = [dict(key=cell.key, status="ok", fingerprint="old", weights=w) for w in ("pretrained", "crossed:1")]
    assert all(_stale.stale([row], [cell]) == {cell.key: ("generator a", ("old", "new"))} for row in rows)
    assert loaded == [("a", dict(mode="multi", weights="pretrained")), ("a", dict(mode="multi", weights="crossed:1"))]


def test_rows_of_a_generator_that_is_another_now_are_refused(asked, tmp_path, monkeypatch):
    from probes.studies import _stale

    fits = _work.score
    monkeypatch.setattr(_work, "score", lambda *a: {**fits(*a), "fingerprint": "a" * 64})
    now = ["a" * 64]
    monkeypatch.setattr(_stale, "_fingerprint", lambda name, options: now[0])
    for _ in range(2):
        study(TOY, tmp_path, small=True, quiet=True)
    now[0] = None                                       # cannot be loaded now: the rows are all there is
    study(TOY, tmp_path, small=True, quiet=True)
    assert len(asked) == 2
    now[0] = "b" * 64
    with pytest.raises(StudyError, match="2 rows .* another generator .*aaaaaaaaaaaa then, bbbbbbbbbbbb now.*--retry true"):
        study(TOY, tmp_path, small=True, quiet=True)
    study(TOY, tmp_path, small=True, retry=True, quiet=True)
    assert len(asked) == 4


def test_rows_of_a_teacher_that_is_another_now_are_refused(asked, tmp_path, monkeypatch):
    """A fit with the new teacher beside one with the old would be compared as if only the rank were another."""
    fits, scenes = _work.score, get_teacher("scenes").fingerprint
    monkeypatch.setattr(_work, "score", lambda *a: {**fits(*a), "teacher": "scenes", "teacher_fingerprint": scenes})
    for _ in range(2):
        done = study(TOY, tmp_path / "a", small=True, quiet=True)
    assert len(asked) == 2 and {row["teacher_fingerprint"] for row in done.rows} == {scenes}
    monkeypatch.setattr(type(get_teacher("scenes")), "fingerprint", "f" * 64)
    with pytest.raises(StudyError, match=f"2 rows .* another teacher scenes .*{scenes[:12]} then, ffffffffffff now"):
        study(TOY, tmp_path / "a", small=True, quiet=True)
    study(TOY, tmp_path / "a", small=True, retry=True, quiet=True)
    assert len(asked) == 4


def test_a_full_disk_stops_the_study_and_keeps_its_rows(asked, tmp_path):
    asked.bad = {(2, 0): OutputError(28, "No space left on device", "x")}
    with pytest.raises(OutputError, match="free some space"):
        study(TOY, tmp_path, small=True, quiet=True)
    assert len(lines(tmp_path)) == 2
    asked.bad = {}
    assert len(study(TOY, tmp_path, small=True, quiet=True).rows) == 2 and asked[-1] == (2, 0)


def test_folders_of_another_study_version_or_request_are_refused(asked, tmp_path, monkeypatch):
    study(TOY, tmp_path, small=True, quiet=True)
    before = (tmp_path / "rows.csv").read_bytes()
    for change, words in ((dict(small=False), "another small .True then, False now."),
                          (dict(small=True, options={"steps": 5}), "another options"),
                          (dict(small=True, detector="scenes"), "another detector")):
        with pytest.raises(StudyError, match=words):
            study(TOY, tmp_path, quiet=True, **change)
    with pytest.raises(StudyError, match="holds the study 'toy', not 'rank'"):
        study("rank", tmp_path, small=True, quiet=True)
    monkeypatch.setattr(Toy, "version", 2)
    with pytest.raises(StudyError, match="made by version 1 of toy, this software has version 2"):
        study(TOY, tmp_path, small=True, quiet=True)
    assert (tmp_path / "rows.csv").read_bytes() == before
    (tmp_path / "study.json").write_text("[1]")
    with pytest.raises(StudyError, match="is no study's"):
        study(TOY, tmp_path, small=True, quiet=True)
    (tmp_path / "study.json").unlink()
    with pytest.raises(StudyError, match="no study.json"):
        study(TOY, tmp_path, small=True, quiet=True)


def test_bad_input_is_named(asked, tmp_path):
    for only, words in (("rank=9", r"none of the 8 cells has 'rank=9'; it knows rank=1\|2\|3\|4; seed=0\|1; colour="),
                        ("rank=1,rank=9", "none of the 8 cells has 'rank=9'"), ("rank=1,colour=green", "none of the 8 cells"),
                        ("rank=1,colour=blue", "none of the 8 cells of toy has 'rank=1,colour=blue'"),
                        ("rnk=1", "did you mean 'rank'"), ("rank", "expected NAME=VALUE"), ("", "expected NAME=VALUE, got ''")):
        with pytest.raises(ValueError, match=words):
            study(TOY, tmp_path, only=only)
    with pytest.raises(ValueError, match="did you mean 'teacher-truth'"):
        study("teacher-truht", tmp_path)
    with pytest.raises(ValueError, match="engine: unknown name 'rai'"):
        study(TOY, tmp_path, engine="rai")
    with pytest.raises(ValueError, match="address: .* the engine is sequential"):
        study(TOY, tmp_path, address="10.0.0.1:6379")
    with pytest.raises(StudyError, match="engine_options: the engine is sequential and has none, got cpus"):
        study(TOY, tmp_path, engine_options=dict(cpus=2))
    with pytest.raises(StudyError, match="options: out, seed of a fit is the study's own"):
        study(TOY, tmp_path, options=dict(out="x", seed=1))
    with pytest.raises(StudyError, match="no rows yet"):
        study(TOY, tmp_path, plot_only=True)
    with pytest.raises(StudyError, match="asks for the same fit twice"):
        study(TOY, tmp_path, options=dict(rank=5))
    for name, options in (("controls", dict(method="linear")), ("steps", dict(generator_options=dict(guidance=3.0))),
                          ("methods", dict(method_options=dict(strength=0.5)))):
        with pytest.raises(StudyError, match="would make one fit of what .* tells apart|asks for the same fit twice"):
            grid(get_study(name), options=options)
    assert grid(get_study("controls"), options=dict(steps=500, samples=64, controls=[]))
    with pytest.raises(StudyError, match="options: expected numbers, words, lists and dictionaries"):
        study(TOY, tmp_path, options=dict(prompt={1, 2}))
    with pytest.raises(StudyError, match="toy has no cells in its small grid"):
        grid(type("Empty", (Toy,), dict(cells=lambda self, small: []))(), True)
    with pytest.raises(ValueError, match="detector: unknown name 'incption'; did you mean 'inception'"):
        study(TOY, tmp_path / "new", detector="incption")
    assert not asked and not (tmp_path / "study.json").exists()


def test_only_adds_up_within_a_name_and_narrows_between_names():
    def ranks(only):
        return [c.fit["rank"] for c in grid(TOY, only=only, seeds=1)]

    assert ranks("rank=1,rank=4") == [1, 4] and ranks("colour=blue,rank=4,rank=1") == [4] and ranks(["rank=2", "seed=0"]) == [2]


def test_keys_are_of_what_is_asked_for():
    a, b = Cell(dict(rank=1, steps=5), dict(x=1)), Cell(dict(steps=5, rank=1), dict(x=1))
    assert a.key == b.key and len(a.key) == 64 and a.key != Cell(dict(rank=1, steps=5), dict(x=2)).key != a.at_seed(0).key
    assert Cell(dict(weights="random")).at_seed(3).fit == dict(weights="random:3", seed=3)
    mode = Cell(dict(generator_options=dict(mode="multi", steps=5)))
    merged = mode.with_options(dict(generator_options=dict(steps=2), rank=1))
    assert merged.fit == dict(generator_options=dict(mode="multi", steps=2), rank=1)
    assert Cell(dict(method="prompt")).with_options(dict(steps=5, samples=9)).fit == dict(method="prompt", samples=9)
    asked = grid(get_study("methods"), options=dict(steps=5))
    assert {(c.fit["method"] in ("prompt", "sdedit"), c.fit.get("steps")) for c in asked} == {(True, None), (False, 5)}


def test_plot_only_runs_nothing(asked, tmp_path):
    study(TOY, tmp_path, small=True, quiet=True)
    (tmp_path / "plot.png").unlink()
    done = study(TOY, tmp_path, small=True, seeds=2, plot_only=True, quiet=True)
    assert len(asked) == 2 and (tmp_path / "plot.png").exists() and done.missing == 2


def test_plot_only_takes_what_the_folder_was_begun_with(asked, tmp_path):
    study(TOY, tmp_path, small=True, options=dict(steps=5), quiet=True)
    before = (tmp_path / "README.md").read_text()
    assert study(TOY, tmp_path, plot_only=True, quiet=True).missing == 0
    assert (tmp_path / "README.md").read_text() == before and "--small true --options" in before
    with pytest.raises(StudyError, match="begun with another options"):
        study(TOY, tmp_path, options=dict(steps=6), plot_only=True, quiet=True)


def test_an_engine_may_give_rows_in_any_order_and_twice(asked, tmp_path):
    class Backwards(Engine):
        def run(self, cells, work):
            for cell in reversed(cells):
                yield from [work(cell)] * 2

    done = study(TOY, tmp_path, engine=Backwards(), quiet=True)
    straight = study(TOY, tmp_path / "straight", quiet=True)
    assert len(done.rows) == 8
    order = {r["key"]: comparable(r) for r in done.rows}
    assert order == {r["key"]: comparable(r) for r in straight.rows}
    for name in ("README.md", "plot.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert set(ENGINES) >= {"sequential", "ray"}


def test_values_survive_the_file(tmp_path):
    folder = open_folder(tmp_path, TOY, {})
    row = {**dict.fromkeys(columns(TOY)), "key": "0" * 64, "status": "failed", "failure": 'a, "b"\nc', "skill": 0.1 + 0.2,
           "rank": 8, "colour": "1e5x", "versions": "3"}
    folder.append(row)
    folder.append({**row, "key": "1" * 64, "failure": None})
    back = Folder(tmp_path, TOY).rows()
    assert back[0] == {**row, "failure": 'a, "b" c'} and back[1]["failure"] is None and back[1]["versions"] == "3"


def test_time_left_is_of_fits_alike():
    cells = [c.at_seed(0) for c in TOY.cells(False)] + [Cell(dict(generator="sd-scenes", method="full"))]
    about = dict(key="a", generator="stylegan2-scenes@16k", method="lora", status="ok")
    rows = [dict(about, wall_seconds=s) for s in (10.0, 12.0, 90.0)]
    now = [0.0]
    progress = Progress("toy", cells, 8, rows, quiet=True, clock=lambda: now[0])
    assert progress.left == pytest.approx(5 * 12)               # of the last nothing alike is known: the median of all
    now[0] = 100.0
    progress.done(dict(key=cells[-1].key, generator="sd-scenes", method="full", wall_seconds=100.0, status="ok"))
    assert progress.left == pytest.approx(4 * 12) and progress.note == "48 s left"
    progress.done(dict(key=cells[0].key, generator="stylegan2-scenes", method="lora", wall_seconds=1.0, status="failed"))
    assert progress.note == "36 s left · 1 failed" and Progress("toy", cells, 8, []).left is None


def test_time_left_is_shared_among_fits_that_run_at_once():
    cells, now = [c.at_seed(0) for c in TOY.cells(False)], [0.0]
    progress = Progress("toy", cells, 8, [], quiet=True, clock=lambda: now[0])
    now[0] = 10.0
    for cell in cells[:3]:                                      # three of ten seconds each in ten seconds
        progress.done(dict(key=cell.key, generator="stylegan2-scenes", method="lora", wall_seconds=10.0, status="ok"))
    assert progress.left == pytest.approx(10 * (len(cells) - 3) / 3)


def test_grids_are_whole():
    assert set(studies()) >= {"fid", "random", "rank", "labels", "sites", "methods", "steps", "teacher-truth"}
    fid = grid(get_study("fid"))
    assert len({c.fit["generator"] for c in fid}) >= 12 and len(fid) % (4 * 3) == 0
    assert {c.fit["rank"] for c in grid(get_study("rank"))} == {1, 2, 4, 8, 16, 32, 64}
    assert {c.fit["samples"] for c in grid(get_study("labels"))} >= {50, 250, 16000}
    assert get_study("methods").isolated
    for one in studies().values():
        small = grid(one, True)
        assert 3 <= len(small) <= 8 and all(c.fit["steps"] <= 150 for c in small), one.name
        assert not set(columns(one)[:4]) & set(one.tags) and len(columns(one)) == len(set(columns(one)))


def test_numbers_as_people_read_them():
    assert [count(v) for v in (None, 2, 25600, 1127535)] == ["–", "2", "25.6k", "1.13M"]
    assert table(["a"], [(-0.5,), ("x|y",), (None,)]).splitlines()[2:] == ["| −0.50 |", "| x\\|y |", "| – |"]


def test_the_command_line(asked, tmp_path, capsys, monkeypatch):
    from jsonargparse import ArgumentParser

    from probes.cli._study import study as command
    from probes.studies import _registry

    monkeypatch.setitem(_registry._STUDIES, "toy", TOY)
    parser = ArgumentParser()
    parser.add_function_arguments(command, as_group=False, as_positional=True)
    asked.bad = {(2, 0): ValueError("no")}
    for arguments, said in ((["--only", "rank=1,rank=2", "--options", '{"steps": 7}'],
                             ["1 fits, 1 failed", "(1 of 8 cells)", "1 rows."]),
                            (["--options", "{\"steps\": 8}", "--plot_only", "true"], None)):
        parsed = parser.parse_args(["toy", "--out", str(tmp_path), "--seeds", "1", *arguments])
        if said is None:
            with pytest.raises(StudyError, match="another options"):
                command(**parsed.as_dict())
        else:
            with pytest.raises(SystemExit) as ended:        # something failed
                command(**parsed.as_dict())
            out = capsys.readouterr().out
            assert ended.value.code == 1 and "README.md, plot.png, rows.csv" in out
            assert all(words in out for words in said) and f"{tmp_path}/README.md" in out
    assert asked == [(1, 0), (2, 0)]

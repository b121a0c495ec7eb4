"""The page of findings: it says what the study folders say, and calls nothing reproduced whose whole grid is not."""
import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from study_rows import row

from probes._run_folder import claimed
from probes.cli import main
from probes.studies import StudyError, findings, get_study, grid, register_study, studies, study
from probes.studies._findings import read_report
from probes.studies._folder import columns, open_folder
from probes.studies._uncovered import UNCOVERED

RANK, LABELS = get_study("rank"), get_study("labels")
KEPT = Path(__file__).parents[1] / "zoo" / "results" / "studies"
MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|mnt|private|var|Users)/|\b[A-Za-z]:\\")


def forge(folder, of=RANK, small=False, skill=lambda cell: 0.6, options=None, seeds=None, lack=0):
    """A study folder whose fits nobody made: the whole grid, less the last `lack` cells."""
    opened = open_folder(folder, of, dict(small=small, options=options or {}, detector="card"))
    rows = []
    for cell in grid(of, small, seeds=seeds, options=options)[:-lack or None]:
        fit = cell.fit
        rows.append(row(of, skill(cell), generator=fit["generator"], intrinsic=fit["intrinsic"], seed=fit["seed"],
                        rank=fit.get("rank", 8), samples=fit.get("samples", 1024), control=cell.tags.get("control"))
                    | dict(key=cell.key))
    opened.rewrite(rows)
    (folder / "README.md").write_text("the study's page")
    return folder


def line(text, name):
    """The table's line that links to a folder."""
    (found,) = [part for part in text.splitlines() if f"[{name}](" in part]
    return found


def low_at_two(cell):
    return 0.3 if cell.fit["rank"] == 2 else 0.6


def test_a_whole_grid_is_reproduced_or_not_and_says_of_what(tmp_path):
    forge(tmp_path / "rank", skill=lambda cell: 0.6)
    forge(tmp_path / "labels", LABELS, skill=lambda cell: 0.6 if cell.fit["samples"] > 250 else 0.2)
    text = findings(tmp_path)
    rank, labels = line(text, "rank"), line(text, "labels")
    assert RANK.finding in rank and RANK.rule in rank and "| **reproduced**: normal of " in rank
    assert "normal of stylegan2-scenes@760k: 0.60 [0.58, 0.62] at rank 2" in rank
    assert "*84 fits, 3 seeds, 1,024 pairs, 60 steps, 32 unseen images, against scenes.*" in rank
    assert "| **not reproduced**: " in labels and "normal of stylegan2-scenes@760k: 0.20 [0.18, 0.22] with 250" in labels
    total = len(studies()) + len(UNCOVERED)
    assert text.startswith(f"Of {total} findings of the paper (arXiv 2311.17137): 1 reproduced, 1 not reproduced, "
                           f"{total - 2} not testable here.")
    assert text.count("**not testable here**: not run; `probes study") == len(studies()) - 2
    assert all(u.finding in text and u.why in text for u in UNCOVERED)


@pytest.mark.parametrize("less", [dict(small=True), dict(lack=1), dict(seeds=1), dict(small=True, lack=1)])
def test_less_than_the_whole_grid_reproduces_nothing(tmp_path, less):
    found = line(findings(forge(tmp_path / "rank", **less).parent), "rank")
    assert "**not testable here**" in found and "**reproduced**" not in found and "the rule holds so far" in found
    assert ("(small grid)" in found) == bool(less.get("small")) and "0.60 [0.58, 0.62]" in found
    assert "(of which 1 holds as far as run)." in findings(tmp_path)
    beaten = line(findings(forge(tmp_path / "b" / "rank", skill=low_at_two, **less).parent), "rank")
    assert ("**not testable here**" if less.get("small") else "**not reproduced**") in beaten


def test_folders_of_one_study_stand_together_and_a_refuted_one_counts(tmp_path):
    forge(tmp_path / "a-small", small=True)
    text = findings(forge(tmp_path / "rank").parent)
    assert text.index("[rank](") < text.index("[a-small](") and ": 1 reproduced, 0 not" in text
    other = findings(forge(tmp_path / "rank-short", skill=low_at_two, options=dict(steps=50)).parent)
    assert ": 0 reproduced, 1 not reproduced" in other and """`--options '{"steps": 50}'`""" in line(other, "rank-short")


def test_failures_and_empty_folders_are_said(tmp_path):
    opened = open_folder(tmp_path / "rank", RANK, dict(small=True, options={}, detector="card"))
    empty = line(findings(tmp_path), "rank")
    assert "**not testable here** (small grid): no fit is finished yet. (0 of 4 cells; small) *0 fits.*" in empty
    opened.append(row(RANK, 0.5) | dict(status="failed", skill=None, failure="DivergedError: no"))
    assert "*0 fits, 1 failed or without a skill.*" in line(findings(tmp_path), "rank")


def test_links_lead_to_the_pages(tmp_path):
    forge(tmp_path / "zoo" / "studies" / "rank", small=True)
    for start in (None, tmp_path, tmp_path / "docs"):
        text = findings(tmp_path / "zoo" / "studies", start)
        target = re.search(r"\[rank\]\((.*?)\)", text)[1]
        assert ((start or tmp_path / "zoo" / "studies") / target).resolve().read_text() == "the study's page"


def test_nothing_is_written_and_a_running_study_is_read(tmp_path):
    folder = forge(tmp_path / "rank", small=True)
    before = {p: p.read_bytes() for p in folder.rglob("*")}
    with claimed(folder):
        text = findings(tmp_path)
    assert findings(tmp_path) == text
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.name != ".lock"} == before
    rows = folder / "rows.csv"
    rows.write_bytes(before[rows] + b"torn")        # the line may be one that is just being written
    with claimed(folder):
        assert findings(tmp_path) == text
    assert findings(tmp_path) == text and rows.read_bytes() == before[rows] + b"torn"


def test_folders_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(StudyError, match="holds no study folders; run one, for instance: probes study controls"):
        findings(tmp_path)
    about = forge(tmp_path / "rank", small=True) / "study.json"
    good = json.loads(about.read_text())
    for change, words in ((dict(version=9), "made by version 9 of rank"),
                          (dict(name="rnk"), "unknown name 'rnk'; did you mean 'rank'"),
                          (dict(request=None), "study.json is no study's")):
        about.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=words):
            findings(tmp_path)
    about.write_text("{")
    with pytest.raises(StudyError, match="rank/study.json is no study's .*; move that folder away"):
        findings(tmp_path)


def test_command_line(tmp_path, capsys):
    forge(tmp_path / "rank")
    assert main(["study", "findings", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# Findings of the paper") and findings(tmp_path) in page
    assert "1 reproduced, 0 not reproduced" in capsys.readouterr().out
    assert main(["study", "findings", "--out", str(tmp_path)]) == 0
    assert main(["study", "findings", "--out", str(tmp_path), "--small", "true"]) == 1
    assert "takes --out alone, not --small" in capsys.readouterr().err
    assert main(["study", "findings", "--out", str(tmp_path), "--engine", "ray", "--keep", "true", "--detector", "scenes"]) == 1
    assert "takes --out alone, not --engine, --keep, --detector" in capsys.readouterr().err
    (tmp_path / "README.md").write_text("# Something else\n")
    assert main(["study", "findings", "--out", str(tmp_path)]) == 1
    assert "is another page, which this would replace" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "# Something else\n"

    class Named(type(RANK)):
        name = "findings"

    with pytest.raises(ValueError, match="'findings' is the page of what all studies found"):
        register_study(Named())


def test_a_kept_folder_is_drawn_again_and_is_not_where_a_study_runs(tmp_path, monkeypatch):
    kept = forge(tmp_path / "zoo" / "results" / "studies" / "rank", small=True, options=dict(steps=50))
    done = [study("rank", kept, small=True, options=dict(steps=50), plot_only=True, quiet=True) for _ in range(2)]
    assert done[0].missing == 0 and done[0].verdict == done[1].verdict == read_report(kept).verdict
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"plot_only: studies/rank-small has no rows yet"):
        study("rank", small=True, plot_only=True, quiet=True)
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("folder", sorted(KEPT.glob("*/study.json")), ids=lambda p: p.parent.name)
def test_kept_studies(folder, tmp_path):
    """Those of the repository: no machine's paths, a page that their rows make again to the letter, and a plot."""
    folder, copy = folder.parent, tmp_path / "copy"
    for name in ("rows.csv", "study.json", "README.md"):
        assert not MACHINE.search((folder / name).read_text()), name
    assert not (folder / "fits").exists()
    shutil.copytree(folder, copy)
    report = read_report(copy)
    request = json.loads((copy / "study.json").read_text())["request"]
    study(report.study, copy, plot_only=True, quiet=True, **request)
    assert (copy / "plot.png").exists() == (folder / "plot.png").exists()
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text()


def test_machine_paths_are_seen():
    for path in ("/home/me/x", "no file '/tmp/x/y'", "C:\\x", "at /work/main/a.py"):
        assert MACHINE.search(path)
    assert not MACHINE.search("runs/tmp/x, arXiv 2311.17137, [0.1/2]")


def test_rows_of_before_teachers_had_an_error_are_read(tmp_path):
    """A fit takes minutes; a column that came later is no reason to run it again."""
    kept = KEPT / "rank"
    shutil.copytree(kept, tmp_path / "rank")
    rows, told = tmp_path / "rank" / "rows.csv", read_report(kept).rows
    lines = list(csv.reader(rows.read_text().splitlines()))
    at = lines[0].index("teacher_error")
    rows.write_text("".join(",".join(f'"{cell}"' for cell in line[:at] + line[at + 1:]) + "\n" for line in lines))
    before = [{**row, "teacher_error": None} for row in told]
    assert read_report(tmp_path / "rank").rows == before and told[0]["teacher_error"]
    assert "teacher_error" not in rows.read_text()                  # a study that runs is not written to
    folder = open_folder(tmp_path / "rank", get_study("rank"), json.loads((kept / "study.json").read_text())["request"])
    assert folder.rows() == before and folder.rows(mend=False) == before
    assert rows.read_text().splitlines()[0].split(",") == columns(get_study("rank"))

"""What a run is shown as: table, sentences, page, records, and the files they go to."""
from __future__ import annotations

import copy
import csv
import errno
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

from probes._files import OutputError, write_bytes_atomically, write_text_atomically
from probes.report import (
    result_table,
    sheet,
    summary,
    verdict,
    write_csv,
    write_json,
    write_report,
)
from probes.report._text import decimals, exact_errors, fit_command, fixed, percent, teacher_line

CONTROLS = {"random": (21.8, 21.2, -0.03), "crossed": (14.7, 24.1, 0.39), "latent": (19.4, 24.1, 0.19),
            "rgb": (20.6, 24.1, 0.15)}


def estimate(value: float, half: float = 0.3) -> dict:
    return {"value": value, "ci95": [value - half, value + half], "n": 200}


@pytest.fixture
def metrics() -> dict:
    def controls() -> dict:
        return {name: {**estimate(value), "trivial": trivial, "skill": skill,
                       "skill_ci95": [skill - 0.02, skill + 0.02]}
                for name, (value, trivial, skill) in CONTROLS.items()}

    return {"protocol": "normal-per-image/1", "primary": "mean_angular_error", "seeds": [100000, 200], "metrics": {
        "within_11.25": {"label": "pixels within 11.25°", "unit": "", "better": "higher", **estimate(0.77, 0.008),
                         "trivial": estimate(0.4, 0.01), "skill": None, "skill_ci95": None, "controls": {}},
        "mean_angular_error": {"label": "mean angular error", "unit": "°", "better": "lower", **estimate(8.9),
                               "trivial": estimate(24.1, 0.7), "skill": 0.63, "skill_ci95": [0.61, 0.65],
                               "controls": controls()}}}


@pytest.fixture
def probe() -> dict:
    return {
        "format": "probes-run", "version": 1,
        "generator": {"name": "stylegan2-scenes", "family": "stylegan2", "weights": "pretrained",
                      "fingerprint": "9f3c1a77e0b2d4c8", "resolution": 64, "parameters": 1131008},
        "intrinsic": {"name": "normal", "options": {}},
        "teacher": {"name": "scenes", "version": "1", "licence": "Apache-2.0", "fingerprint": "77aa01c3d4e5f6",
                    "exact_errors": {"normal mean angular error (degrees)": 4.15, "depth RMS (m)": 0.2,
                                     "scenes": "seeds 0-499"}},
        "method": {"name": "lora", "rank": 8, "alpha": 8, "scope": "affine", "sites": ["a", "b"], "parameters": 31232},
        "bank": {"samples": 1024, "key": "b1946ac92492d234"},
        "training": {"steps": 2000, "batch": 8, "learning_rate": 0.01, "seed": 0, "seconds": 74.2,
                     "final_loss": 0.07, "status": "finished"},
        "request": {"generator": "stylegan2-scenes", "intrinsic": "normal", "steps": 2000, "teacher": None,
                    "out": "runs/it's"},
        "versions": {"probes": "0.1.0", "torch": "2.13.0"}, "hardware": "2 cores"}


@pytest.fixture
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    return [{"seed": 100000 + i, "mean_angular_error": float(rng.gamma(9)),
             "trivial_mean_angular_error": float(rng.gamma(24))} for i in range(200)]


CURVE = [(i, 1 / i) for i in range(1, 500)]


# ---- files and records


def test_json_says_what_it_was_given_and_null_for_what_is_no_number(tmp_path, metrics, probe):
    for name, value in (("metrics.json", metrics), ("probe.json", probe)):
        assert json.loads(write_json(tmp_path / name, value).read_text("utf-8")) == value
    odd = {"nan": float("nan"), "inf": np.float32("inf"), "array": np.arange(2), "tensor": torch.tensor(1.5),
           "path": tmp_path.relative_to(tmp_path.parent), "tuple": (1, None), "flag": True}
    read = json.loads(write_json(tmp_path / "odd.json", odd).read_text("utf-8"))
    assert read == {"nan": None, "inf": None, "array": [0, 1], "tensor": 1.5, "path": tmp_path.name, "tuple": [1, None],
                    "flag": True}
    with pytest.raises(TypeError, match=r"value\.a\[1\].*set"):
        write_json(tmp_path / "bad.json", {"a": [1, {2}]})
    assert not (tmp_path / "bad.json").exists()


def test_csv_joins_columns_and_leaves_nan_empty(tmp_path):
    path = write_csv(tmp_path / "samples.csv", [{"rms": 0.1, "seed": 7}, {"seed": 8, "rms": float("nan"), "l1": 2}])
    assert list(csv.reader(path.open(encoding="utf-8"))) == [["seed", "rms", "l1"], ["7", "0.1", ""], ["8", "", "2"]]
    assert write_csv(tmp_path / "none.csv", []).read_text() == "seed\n"


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text_atomically(path, "first, and longer")
    write_text_atomically(path, "été\r\n")
    assert path.read_bytes() == "été\r\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_one_clear_line(tmp_path, monkeypatch):
    path = write_text_atomically(tmp_path / "report.html", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        write_bytes_atomically(path, b"new")
    assert str(path) in str(caught.value) and "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.errno == errno.ENOSPC and isinstance(caught.value, OSError)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]


def test_a_folder_that_is_a_file_is_named(tmp_path, metrics, probe):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OutputError, match="cannot write .*runs.report.html: its folder is a file"):
        write_report(tmp_path / "runs" / "report.html", probe, metrics)
    with pytest.raises(OutputError, match="cannot write .*runs.deep.a.txt: its folder is a file"):
        write_text_atomically(tmp_path / "runs" / "deep" / "a.txt", "text")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="(?i)permission denied"):
            write_json(tmp_path / "probe.json", {})
    finally:
        tmp_path.chmod(0o700)


# ---- the table


def printed(table, width: int = 80) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(table)
    return buffer.getvalue()


def test_the_table_reads_at_80_columns_without_colour(metrics, probe):
    text = printed(result_table(metrics, probe))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text and "…" not in text
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["metric", "probe", "random", "crossed", "latent", "rgb", "trivial", "skill"]
    assert lines[2] == ["mean", "angular", "error", "8.9", "21.8", "14.7", "19.4", "20.6", "24.1", "0.63"]
    assert lines[3][-7:] == ["±0.3"] * 5 + ["±0.7", "±0.02"]
    assert lines[4] == ["skill", "of", "controls", "−0.03", "0.39", "0.19", "0.15"]
    assert "4.15° mean angular error against exact ground truth" in " ".join(text.split())
    assert "normal-per-image/1; n = 200, seeds 100000–100199" in " ".join(text.split())


def test_the_table_shows_a_dash_for_what_is_missing(metrics):
    entry = metrics["metrics"]["mean_angular_error"]
    entry.update(value=float("nan"), skill=None, skill_ci95=None, trivial={"value": None, "ci95": None, "n": 0})
    entry["controls"] = {"random": {"value": 3.0, "ci95": None, "n": 1, "trivial": None, "skill": None,
                                    "skill_ci95": None}}
    text = printed(result_table(metrics))
    assert "nan" not in text and "None" not in text
    assert text.splitlines()[3].split() == ["mean", "angular", "error", "–", "3.00", "–", "–"]


def test_markup_in_names_is_only_text(metrics, probe):
    metrics["metrics"]["mean_angular_error"]["label"] = "[bold]error[/nothing]"
    metrics["metrics"]["mean_angular_error"]["controls"]["[red]x"] = {**estimate(1.0), "skill": None}
    probe["teacher"]["name"] = "[/oops]"
    text = printed(result_table(metrics, probe), 120)
    assert "[bold]error[/nothing]" in text and "[red]x" in text and "[/oops]" in text


# ---- sentences


def test_the_summary_is_a_sentence_for_a_stranger(metrics, probe):
    assert summary(probe, metrics).replace("\u00a0", " ") == (
        "With a rank-8 LoRA (31,232 parameters, 2.8 % of the generator) stylegan2-scenes emits surface normals of its "
        "own images with 8.9° mean angular error against the teacher; predicting the average picture gives 24.1°. "
        "Skill 0.63 [0.61, 0.65].")


def test_a_checkpoint_is_called_by_its_file_name(tmp_path, metrics, probe):
    probe["generator"]["name"] = "/somewhere/else/faces.pkl"
    assert "generator) faces.pkl emits" in summary(probe, metrics)
    text = write_report(tmp_path / "r.html", probe, metrics).read_text("utf-8")
    assert "<h1>Surface normals in faces.pkl</h1>" in text and "/somewhere" not in text.split("Make it again")[0]


def test_the_verdict_follows_the_intervals(metrics):
    entry = metrics["metrics"]["mean_angular_error"]
    assert "clearly above every control. The best of them is crossed, at skill 0.39; the difference, 0.24" in verdict(
        metrics)
    entry["controls"]["crossed"].update(skill=0.6, skill_ci95=[0.58, 0.62])
    assert "not clearly above crossed:" in verdict(metrics)
    entry["controls"] = {"crossed": {**estimate(22), "skill": -0.3, "skill_ci95": [-0.4, -0.2]}}
    assert verdict(metrics).endswith("at skill −0.30, no better than the average picture.")
    entry["controls"] = {"random": {**estimate(2), "skill": 0.9, "skill_ci95": [0.8, 0.95]}}     # on its own pictures
    assert "No control on its own targets was run" in verdict(metrics)
    entry.update(skill=0.01, skill_ci95=[-0.01, 0.03])
    assert "no knowledge is shown" in verdict(metrics)
    entry.update(skill=None, skill_ci95=None)
    assert "No skill is defined" in verdict(metrics)
    metrics["primary"] = "rms"
    with pytest.raises(ValueError, match="primary is 'rms'"):
        verdict(metrics)


def test_numbers_are_rounded_to_what_their_interval_allows(probe):
    assert decimals({"unit": "°", **estimate(21.3, 2.0)}) == 1
    assert decimals({"unit": "", **estimate(0.0561, 0.0012)}) == 3
    assert decimals({"unit": "", "value": 0.0561, "ci95": None}) == 4
    assert (fixed(-0.001), fixed(-1.5, 1), fixed(None), fixed(float("nan"))) == ("0.00", "−1.5", "–", "–")
    assert [percent(x).replace("\u00a0", " ") for x in (0.0276, 0.00046, 1)] == ["2.8 %", "0.046 %", "100 %"]
    assert exact_errors(probe["teacher"], "normal") == ([("mean angular error", "4.15°")], "seeds 0-499")
    assert fit_command({"generator": "a b", "steps": 3, "teacher": None, "fast": True, "options": {"psi": 1}}) == (
        "# options: psi = 1\nprobes fit \\\n    --generator 'a b' \\\n    --steps 3 \\\n    --fast true")


# ---- the page


class Page(HTMLParser):
    """Checks nesting while it reads, and keeps tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_that_asks_nobody(tmp_path, metrics, probe, rows):
    png = sheet({"image": torch.zeros(2, 3, 64, 64)})
    text = write_report(tmp_path / "report.html", probe, metrics, rows, png, CURVE).read_text("utf-8")
    page = Page(text)
    assert os.listdir(tmp_path) == ["report.html"]
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"@import|url\(|https?:", text)
    assert not {"script", "link", "iframe", "object", "a"} & set(page.tags)
    sources = [value for _, key, value in page.attributes if key in ("src", "href", "xlink:href", "srcset")]
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert page.tags.count("svg") == page.tags.count("title") - 1 == 3   # every chart says what it shows
    assert [tag for tag in page.tags if tag == "h1"] == ["h1"] and page.tags.count("h2") >= 6
    assert all(value for tag, key, value in page.attributes if (tag, key) == ("img", "alt"))
    assert ("meta", "name", "viewport") in page.attributes and "prefers-color-scheme: dark" in text
    words = " ".join(" ".join(page.words).split())
    for expected in (summary(probe, metrics).replace("\u00a0", " "), "Apache-2.0", "9f3c1a77e0b2", "4.15° mean angular",
                     "ridge regression", "The worst is seed", "--out 'runs/it'\"'\"'s'"):
        assert expected in words
    assert "did not finish" not in words


def test_every_string_is_escaped(tmp_path, metrics, probe, rows):
    evil = "<script>alert('x')</script>\"&"

    def poisoned(value):
        if isinstance(value, dict):
            return {k: poisoned(v) for k, v in value.items()}
        return [poisoned(v) for v in value] if isinstance(value, list) else evil if isinstance(value, str) else value

    entry = metrics["metrics"]["mean_angular_error"]
    entry.update(label=evil, unit=evil)
    entry["controls"][evil] = copy.deepcopy(entry["controls"]["rgb"])
    metrics["protocol"] = evil
    bad = poisoned(probe)
    bad["request"][evil] = evil
    text = write_report(tmp_path / "r.html", bad, metrics, rows, None, CURVE, command=evil).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags and "&lt;script&gt;" in text
    assert not any(key.startswith("on") for _, key, _ in page.attributes)


def test_a_page_without_numbers_is_still_a_page(tmp_path, metrics, probe):
    for entry in metrics["metrics"].values():
        entry.update(value=float("nan"), ci95=None, n=0, skill=None, skill_ci95=[None, None], controls={},
                     trivial={"value": None, "ci95": None, "n": 0})
    metrics["seeds"] = []
    probe["teacher"]["exact_errors"] = None
    probe["training"].update(status="interrupted", final_loss=float("nan"))
    rows = [{"seed": 1, "mean_angular_error": float("nan")}]
    text = write_report(tmp_path / "r.html", probe, metrics, rows, None, [(1, float("nan")), (2, 0.0)]).read_text()
    page = Page(text)
    words = " ".join(page.words)
    assert "svg" not in page.tags and "img" not in page.tags
    assert "status: interrupted" in words and "not known here" in words
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", words.split("How it was made")[0])


@pytest.mark.parametrize("values", [[3.0], [5.0, 5.0], [0.0, 0.0], [-1.0, 2.0]])
def test_charts_of_hardly_any_values(tmp_path, metrics, probe, values):
    rows = [{"seed": i, "mean_angular_error": v} for i, v in enumerate(values)]
    text = write_report(tmp_path / "r.html", probe, metrics, rows, None, [(1, 0.5), (2, 0.5)]).read_text("utf-8")
    Page(text)
    assert "nan" not in text


def test_every_teacher_is_named_with_its_own_error(tmp_path, probe, metrics):
    """The judge's too, where that is another; of photographs, with what the error was measured on."""
    judge = dict(name="paradigms", version="2", exact_errors={"normal L1": 0.5, "scenes": "rooms 0-9, 64 px; never trained on"})
    other = {**metrics, "against": "paradigms 2", "judge": judge}
    about = probe["teacher"]
    own = f"teacher {about['name']} {about['version']}, 4.15° mean angular error against exact ground truth"
    assert teacher_line(probe, metrics).startswith(f"{own}; protocol")
    assert f"{own}; scored against teacher paradigms 2, 0.5 L1 against exact ground truth; " in teacher_line(probe, other)
    photographs = {**probe, "data": {"name": "photos", "fingerprint": "00", "world": "photographs"}}
    assert f"{own} (seeds 0-499); scored against teacher paradigms 2, 0.5 L1 against exact ground truth (rooms 0-9, 64 px); " \
        in teacher_line(photographs, other)
    exact = {**metrics, "against": "exact 1", "judge": dict(name="exact", version="1", exact_errors=None)}
    assert "; scored against exact ground truth; " in teacher_line(probe, exact)
    page = Page(write_report(tmp_path / "r.html", probe, other, [], None, CURVE).read_text("utf-8"))
    assert "scored against another: teacher paradigms 2, 0.5 L1 against exact ground truth" in " ".join(page.words)


def test_where_images_are_given_the_random_control_counts(probe, metrics):
    given = {**probe, "data": {"name": "scenes", "fingerprint": "00"}}
    entry = metrics["metrics"][metrics["primary"]]
    entry["controls"] = {"random": {**entry["controls"]["random"], "skill": entry["skill"] + 0.1, "skill_ci95": None}}
    assert "No control on its own targets was run" in verdict(metrics, probe)
    assert "not clearly above random" in verdict(metrics, given)
    assert "the images it is given" in summary(given, {**metrics, "against": "exact 1"})
    assert "against exact ground truth" in summary(given, {**metrics, "against": "exact 1"})

"""Verdicts both ways, on rows that nobody measured; pages and plots from rows alone."""
import io

import numpy as np
import pytest
from PIL import Image
from study_rows import STYLEGAN2, row

from probes.studies import get_study, studies
from probes.studies._base import finished

FID, RANDOM, RANK, LABELS, SITES, METHODS, STEPS, TRUTH = (
    get_study(n) for n in ("fid", "random", "rank", "labels", "sites", "methods", "steps", "teacher-truth"))
LEVELS = {"stylegan2": (16.5, 26.0, 32.3, 47.7, 69.8, 160.4), "vqgan": (47.65, 82.1), "stable-diffusion": (56.0, 78.0)}


def fid_rows(skill, intrinsics=("normal", "depth")):
    return [row(FID, skill(distance, family), seed=seed, generator=f"{family}@{i}", family=family, intrinsic=intrinsic,
                frechet=distance, detector="scenes teacher, deepest features averaged over positions", frechet_samples=2500)
            for family, levels in LEVELS.items() for i, distance in enumerate(levels) for intrinsic in intrinsics
            for seed in range(2)]


def falls(distance, family):
    return 0.8 - 0.15 * np.log10(distance) - 0.1 * (family == "vqgan")


def test_fid_verdicts():
    kind, reason = FID.verdict(fid_rows(falls)).kind, FID.verdict(fid_rows(falls)).reason
    assert kind == "reproduced" and "normal ρ = −0." in reason and "(n = 10, p" in reason
    assert FID.verdict(fid_rows(lambda d, f: 0.5 + 0.01 * (d % 3))).kind == "not reproduced"
    # Pooled it falls, since the families differ; within the only family with enough levels it rises.
    paradox = FID.verdict(fid_rows(lambda d, f: 0.9 + d / 1e4 if f == "stylegan2" else 0.1 - d / 1e3))
    assert paradox.kind == "not reproduced"
    few = [r for r in fid_rows(falls) if r["family"] == "vqgan"]
    assert FID.verdict(few).kind == "not testable here"
    assert FID.verdict([{**r, "frechet": None} for r in fid_rows(falls)]).kind == "not testable here"


def test_fid_tables_have_families_and_pooled():
    text = FID.tables(fid_rows(falls)).replace("−", "-")
    assert text.count("| all families |") == 2 and "| normal | stylegan2 | -1.00 [-1.00, -1.00] (n = 6, p = 0.0028) |" in text
    assert "| normal | vqgan | -1.00 (n = 2) |" in text and "2500 samples." in text
    assert text.index("stylegan2@0") < text.index("vqgan@0") < text.index("stylegan2@4")      # by distance


def random_rows(trained=0.6, random=0.05, crossed=0.3, intrinsics=("normal", "albedo")):
    return [row(RANDOM, skill, intrinsic=i, weights=w, network=w.partition(":")[0], generator=g,
                **(dict(control_latent=0.17, control_rgb=0.05) if w == "pretrained" else {}))
            for g in (STYLEGAN2, "vqgan-scenes") for i in intrinsics
            for w, skill in (("pretrained", trained), ("random:0", random), ("crossed:0", crossed))]


def test_random_verdicts_are_about_normals_and_depth():
    assert RANDOM.verdict(random_rows()).kind == "reproduced"
    beaten = RANDOM.verdict(random_rows(crossed=0.58))
    assert beaten.kind == "not reproduced" and f"normal of {STYLEGAN2}" in beaten.reason and "albedo" not in beaten.reason
    assert RANDOM.verdict(random_rows(intrinsics=("albedo",))).kind == "not testable here"
    assert RANDOM.verdict([r for r in random_rows() if r["network"] == "pretrained"]).kind == "not testable here"
    assert f"| {STYLEGAN2} | normal | 0.60 [0.58, 0.62] | 0.05 [0.03, 0.07] | 0.30 [0.28, 0.32] | 0.17 | 0.05 | 0.30 |" in \
        RANDOM.tables(random_rows())
    below = RANDOM.tables(random_rows(random=-2.2, crossed=-3.0, trained=0.3))       # the average picture is a control too
    assert "| −2.20 [−2.22, −2.18] |" in below and "| 0.17 | 0.05 | 0.13 |" in below


def over(study, column, skills, margin=0.02, **given):
    return [row(study, skill, margin, **{column: at}, **given) for at, skill in skills.items()]


@pytest.mark.parametrize(("study", "column", "good", "bad", "short"), [
    (RANK, "rank", {1: 0.4, 2: 0.6, 8: 0.62, 64: 0.61}, {2: 0.5, 8: 0.65}, {8: 0.65, 16: 0.6}),
    (LABELS, "samples", {50: 0.2, 250: 0.55, 4000: 0.6}, {250: 0.4, 4000: 0.6}, {50: 0.3, 250: 0.5})])
def test_small_may_be_enough(study, column, good, bad, short):
    assert study.verdict(over(study, column, good)).kind == "reproduced"
    assert study.verdict(over(study, column, bad)).kind == "not reproduced"
    assert study.verdict(over(study, column, short)).kind == "not testable here"
    unsure = study.verdict(over(study, column, good, margin=0.1))
    assert unsure.kind == "not testable here" and "straddles" in unsure.reason
    mixed = study.verdict(over(study, column, good) + over(study, column, bad, intrinsic="depth"))
    assert mixed.kind == "not reproduced" and "depth" in mixed.reason and "normal" not in mixed.reason


def test_sites_verdicts():
    scopes = {"affine": 0.6, "affine-convs": 0.4, "affine@8": 0.61}
    assert SITES.verdict(over(SITES, "scope", scopes)).kind == "reproduced"
    better = SITES.verdict(over(SITES, "scope", {**scopes, "affine@8": 0.7}))
    assert better.kind == "not reproduced" and "affine@8 0.70" in better.reason and "affine-convs" not in better.reason
    assert SITES.verdict(over(SITES, "scope", {"affine": 0.6, "affine@8": 0.4})).kind == "not testable here"


def test_methods_verdicts():
    assert METHODS.verdict(over(METHODS, "method", {"lora": 0.6, "linear": 0.4, "full": 0.7})).kind == "reproduced"
    assert METHODS.verdict(over(METHODS, "method", {"lora": 0.6, "linear": 0.57})).kind == "not reproduced"
    assert METHODS.verdict(over(METHODS, "method", {"lora": 0.6, "full": 0.4})).kind == "not testable here"
    assert METHODS.verdict(over(METHODS, "method", {"lora": 0.6, "linear": -0.8})).kind == "not testable here"
    text = METHODS.tables([row(METHODS, 0.6, method="lora", parameters=25600, steps_per_second=12.345, peak_memory_mib=1234.5)])
    assert "| stylegan2-scenes@760k | normal | lora | 25.6k | 0.60 [0.58, 0.62] | 12.3 | 1,234 |" in text
    seen = METHODS.tables([row(METHODS, s, method="encoder", encoder=w) for s, w in ((0.5, "pretrained"), (0.3, "random"))])
    assert "| encoder | " in seen and "| encoder, random | " in seen
    drawn = {c.at_seed(2).fit["method_options"]["weights"] for c in METHODS.cells(False) if c.fit["method"] == "encoder"}
    assert drawn == {"pretrained", "random:2"}


def step_rows(single, skills):
    about = dict(generator="sd-scenes", family="stable-diffusion", teacher="exact", against="exact", scope="all")
    return [row(STEPS, single, mode="single", sampling_steps=1, **about),
            *(row(STEPS, skill, mode="multi", sampling_steps=s, guidance=g, **about) for (s, g), skill in skills.items())]


def test_steps_verdicts():
    grid = {(5, 1.0): 0.4, (25, 1.0): 0.45, (5, 3.0): 0.5, (25, 3.0): 0.6}
    assert STEPS.verdict(step_rows(0.5, grid)).kind == "reproduced"
    assert STEPS.verdict(step_rows(0.59, grid)).kind == "not reproduced"
    assert STEPS.verdict(step_rows(0.5, {(5, 3.0): 0.9})).kind == "not testable here"
    assert STEPS.verdict(step_rows(-0.2, {**grid, (25, 3.0): -0.1})).kind == "not testable here"     # both know nothing
    collapsed = STEPS.verdict(step_rows(0.5, {**grid, (25, 3.0): -0.1}))
    assert collapsed.kind == "not reproduced" and "−0.10" in collapsed.reason


def test_each_intrinsic_has_its_own_single_step(monkeypatch):
    drawn = {}
    monkeypatch.setattr("probes.studies._steps.curves", lambda panels, *a, **k: drawn.update(k) or b"")
    depth = [{**r, "intrinsic": "depth"} for r in step_rows(0.2, {(5, 1.0): 0.1})]
    STEPS.plot(step_rows(0.45, {(5, 1.0): 0.4}) + depth)
    assert {i: p.value for i, p in drawn["levels"].items()} == {"normal": 0.45, "depth": 0.2}


def truth_rows(taught):
    about = dict(generator="sd-scenes", against="exact")
    return [row(TRUTH, skill, teacher=t, intrinsic=i, **about) for i in ("normal", "depth")
            for t, skill in (("exact", 0.45), ("scenes", taught if i == "normal" else 0.44))]


def test_teacher_truth_verdicts():
    assert TRUTH.verdict(truth_rows(0.41)).kind == "reproduced"
    worse = TRUTH.verdict(truth_rows(0.3))
    assert worse.kind == "not reproduced" and "normal" in worse.reason and "depth" not in worse.reason
    assert TRUTH.verdict(truth_rows(0.41)[:1]).kind == "not testable here"
    ignorant = [{**r, "skill": 0.01, "skill_low": -0.05, "skill_high": 0.06} for r in truth_rows(0.41)]
    assert TRUTH.verdict(ignorant).kind == "not testable here"


@pytest.mark.parametrize(("study", "column", "held", "dropped", "lost"), [
    (RANK, "rank", {2: 0.6, 8: 0.61}, {2: -0.1, 8: -0.01}, {2: -0.1, 8: 0.4}),
    (LABELS, "samples", {250: 0.6, 4000: 0.61}, {250: -0.1, 4000: -0.01}, {250: -0.1, 4000: 0.4}),
    (METHODS, "method", {"lora": 0.6, "linear": 0.4}, {"lora": -0.5, "linear": -0.1}, {"lora": -0.1, "linear": 0.3}),
    (RANDOM, "network", {"pretrained": 0.6, "random": 0.0, "crossed": 0.1}, {"pretrained": 0.6, "random": 0.0},
     {"pretrained": -0.1, "random": 0.2, "crossed": -0.5}),
    (SITES, "scope", {"affine": 0.6, "affine-convs": 0.4, "affine@8": 0.5}, {"affine": 0.6, "affine-convs": 0.4},
     {"affine": -0.01, "affine-convs": 0.01, "affine@8": 0.1}),
    (TRUTH, "teacher", {"scenes": 0.6, "exact": 0.6}, {"exact": 0.6}, {"scenes": -0.1, "exact": 0.01})])
def test_a_case_that_cannot_be_tested_is_named_and_leaves_the_rule_open(study, column, held, dropped, lost):
    good = over(study, column, held)
    assert study.verdict(good).kind == "reproduced"
    left = study.verdict(good + over(study, column, dropped, intrinsic="depth"))
    assert left.kind == "not testable here" and "Not tested: depth" in left.reason and "normal" in left.reason
    beaten = study.verdict(good + over(study, column, lost, intrinsic="depth"))
    assert beaten.kind == "not reproduced" and "depth" in beaten.reason


def test_a_control_that_is_missing_leaves_nothing_above_all():
    without = [r for r in random_rows() if r["network"] != "crossed"]
    verdict = RANDOM.verdict(without)
    assert verdict.kind == "not testable here" and "no fit of crossed" in verdict.reason
    assert "| 0.17 | 0.05 | – |" in RANDOM.tables(without) and "| 0.17 | 0.05 | 0.30 |" in RANDOM.tables(random_rows())
    alone = [r | dict(generator="sd-scenes") for r in without if r["generator"] == "vqgan-scenes"]
    assert RANDOM.verdict(alone).kind == "reproduced"           # its crossed network is the random one


def test_ranks_below_eight_and_wide_sites_say_nothing():
    assert RANK.verdict(over(RANK, "rank", {1: 0.2, 2: 0.3, 4: 0.3})).kind == "not testable here"
    verdict = SITES.verdict(over(SITES, "scope", {"affine": 0.1, "affine@8": 0.35, "affine-convs": 0.38}, 0.3))
    assert verdict.kind == "not testable here" and "affine-convs 0.38" in verdict.reason


def test_fid_needs_six_generators_one_detector_and_a_distance():
    def levels(n, **given):
        return [row(FID, 0.1 * i, generator=f"g{i}", family=f"f{i}", frechet=10.0 - i, **(dict(
            detector="scenes", frechet_samples=2500) | given)) for i in range(n)]

    assert FID.verdict(levels(6)).kind == "reproduced" and FID.verdict(levels(5)).kind == "not testable here"
    # Two levels of skill that distances tell apart: its sign is sure, but one pairing in ten is as strongly correlated.
    unsure = FID.verdict([r | dict(skill=0.1 * (i > 2)) for i, r in enumerate(levels(6))])
    assert unsure.kind == "not reproduced" and ", −0.67] (n = 6, p = 0.1)" in unsure.reason
    half = FID.verdict(levels(7) + [r | dict(intrinsic="depth") for r in levels(3)])
    assert half.kind == "not testable here" and "depth (n = 3)" in half.reason
    mixed = [*levels(7)[:5], *levels(7, detector="inception")[5:]]
    assert FID.verdict(mixed).kind == "not testable here" and "inception, 2500 samples" in FID.verdict(mixed).reason
    assert "Left out" in FID.tables(mixed) and "g6" not in FID.tables(mixed)
    none = [r | dict(frechet=None) for r in levels(2)]
    assert Image.open(io.BytesIO(FID.plot(none))).width > 700 and "No generator" in FID.page(none)
    bare = FID.verdict(levels(7) + [levels(1)[0] | dict(generator="sd-x", family="f9", frechet=None)])
    assert bare.kind == "not testable here" and "sd-x (no Fréchet distance by this detector)" in bare.reason
    zero = [levels(7)[0] | dict(frechet=0.0), *levels(7)[1:]]
    assert "(n = 7" in FID.tables(zero) and "(n = 6" in FID.tables(zero) and FID.plot(zero)
    assert FID.plot(zero[:1])


def test_a_skill_that_is_no_number_is_no_row():
    bad = row(RANK, 0.5, rank=64) | dict(skill=float("nan"))
    assert finished([bad]) == [] and len(finished([bad, *ROWS["rank"]])) == len(ROWS["rank"])
    assert RANK.page([bad, *ROWS["rank"]]).count("nan") == 0


ROWS = {"fid": fid_rows(falls, ("normal", "depth", "albedo", "shading")), "random": random_rows(random=-3.0),
        "rank": over(RANK, "rank", {1: 0.4, 2: 0.6, 8: 0.65}) + over(RANK, "rank", {2: 0.3, 8: 0.35}, intrinsic="depth"),
        "labels": over(LABELS, "samples", {50: 0.2, 250: 0.55, 16000: 0.6}),
        "sites": over(SITES, "scope", {"affine": 0.6, "affine-convs": 0.4, "affine@8": 0.61}),
        "methods": over(METHODS, "method", {"lora": 0.6, "linear": 0.4, "full": 0.7, "unheard-of": 0.1}),
        "steps": step_rows(0.5, {(5, 1.0): 0.4, (25, 3.0): 0.6}), "teacher-truth": truth_rows(0.41)}


@pytest.mark.parametrize("name", ROWS)
def test_pages_and_plots_are_made_of_rows_alone(name):
    study, rows = get_study(name), ROWS[name]
    picture = study.plot(rows)
    image = Image.open(io.BytesIO(picture))
    assert 700 <= image.width <= 900 and 300 <= image.height <= 1600
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50        # something is drawn
    page = study.page(rows)
    verdict = study.verdict(rows)
    assert f"**Verdict here: {verdict.kind}.** {verdict.reason}" in page and "arXiv 2311.17137" in page
    assert "![what was measured](plot.png)" in page and f"{len(rows)} fits" in page and "None" not in page and "nan" not in page
    assert study.page(rows[::-1]) == page and study.plot(finished(rows[::-1])) == study.plot(finished(rows))
    assert study.plot(rows[:1])                             # of whatever there is
    study.page(rows[:1])


def test_a_page_of_failures_says_so():
    failed = {**row(RANK, 0.5), "status": "failed", "skill": None, "failure": "DivergedError: the loss is nan"}
    page = RANK.page([failed])
    assert "not testable here.** no fit is finished yet" in page and "plot.png" not in page
    assert "- stylegan2-scenes@760k normal lora, seed 0: DivergedError: the loss is nan" in page and "--retry true" in page
    many = RANK.page([dict(failed, seed=i) for i in range(14)] + ROWS["rank"])
    assert "and 4 more, in rows.csv" in many and "5 fits, 14 failed" in many


def test_every_study_has_rows_here():
    assert set(ROWS) <= set(studies())

"""What is left above each control: the arithmetic, the verdict both ways, the picture, and the results of zoo/ as the same."""
import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from study_rows import STYLEGAN2, row

from probes.studies import get_study, grid
from probes.studies._folder import columns
from probes.studies._standing import AVERAGE, CONTROLS, expected, left_above, standings
from zoo import evaluate_levels

STUDY = get_study("controls")
MEASURED = dict(latent=0.17, rgb=0.05, shuffled=-0.02, pixels=0.5, random=0.06, crossed=0.34)


def control_rows(probe=0.65, generator=STYLEGAN2, intrinsic="normal", margin=0.02, seed=0, **changed):
    """A probe's row and those of its controls; None takes one away."""
    skills = {k: v for k, v in (MEASURED | changed).items() if v is not None and k in expected(generator)}
    beside = {f"control_{k}": skills[k] for k in ("latent", "rgb", "shuffled") if k in skills}
    about = dict(generator=generator, intrinsic=intrinsic, seed=seed)
    return [row(STUDY, probe, margin, control="probe", **about, **beside),
            *(row(STUDY, skills[k], margin, control=k, **about) for k in ("pixels", "random", "crossed") if k in skills)]


def only(rows):
    (standing,) = standings(rows)
    return standing


def test_left_is_one_less_the_share_of_the_control_s_error():
    trivial, probe, control = 29.1, 10.3, 18.9                  # degrees, of one set of images
    skill, rival = (only([row(STUDY, 1 - e / trivial, 0, control="probe")]).probe for e in (probe, control))
    left = left_above("crossed", skill, rival)
    assert left.value == pytest.approx(1 - probe / control) == pytest.approx(left.low) == pytest.approx(left.high)


def test_left_takes_the_worst_ends_and_no_control_is_below_the_average_picture():
    standing = only(control_rows())
    crossed = standing.above("crossed")
    assert (crossed.value, crossed.low, crossed.high) == pytest.approx((0.31 / 0.66, 0.27 / 0.64, 0.35 / 0.68))
    rgb = standing.above("rgb")                                 # stands in the probe's row, without an interval
    assert (rgb.low, rgb.high) == pytest.approx((0.58 / 0.95, 0.62 / 0.95))
    assert standing.above("shuffled").value == standing.above(AVERAGE).value == 0.65
    pixels = standing.left
    assert pixels.control == "pixels" and str(pixels) == "0.30 [0.23, 0.37]"
    low = only(control_rows(probe=0.29, random=-2.26, pixels=-0.1, crossed=-0.4, latent=-0.1, rgb=-0.2))
    assert low.left.control == AVERAGE and low.left.value == 0.29 and not low.missing
    assert only(control_rows(probe=0.5, rgb=1.0)).left.value < -1e5         # a control without error leaves nothing


def test_the_interval_left_is_the_least_over_all_controls():
    rows = control_rows()
    vague = [r | dict(skill_high=0.6) if r["control"] == "random" else r for r in rows]
    left = only(vague).left
    assert left.control == "pixels" and left.value == pytest.approx(0.3) and left.low == pytest.approx(0.03 / 0.4)


def test_seeds_are_one_point_and_a_row_of_its_own_comes_before_a_column():
    rows = [r for seed, probe in enumerate((0.6, 0.65, 0.7)) for r in control_rows(probe, seed=seed, latent=0.1 * seed)]
    standing = only(rows)
    assert (standing.probe.value, standing.probe.low, standing.probe.high) == pytest.approx((0.65, 0.58, 0.72))
    latent = standing.controls["latent"]
    assert (latent.value, latent.low, latent.high, latent.seeds) == pytest.approx((0.1, 0.0, 0.2, 3))
    both = [control_rows()[0] | dict(control_random=0.9, control_random_low=0.8, control_random_high=0.95)]
    told = only(both).controls["random"]
    assert (told.value, told.low, told.high) == (0.9, 0.8, 0.95)
    assert only(both + control_rows()[1:]).controls["random"].value == 0.06


def test_the_grid_has_every_control_of_every_generator():
    small = grid(STUDY, small=True)
    assert [c.tags["control"] for c in small] == ["probe", "pixels", "random", "crossed"]
    assert small[0].fit["controls"] == ["latent", "rgb", "shuffled"] and small[1].fit["method"] == "pixels"
    assert small[2].fit["weights"] == "random:0" and {c.fit["steps"] for c in small} == {60}
    whole = grid(STUDY)
    assert len(whole) == 3 * 4 * (3 * 4 + 3)        # seeds, intrinsics, three with `crossed` and one without
    sd = [c for c in whole if c.fit["generator"] == "sd-scenes"]
    assert {c.tags["control"] for c in sd} == {"probe", "pixels", "random"} and {c.fit["teacher"] for c in sd} == {"exact"}
    assert set(CONTROLS) == set(expected("vqgan-scenes")) and "crossed" not in expected("sd-scenes")


def verdict(*groups):
    return STUDY.verdict([r for group in groups for r in group])


def test_verdicts():
    good, depth = control_rows(), control_rows(intrinsic="depth", generator="sd-scenes")
    held = verdict(good, depth)
    assert held.kind == "reproduced"
    assert "normal of stylegan2-scenes@760k 0.30 [0.23, 0.37] (the strongest: pixels); depth of sd-scenes 0.30" in held.reason
    lost = verdict(good, control_rows(intrinsic="albedo", rgb=0.7))
    assert lost.kind == "not reproduced" and "Nothing is left of albedo of stylegan2-scenes@760k (−0.17" in lost.reason
    assert "above rgb" in lost.reason and "Left above every control: normal of stylegan2-scenes@760k 0.30" in lost.reason
    open_ = verdict(good, control_rows(intrinsic="albedo", pixels=0.64))
    assert open_.kind == "not testable here" and "an interval that contains 0" in open_.reason
    assert verdict(control_rows(probe=-0.1, **dict.fromkeys(MEASURED, -0.2))).kind == "not testable here"
    assert verdict(control_rows(probe=-0.1)).kind == "not reproduced"
    assert verdict(control_rows()[1:]).kind == "not testable here"


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_that_was_not_run_leaves_it_open_unless_another_is_better(control):
    without = verdict(control_rows(**{control: None}))
    assert without.kind == "not testable here" and f"not run: {control}" in without.reason
    other = "pixels" if control != "pixels" else "crossed"
    assert verdict(control_rows(**{control: None, other: 0.8})).kind == "not reproduced"


def test_tables_say_skills_and_what_is_left_above_each():
    text = STUDY.tables(control_rows(crossed=None) + control_rows(intrinsic="albedo", rgb=0.7))
    assert "| stylegan2-scenes@760k | normal | 0.65 [0.63, 0.67] | 0.17 [0.17, 0.17] |" in text
    assert "| – | 0.30 [0.23, 0.37] (pixels) | open |" in text and "(rgb) | no |" in text
    assert f"| {STYLEGAN2} | normal | 0.58 [0.55, 0.60] | 0.63 [0.61, 0.65] | 0.30 [0.23, 0.37] | 0.65 [0.63, 0.67]" in text


ALL = [r for g in (STYLEGAN2, "vqgan-scenes") for i in ("normal", "albedo")
       for r in control_rows(generator=g, intrinsic=i)]


def pixels(rows):
    image = Image.open(io.BytesIO(STUDY.plot(rows)))
    assert image.width == 768
    return np.asarray(image.convert("RGB")).astype(int)


def count(picture, colour, tolerance=6):
    return int((np.abs(picture - np.array(colour)).max(-1) <= tolerance).sum())


def test_the_bars_are_as_long_as_what_they_say():
    left, reached = (115, 177, 212), (213, 218, 220)            # of the colours in the legend, as blended on white
    full, half = pixels(control_rows(pixels=0.4)), pixels(control_rows(pixels=0.525))
    patch = count(pixels(control_rows(pixels=0.65)), left)      # the legend's, where nothing is left
    assert (count(full, left) - patch) / (count(half, left) - patch) == pytest.approx(2, rel=0.12)
    assert count(half, reached) > 1.2 * count(full, reached)


def test_pictures_of_whatever_there_is():
    assert pixels(ALL).shape[0] > pixels(ALL[:4]).shape[0]
    below = control_rows(probe=-0.52, random=-4.9, pixels=None)
    pixels(below), pixels(control_rows()[:1])
    assert Image.open(io.BytesIO(STUDY.plot(control_rows()[1:]))).width == 768       # controls alone
    page = STUDY.page(ALL)
    assert "nan" not in page and "None" not in page and STUDY.page(ALL[::-1]) == page


def test_controls_without_an_interval_are_named():
    assert "`latent`, `rgb`, `shuffled`: with an interval over seeds only." in STUDY.tables(ALL)
    told = {f"control_{c}_{end}": MEASURED[c] + by for c in ("latent", "rgb", "shuffled")
            for end, by in (("low", -0.01), ("high", 0.01))}
    rows = [r | told if r["control"] == "probe" else r for r in control_rows()]
    text = STUDY.tables(rows)
    assert "over seeds only" not in text and "| 0.17 [0.16, 0.18] | 0.05 [0.04, 0.06] |" in text
    assert set(told) <= set(columns(STUDY)) and "control_latent_low" not in columns(get_study("rank"))


LEVELS = ("generator,images,frechet,intrinsic,teacher,samples,steps,seed,skill,skill_low,skill_high,latent_skill,rgb_skill,"
          "random_skill,random_skill_low,random_skill_high\n"
          "g,200,9,normal,scenes,100,100,0,0.60,0.58,0.62,0.2,0.1,,,\n"
          "g,200,9,normal,scenes,100,300,0,0.65,0.63,0.67,0.2,0.1,,,\n"
          "g@1k,100,9,normal,scenes,100,10,0,0.50,0.48,0.52,0.2,0.1,0.30,0.28,0.32\n"
          "g,200,9,depth,scenes,100,100,0,0.40,0.38,0.42,0.2,0.1,,,\n"
          "g@1k,100,9,depth,scenes,100,100,0,0.30,0.28,0.32,0.2,0.1,,,\n")


def test_results_of_the_zoo_become_the_same_picture(tmp_path):
    rows = evaluate_levels.as_study(csv.DictReader(LEVELS.splitlines()))
    assert [(r["generator"], r["intrinsic"], r["skill"]) for r in rows] == [("g@1k", "normal", 0.5), ("g", "depth", 0.4)]
    normal, depth = (next(s for s in standings(rows) if s.intrinsic == i) for i in ("normal", "depth"))
    assert (normal.left.control, depth.left.control) == ("random", "latent")
    assert (normal.left.value, normal.left.low) == pytest.approx((0.2 / 0.7, 0.16 / 0.68))
    assert normal.missing == ("pixels", "shuffled", "crossed")
    (tmp_path / "g.csv").write_text(LEVELS)
    evaluate_levels.draw(tmp_path / "a.png", tmp_path)
    assert (tmp_path / "a.png").read_bytes() == STUDY.plot(rows)
    with pytest.raises(ValueError, match="figure: .* holds no results; --collect true"):
        evaluate_levels.draw(tmp_path / "b.png", tmp_path / "nothing")


def test_a_finished_run_is_a_row_with_its_controls_intervals(tmp_path):
    entry = dict(value=10, n=5, skill=0.6, skill_ci95=[0.5, 0.7], trivial=dict(value=25), controls=dict(
        latent=dict(value=20, skill=0.2, skill_ci95=[0.1, 0.3]), rgb=dict(value=25, skill=0.0)))
    (tmp_path / "metrics.json").write_text(json.dumps(dict(metrics=dict(rms=entry), primary="rms", protocol="p/1")))
    (tmp_path / "probe.json").write_text(json.dumps(dict(
        generator=dict(name="stylegan2-scenes"), intrinsic=dict(name="albedo", options={}), teacher=dict(name="scenes"),
        request=dict(seed=0, samples=10, steps=20))))
    row = evaluate_levels._row(tmp_path)
    assert (row["latent_skill"], row["latent_skill_low"], row["latent_skill_high"]) == (0.2, 0.1, 0.3)
    assert row["rgb_skill"] == 0.0 and row["rgb_skill_low"] is None
    (told,) = evaluate_levels.as_study(csv.DictReader(evaluate_levels._csv([row]).splitlines()))
    assert (told["control_latent_low"], told["skill_high"]) == (0.1, 0.7) and "control_rgb_low" not in told
    assert told["control_rgb"] == 0.0


def test_the_committed_picture_is_of_the_committed_results(tmp_path):
    evaluate_levels.main(figure=str(tmp_path / "controls.png"))
    fresh, kept = (np.asarray(Image.open(p).convert("L")).astype(int)
                   for p in (tmp_path / "controls.png", evaluate_levels.RESULTS / "controls.png"))
    assert fresh.shape == kept.shape, "run python -m zoo.evaluate_levels --figure zoo/results/controls.png"
    assert np.abs(fresh - kept).mean() < 3      # other fonts' rasterising

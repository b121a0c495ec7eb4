"""Every protocol by hand, by the libraries that define it, under masks, and pooled; what its numbers must not depend on."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from probes import metrics
from probes.data.colour import linear_to_srgb
from probes.metrics import EmptyMaskError, aggregate, aggregate_skill, get_protocol, prepare_depth, protocols

DEPTH = sorted(n for n, p in protocols().items() if "depth" in p.intrinsics and not n.endswith(("-nyu", "-kitti")))
MATRIX = [n for n in protocols() if not n.endswith("-nyu")]


def depth(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def turned(degrees):
    """Vectors that many degrees from facing the camera: [1, 3, 1, P]."""
    a = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([a.sin(), torch.zeros_like(a), -a.cos()])[None, :, None]


def pair(name, seed=0, count=2, size=24):
    """A target and a prediction not far from it, float32, of the protocol's first intrinsic."""
    rng = torch.Generator().manual_seed(seed)
    intrinsic = (get_protocol(name).intrinsics or ("albedo",))[0]
    a, b = (torch.rand(count, 1 if intrinsic == "depth" else 3, size, size, generator=rng) for _ in range(2))
    if intrinsic == "depth":
        return 1 + 5 * a + 0.3 * b, 1 + 5 * a
    if intrinsic == "normal":
        a = F.normalize(a - torch.tensor([0.5, 0.5, 1.5]).view(3, 1, 1), dim=1)
        return F.normalize(a + 0.4 * (b - 0.5), dim=1), a
    return 0.2 + 0.6 * a + 0.1 * b, 0.2 + 0.6 * a


def test_normals_by_hand():
    got = get_protocol("normal-per-image").score(turned([0, 4, 6, 10, 20, 25, 40, 95.0]), turned([0.0] * 8))
    angles = np.array([0, 4, 6, 10, 20, 25, 40, 95])
    assert got["mean_angular_error"].item() == pytest.approx(angles.mean())
    assert got["median_angular_error"].item() == pytest.approx(10)                       # the lower middle one
    assert got["rms_angular_error"].item() == pytest.approx(math.sqrt((angles ** 2).mean()))
    shares = [got[f"within_{t}"].item() for t in ("5", "7.5", "11.25", "22.5", "30")]
    assert shares == pytest.approx([2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8])
    by_hand = np.mean([np.sin(np.radians(angles)) + 1 - np.cos(np.radians(angles))]) / 3 * 100
    assert (got["l1"].item(), got["l1_rgb"].item()) == (pytest.approx(by_hand), pytest.approx(by_hand / 2))


def test_depth_by_hand():
    p, t = depth(1.0, 3.0, 2.0), depth(2.0, 2.0, 2.0)
    got = {k: v.item() for k, v in get_protocol("depth-metric").score(p, t).items()}
    g = np.log([0.5, 1.5, 1.0])
    assert got == pytest.approx(dict(
        rms=math.sqrt(2 / 3), rms_pooled=math.sqrt(2 / 3), abs_rel=1 / 3, sq_rel=1 / 3, rms_log=math.sqrt((g ** 2).mean()),
        log10=np.abs(g).mean() / math.log(10), silog=100 * math.sqrt((g ** 2).mean() - g.mean() ** 2),
        delta1=1 / 3, delta2=2 / 3, delta3=2 / 3, pixels=3))
    assert get_protocol("depth-metric").score(depth(-1.0, 2.0), depth(2.0, 2.0))["delta1"].item() == 0.5   # behind the camera
    by_median = get_protocol("depth-median").score(depth(1.0, 2.0, 6.0), depth(2.0, 4.0, 8.0))               # ×2: 2, 4, 12
    assert by_median["abs_rel"].item() == pytest.approx(0.5 / 3)


def test_alignment_by_hand():
    # the line through (0, 1), (1, 2), (2, 6) is 2.5 x + 0.5: residuals -0.5, 1, -0.5
    got = get_protocol("depth-affine").score(depth(0.0, 1.0, 2.0), depth(1.0, 2.0, 6.0))
    assert got["rms"].item() == pytest.approx(math.sqrt(1.5 / 3))
    assert got["abs_rel"].item() == pytest.approx((0.5 / 1 + 1 / 2 + 0.5 / 6) / 3)
    # disparities 1, 1/2, 1/4 against 2, 1, 0: 2 q + 0.25 fits none exactly; checked with numpy
    q, t = np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 4.0])
    a, b = np.polyfit(q, 1 / t, 1)
    aligned = 1 / np.maximum(a * q + b, 1 / 4)
    got = get_protocol("depth-affine-disparity").score(depth(*q), depth(*t))
    assert got["abs_rel"].item() == pytest.approx((np.abs(aligned - t) / t).mean())
    constant = get_protocol("depth-affine").score(depth(5.0, 5.0, 5.0), depth(1.0, 2.0, 6.0))                # the mean, 3
    assert constant["abs_rel"].item() == pytest.approx((2 + 0.5 + 0.5) / 3)


def test_disparity_is_clipped_at_the_farthest_point_or_the_cap():
    q, t = depth(1.0, 0.9, 0.8, -9.0, *[0.85] * 50), depth(2.0, 2.2, 2.5, 9.0, *[2.4] * 50)
    got = get_protocol("depth-affine-disparity").score(q, t)
    assert torch.isfinite(got["abs_rel"]) and got["abs_rel"] < 1


@pytest.mark.parametrize("name, change", [
    ("depth-affine", lambda p: 3 * p + 7), ("depth-affine", lambda p: 0.01 * p - 2), ("depth-affine", lambda p: -p),
    ("depth-affine-disparity", lambda p: 40 * p - 3), ("depth-median", lambda p: 9 * p), ("depth-minmax", lambda p: 2 * p + 5)])
def test_what_alignment_takes_away_does_not_count(name, change):
    p, t = (x.double() for x in pair(name))
    score = get_protocol(name).score
    before, after = score(p, t), score(change(p), t)
    for metric in before:
        torch.testing.assert_close(after[metric], before[metric], rtol=1e-9, atol=1e-9)
    assert before["rms"].min() > 0.01
    assert (score(p + 3 * torch.rand(p.shape, generator=torch.Generator().manual_seed(1)), t)["rms"] > before["rms"]).all()


def test_metric_depth_is_not_aligned():
    p, t = pair("depth-metric")
    score = get_protocol("depth-metric").score
    assert (score(2 * p, t)["abs_rel"] > 3 * score(p, t)["abs_rel"]).all()
    errors = [score(t * (1 + e), t)["abs_rel"].mean().item() for e in (0, 0.1, 0.2, 0.4)]
    assert errors == pytest.approx([0, 0.1, 0.2, 0.4], abs=1e-6)


def test_nyu_and_kitti_look_at_their_crops_between_their_caps():
    t = torch.full((1, 1, 480, 640), 4.0)
    p = t.clone()
    p[..., :45, :], p[..., 471:, :], p[..., :41], p[..., 601:] = 9.0, 9.0, 9.0, 9.0
    assert get_protocol("depth-metric-nyu").score(p, t)["rms"].item() == 0
    for row, column in ((45, 41), (470, 600)):
        q = p.clone()
        q[..., row, column] = 5.0
        rms = get_protocol("depth-metric-nyu").score(q, t)["rms"].item()
        assert rms == pytest.approx(1 / math.sqrt(426 * 560), rel=1e-4)
    t[..., 100, 100], p[..., 200, 200] = 10.0, 50.0                                      # truth at the cap is left out
    got = get_protocol("depth-metric-nyu").score(p, t)
    assert got["pixels"].item() == 426 * 560 - 1 and got["rms"].item() == pytest.approx(6 / math.sqrt(426 * 560 - 1), rel=1e-4)
    with pytest.raises(ValueError, match="480 × 640 pixels, got 24 × 24"):
        get_protocol("depth-metric-nyu").score(*pair("depth-metric"))
    t = torch.full((1, 1, 375, 1242), 20.0)
    t[..., 200, 600] = 80.0
    inside = (int(0.99189189 * 375) - int(0.40810811 * 375)) * (int(0.96405229 * 1242) - int(0.03594771 * 1242))
    got = get_protocol("depth-metric-kitti").score(torch.full_like(t, 500.0), t)
    assert got["pixels"].item() == inside - 1 == (371 - 153) * (1197 - 44) - 1
    assert got["abs_rel"].item() == pytest.approx(3)                                     # clipped to 80 m
    assert {"depth-affine-nyu", "depth-affine-disparity-kitti", "depth-median-kitti"} <= set(protocols())


@pytest.mark.parametrize("name", MATRIX)
def test_what_has_no_truth_does_not_count(name):
    """Scores under a mask are those of the pixels that are left, whatever stands elsewhere."""
    p, t = pair(name, size=32)
    score = get_protocol(name).score
    masked, spoilt = t.clone(), p.clone()
    masked[:, -1:, :, 16:], spoilt[:, :, :, 16:] = torch.nan, torch.nan                   # one channel is enough
    got = score(spoilt, masked)
    if not name.endswith("-kitti"):                                                      # whose crop depends on the width
        alone = score(p[..., :16], t[..., :16])
        for metric in set(get_protocol(name).metrics) - {"lmse"}:                        # whose windows depend on the size
            torch.testing.assert_close(got[metric], alone[metric], rtol=2e-5, atol=1e-6)
    assert all(torch.isfinite(got[m]).all() for m in get_protocol(name).metrics)


@pytest.mark.parametrize("name", MATRIX)
def test_holes_are_an_error_or_are_counted(name):
    p, t = pair(name, size=32)
    protocol = get_protocol(name)
    p[1, :, 16:20, 10:30] = torch.inf
    counted = int(protocol.valid(t)[1, 16:20, 10:30].sum())
    with pytest.raises(ValueError, match=rf"prediction: kitchen: {counted} of the {int(protocol.valid(t)[1].sum())} pixels"):
        protocol.score(p, t, names=("hall", "kitchen"))
    got = protocol.score(p, t, allow_holes=True)
    assert got["coverage"].tolist() == pytest.approx([1, 1 - counted / int(protocol.valid(t)[1].sum())])
    torch.testing.assert_close(got[protocol.primary][:1], protocol.score(p[:1], t[:1])[protocol.primary])
    with pytest.raises(ValueError, match=r"of the target's shape \[2, \d, 32, 32\], got \[2, \d, 32, 30\]"):
        protocol.score(p[..., :30], t)


@pytest.mark.parametrize("name", MATRIX)
def test_a_sample_without_truth_is_named_alone_and_nan_among_others(name):
    p, t = pair(name, count=3, size=32)
    t[1] = torch.nan
    protocol = get_protocol(name)
    with pytest.raises(EmptyMaskError, match="attic: no pixel to score by .*holds no value anywhere"):
        protocol.score(p[1:2], t[1:2], names=("attic",))
    scores = {k: v.numpy() for k, v in protocol.score(p, t).items()}
    assert np.isnan(scores[protocol.primary]).tolist() == [False, True, False]
    table = aggregate(protocol, scores)
    for metric in protocol.metrics:
        without = aggregate(protocol, {k: v[[0, 2]] for k, v in scores.items()})[metric]
        assert table[metric] == without and table[metric]["n"] == 2 and np.isfinite(table[metric]["value"])
    nothing = {k: v.numpy() for k, v in protocol.score(p[:2] * 0 + 1, t[:2] * torch.nan).items()}
    assert nothing.keys() == scores.keys()
    with pytest.raises(EmptyMaskError, match="none of the 2 samples"):
        aggregate(protocol, nothing)


def test_a_depth_of_zero_is_no_truth():
    assert get_protocol("depth-metric").score(depth(1.0, 9.0), depth(1.0, 0.0))["abs_rel"].item() == 0
    with pytest.raises(EmptyMaskError, match="lie outside what counts"):
        get_protocol("depth-metric").score(depth(1.0), depth(0.0))


def test_similarity_is_that_of_the_libraries():
    rng = torch.Generator().manual_seed(3)
    t = torch.rand(3, 3, 40, 53, generator=rng)
    t[1] = F.avg_pool2d(t[1], 5, 1, 2)                                                    # smooth, too
    p = (t + 0.1 * torch.randn(t.shape, generator=rng)).clamp(0, 1)
    got = get_protocol("image-similarity").score(p, t)
    skimage = pytest.importorskip("skimage.metrics")
    for i in range(3):
        expected = skimage.structural_similarity(
            t[i].double().numpy(), p[i].double().numpy(), channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False)
        assert got["ssim"][i].item() == pytest.approx(expected, abs=1e-6)
        psnr = skimage.peak_signal_noise_ratio(t[i].numpy(), p[i].numpy(), data_range=1)
        assert got["psnr"][i].item() == pytest.approx(psnr, abs=1e-4)
    functional = pytest.importorskip("torchmetrics.functional.image")
    _, windows = functional.structural_similarity_index_measure(p, t, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(got["ssim"], windows[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=2e-5, rtol=0)    # inside the image
    expected = functional.peak_signal_noise_ratio(p, t, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(got["psnr"], expected, atol=1e-4, rtol=0)
    assert get_protocol("image-similarity").score(t, t)["psnr"].tolist() == pytest.approx([100] * 3)
    with pytest.raises(ValueError, match="at least 11 × 11 pixels, got 8 × 8"):
        get_protocol("image-similarity").score(t[..., :8, :8], t[..., :8, :8])


def test_depth_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional")
    p, t = (x.double() for x in pair("depth-metric", count=1))
    got = get_protocol("depth-metric").score(p, t)
    assert got["rms"].item() == pytest.approx(functional.mean_squared_error(p.flatten(), t.flatten(), squared=False).item())
    assert got["abs_rel"].item() == pytest.approx(functional.mean_absolute_percentage_error(p.flatten(), t.flatten()).item())
    log = functional.mean_squared_error(p.flatten().log(), t.flatten().log(), squared=False).item()
    assert got["rms_log"].item() == pytest.approx(log)


def test_a_window_with_a_hole_is_left_out_of_ssim():
    p, t = pair("image-similarity", size=30)
    t[:, :, 15:] = torch.nan
    whole = get_protocol("image-similarity").score(p[:, :, :15], t[:, :, :15])["ssim"]
    torch.testing.assert_close(get_protocol("image-similarity").score(p, t)["ssim"], whole, rtol=1e-6, atol=1e-7)
    t[:, :, ::10, ::10] = torch.nan                                                       # no whole window is left
    assert torch.isnan(get_protocol("image-similarity").score(p, t)["ssim"]).all()


def test_scale_invariant_errors_by_hand_and_by_invariance():
    def srgb(*linear):
        return linear_to_srgb(torch.tensor(linear, dtype=torch.float64)).view(1, 1, 2, 2)

    p, t = (0.1, 0.2, 0.3, 0.4), (0.1, 0.4, 0.6, 0.5)
    alpha = np.dot(p, t) / np.dot(p, p)
    mse = np.mean((alpha * np.array(p) - t) ** 2)
    score = get_protocol("image-si").score
    got = score(srgb(*p), srgb(*t))
    assert (got["si_mse"].item(), got["si_rms"].item()) == (pytest.approx(mse), pytest.approx(math.sqrt(mse)))
    assert got["lmse"].item() == pytest.approx(4 * mse / np.dot(t, t))                    # one window: the whole image
    halved = score(srgb(*np.array(p) / 2), srgb(*t))
    for metric in got:
        torch.testing.assert_close(halved[metric], got[metric], rtol=1e-6, atol=0)
    assert score(srgb(0, 0, 0, 0), srgb(*t))["si_mse"].item() == pytest.approx(np.mean(np.square(t)))


def test_local_error_forgives_a_scale_that_drifts():
    rng = torch.Generator().manual_seed(0)
    t = 0.2 + 0.6 * torch.rand(1, 1, 60, 80, generator=rng, dtype=torch.float64)
    drift = torch.linspace(0.5, 1.2, 80, dtype=torch.float64)
    p = t * drift
    got = get_protocol("image-si").score(linear_to_srgb(p), linear_to_srgb(t))
    assert got["lmse"] < 0.1 * got["si_mse"] / t.square().mean()
    windows = [(y, x) for y in range(0, 41, 10) for x in range(0, 61, 10)]                # all that lie inside, by hand
    error = energy = 0.0
    for y, x in windows:
        a, b = p[..., y:y + 20, x:x + 20], t[..., y:y + 20, x:x + 20]
        error += float(((a * b).sum() / (a * a).sum() * a - b).square().sum())
        energy += float((b * b).sum())
    assert got["lmse"].item() == pytest.approx(error / energy, rel=1e-9)


def test_pooled_normals_weigh_images_by_their_pixels():
    """100 pixels at 10°, and 20 at 40°: per image the mean is 25°, pooled it is 15°."""
    p = torch.cat([turned([10.0] * 100), turned([40.0] * 100)])
    t = turned([0.0] * 100).repeat(2, 1, 1, 1)
    t[1, :, :, 20:] = torch.nan
    tables = {n: aggregate(get_protocol(n), {k: v.numpy() for k, v in get_protocol(n).score(p, t).items()})
              for n in ("normal-per-image", "normal-pooled")}
    mean, rms = ({n: table[f"{m}_angular_error"]["value"] for n, table in tables.items()} for m in ("mean", "rms"))
    assert (mean["normal-per-image"], mean["normal-pooled"]) == (pytest.approx(25), pytest.approx(15))
    assert rms["normal-pooled"] == pytest.approx(math.sqrt((100 * 100 + 20 * 1600) / 120)) and rms["normal-per-image"] == 25
    assert tables["normal-pooled"]["within_11.25"]["value"] == pytest.approx(100 / 120)
    assert tables["normal-pooled"]["mean_angular_error"]["ci95"] == [pytest.approx(10), pytest.approx(40)]
    assert tables["normal-pooled"]["mean_angular_error"]["n"] == 2


def test_the_pooled_median_is_that_of_all_pixels():
    rng = torch.Generator().manual_seed(0)
    angles = [90 * torch.rand(n, generator=rng).double() ** 2 for n in (50, 5000, 700)]
    pooled = get_protocol("normal-pooled")
    parts = [pooled.score(turned(a.tolist()), turned([0.0] * len(a))) for a in angles]
    scores = {k: torch.cat([p[k] for p in parts]).numpy() for k in parts[0]}
    table = aggregate(pooled, scores)["median_angular_error"]
    assert table["value"] == pytest.approx(torch.cat(angles).median().item(), abs=0.01)
    assert scores["histogram"].sum(1).tolist() == [50, 5000, 700]
    low, high = table["ci95"]
    assert low <= table["value"] + 0.1 and low < high and high >= table["value"] - 0.1


def test_rms_of_all_pixels_is_not_the_mean_of_rms():
    t = torch.full((2, 1, 1, 10), 5.0)
    p = t + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    t[1, ..., 5:] = torch.nan
    table = aggregate(get_protocol("depth-metric"), {k: v.numpy() for k, v in get_protocol("depth-metric").score(p, t).items()})
    assert table["rms"]["value"] == pytest.approx(2)
    assert table["rms_pooled"]["value"] == pytest.approx(math.sqrt((10 * 1 + 5 * 9) / 15))


def test_pooled_intervals_cover_and_widen_with_what_images_differ_in():
    """The truth is 20°: of 60 samples with different means and sizes, 95 % intervals should hold it nearly always."""
    pooled, covered = get_protocol("normal-pooled"), 0
    rng = np.random.default_rng(0)
    for seed in range(60):
        means, pixels = rng.normal(20, 5, 80), rng.integers(100, 2000, 80).astype(float)
        only = replace(pooled, metrics={"mean_angular_error": pooled.metrics["mean_angular_error"]})
        low, high = aggregate(only, dict(mean_angular_error=means, pixels=pixels), 500, seed)["mean_angular_error"]["ci95"]
        covered += low < 20 < high
        assert 1 < high - low < 4                                                        # 2 · 1.96 · 5 / √80 = 2.2, and sizes
    assert covered >= 51


def test_skill_is_paired_whatever_is_pooled():
    pooled = get_protocol("normal-pooled")
    p, t = pair("normal-pooled", count=6)
    t[2, :, 8:] = torch.nan
    scores = {k: v.numpy() for k, v in pooled.score(p, t).items()}
    half = {k: v / 2 if k in pooled.metrics else v for k, v in scores.items()}
    skill = aggregate_skill(pooled, half, scores)
    assert skill["mean_angular_error"] == dict(skill=pytest.approx(0.5), skill_ci95=[pytest.approx(0.5)] * 2)
    assert skill["rms_angular_error"]["skill"] == pytest.approx(0.5)
    assert skill["within_30"] == dict(skill=None, skill_ci95=None)
    table = metrics.summarise(pooled, half, scores, {"rgb": (scores, scores)})
    assert table["mean_angular_error"]["trivial"]["value"] == pytest.approx(2 * table["mean_angular_error"]["value"])
    assert table["mean_angular_error"]["controls"]["rgb"]["skill"] == pytest.approx(0)
    with pytest.raises(ValueError, match="no column 'histogram'"):
        aggregate(pooled, {k: v for k, v in scores.items() if k != "histogram"})


def test_full_maps_score_as_they_did_before_there_were_masks():
    """The definitions of version 1, written out on whole batches."""
    p, t = pair("normal-per-image")
    got, angle = get_protocol("normal-per-image").score(p, t), metrics.angular_error(p, t).flatten(1)
    torch.testing.assert_close(got["mean_angular_error"], angle.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(got["median_angular_error"], angle.median(1).values, rtol=0, atol=0)
    torch.testing.assert_close(got["l1"], (p - t).abs().mean((1, 2, 3)) * 100, rtol=1e-6, atol=0)
    p, t = pair("depth-metric")
    got, ratio = get_protocol("depth-metric").score(p, t), torch.maximum(p / t, t / p)
    torch.testing.assert_close(got["abs_rel"], ((p - t).abs() / t).mean((1, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(got["delta1"], (ratio < 1.25).float().mean((1, 2, 3)), rtol=1e-6, atol=0)
    p, t = pair("image-rms")
    torch.testing.assert_close(get_protocol("image-rms").score(p, t)["rms"], (p - t).square().mean((1, 2, 3)).sqrt())
    assert {p.version for p in protocols().values()} == {1}
    assert [get_protocol(n).primary for n in ("normal-per-image", "depth-metric", "depth-minmax", "image-rms")] == [
        "mean_angular_error", "rms", "rms", "rms"]


@pytest.mark.parametrize("name", protocols())
def test_every_protocol_says_what_it_is(name):
    protocol = get_protocol(name)
    assert protocol.description and protocol.formula and protocol.source and protocol.aggregate in ("images", "pixels")
    assert all(m.better in ("lower", "higher") and m.pool in ("mean", "rms", "median") for m in protocol.metrics.values())
    assert ("depth" in protocol.intrinsics) == bool(protocol.accepts) == bool(protocol.wants) == bool(protocol.truth)
    with pytest.raises(ValueError, match="already registered"):
        metrics.register_protocol(replace(protocol))


def test_depth_is_brought_to_what_a_protocol_compares():
    p = torch.tensor([2.0, 4.0, 0.0]).view(1, 1, 1, 3)
    as_disparity = prepare_depth(p, "metric", get_protocol("depth-affine-disparity"))
    torch.testing.assert_close(as_disparity.flatten()[:2], torch.tensor([0.5, 0.25]))
    assert torch.isnan(as_disparity.flatten()[2])
    assert prepare_depth(p, "relative", get_protocol("depth-affine")) is p
    assert prepare_depth(p, "disparity", get_protocol("depth-affine-disparity")) is p
    assert prepare_depth(p, "disparity", get_protocol("depth-minmax"), truth="disparity") is p
    assert prepare_depth(p, "metric", get_protocol("depth-minmax"), truth="disparity").flatten()[0] == 0.5
    for meaning, name, truth, advice in (("relative", "depth-metric", "metric", "use depth-affine or depth-relative"),
                                         ("disparity", "depth-affine", "metric", "use depth-affine-disparity"),
                                         ("relative", "depth-affine-disparity", "metric", "use depth-affine or"),
                                         ("metric", "depth-affine", "relative", "use depth-relative or"),
                                         ("disparity", "depth-minmax", "relative", "nothing compares these"),
                                         ("metric", "normal-pooled", "metric", "use depth-metric or")):
        with pytest.raises(ValueError, match=advice):
            prepare_depth(p, meaning, get_protocol(name), truth)
    with pytest.raises(ValueError, match="meaning: expected one of metric, relative, disparity, got 'inverse'"):
        prepare_depth(p, "inverse", get_protocol("depth-metric"))

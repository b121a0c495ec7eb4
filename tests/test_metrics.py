"""Protocols against hand-computed cases; intervals; intrinsics' codings; the Fréchet distance; Retinex."""
import math

import numpy as np
import pytest
import torch

import probes
from generators._names import UnknownNameError
from probes import _quantiles, metrics
from probes.frechet import frechet_distance
from probes.report import result_table
from probes.teachers import get_teacher
from probes.teachers._retinex import integrate


def unit(x, y, z):
    return torch.tensor([x, y, z], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 2, 2)


def test_angular_errors_by_hand():
    facing, floor = unit(0, 0, -1), unit(0, -1, 0)
    tilted = unit(0, -math.sin(math.radians(20)), -math.cos(math.radians(20)))
    score = metrics.get_protocol("normal-per-image").score
    assert score(facing, facing)["mean_angular_error"].item() == 0
    assert score(floor, facing)["mean_angular_error"].item() == pytest.approx(90, abs=1e-4)
    got = score(tilted, facing)
    assert got["mean_angular_error"].item() == pytest.approx(20, abs=1e-4)
    assert (got["within_11.25"].item(), got["within_22.5"].item()) == (0, 1)
    assert score(-facing, facing)["mean_angular_error"].item() == pytest.approx(180, abs=1e-4)


def test_depth_and_rms_by_hand():
    target = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 2, 2)
    got = metrics.get_protocol("depth-metric").score(target * 1.2, target)
    assert got["abs_rel"].item() == pytest.approx(0.2, abs=1e-6) and got["delta1"].item() == 1
    assert got["rms"].item() == pytest.approx(0.2 * math.sqrt(85 / 4), rel=1e-5)
    assert metrics.get_protocol("depth-metric").score(target * 1.3, target)["delta1"].item() == 0
    rms = metrics.get_protocol("image-rms").score(torch.full((1, 3, 2, 2), 0.75), torch.full((1, 3, 2, 2), 0.5))
    assert rms["rms"].item() == pytest.approx(0.25)
    with pytest.raises(UnknownNameError, match="depth-metric"):
        metrics.get_protocol("depth-metrics")


def test_intervals_cover_and_skill_is_paired():
    rng = np.random.default_rng(1)
    drawn = [rng.normal(3, 1, 100) for _ in range(100)]
    means = [metrics.bootstrap_mean(values, seed=i) for i, values in enumerate(drawn)]
    assert 88 <= sum(lo < 3 < hi for lo, hi in means) <= 100
    wide = np.mean([(hi - lo) / (2 * 1.96 * values.std() / 10) for (lo, hi), values in zip(means, drawn, strict=True)])
    assert wide == pytest.approx(1, abs=0.03)                                   # 0.84 were they 90 % intervals
    trivial = rng.uniform(1, 9, 200)
    lo, hi = metrics.bootstrap_skill(trivial / 2, trivial)
    assert lo == pytest.approx(0.5) and hi == pytest.approx(0.5)
    protocol = metrics.get_protocol("image-rms")
    table = metrics.summarise(protocol, dict(rms=trivial / 2, l1=trivial), dict(rms=trivial, l1=trivial), {})
    assert table["rms"]["skill"] == pytest.approx(0.5) and table["l1"]["skill"] == pytest.approx(0)


@pytest.mark.parametrize("name", probes.intrinsics())
def test_codings_round_trip(name):
    intrinsic = probes.get_intrinsic(name)
    values = torch.rand(2, intrinsic.channels, 4, 4, generator=torch.Generator().manual_seed(0))
    values = torch.nn.functional.normalize(values - 0.5, dim=1) if name == "normal" else values
    values = values * 5 + 1 if name == "depth" else values
    image = intrinsic.to_image(values)
    assert image.shape == (2, 3, 4, 4) and image.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(intrinsic.to_map(image), values, atol=1e-5, rtol=1e-5)
    assert intrinsic.loss(image, image).item() == pytest.approx(0, abs=1e-6)
    assert intrinsic.loss(image * 0.5, image).item() > 0.01


def test_intrinsics_are_registered_once_and_options_are_checked():
    with pytest.raises(ValueError, match="already"):
        depth = probes.get_intrinsic("depth")
        probes.register_intrinsic(depth.with_options({"far": 20.0}))
    with pytest.raises(ValueError, match="no option 'gamma'"):
        probes.get_intrinsic("albedo").with_options({"gamma": 2})
    with pytest.raises(ValueError, match="did you mean 'normal'"):
        probes.get_intrinsic("normals")


def test_frechet_distance_of_gaussians():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 8, generator=rng)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(8 * 4, rel=1e-6)
    assert frechet_distance(a, a * 3) == pytest.approx(8 * 4, rel=0.1)          # (3 - 1)² a dimension
    b = torch.randn(4000, 8, generator=rng)
    assert 0 < frechet_distance(a, b) < 0.05


def test_retinex_separates_a_painted_edge_from_a_gradient():
    field = torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    back = integrate(field.diff(dim=2), field.diff(dim=3))
    torch.testing.assert_close(back, field - field.mean((2, 3), keepdim=True), atol=1e-4, rtol=1e-4)
    ramp = torch.linspace(0.2, 0.9, 32).expand(32, 32)
    colour = torch.where(torch.arange(32)[:, None] < 16, torch.tensor([0.8, 0.2, 0.2])[:, None, None],
                         torch.tensor([0.2, 0.3, 0.8])[:, None, None])
    image = probes.data.colour.linear_to_srgb(colour * ramp)[None] * 2 - 1
    teacher = get_teacher("retinex", "albedo")
    shading = probes.data.colour.srgb_to_linear(teacher.label(image, "shading"))[0, 0]
    assert np.corrcoef(shading.flatten(), ramp.flatten())[0, 1] > 0.99
    assert (shading[12, 16] / shading[20, 16]).item() == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="cannot label normal.*albedo"):
        get_teacher("retinex", "normal")


def test_one_sample_has_no_interval():
    """Resampling it would say that it is certain."""
    rng = torch.Generator().manual_seed(0)
    maps, target, base = (torch.rand(1, 3, 8, 8, generator=rng) for _ in range(3))
    protocol = metrics.get_protocol("image-rms")
    own, trivial = ({k: v.numpy() for k, v in protocol.score(m, target).items()} for m in (maps, base))
    told = metrics.summarise(protocol, own, trivial, {})
    assert told["rms"]["ci95"] is None and told["rms"]["skill_ci95"] is None and told["rms"]["skill"] is not None
    assert "±" not in str([c for column in result_table(dict(protocol="p", primary="rms", metrics=told, seeds=[0, 1],
                                                             against="x 1")).columns for c in column.cells])


@pytest.fixture
def small_quantiles(monkeypatch):
    """Images of more values than torch finds quantiles of, as photographs of 24 megapixels have: here from 501 on."""
    known = torch.Tensor.nanquantile

    def nanquantile(self, q, dim=None, **options):
        if self.shape[dim] > 500:
            raise RuntimeError("quantile() input tensor is too large")
        return known(self, q, dim, **options)

    monkeypatch.setattr(torch.Tensor, "nanquantile", nanquantile)
    monkeypatch.setattr(_quantiles, "_MOST", 500)


def test_quantiles_of_more_values_than_torch_takes():
    values = torch.arange(2**24 + 2**12).view(1, -1).float()
    values[0, 0] = torch.nan
    low, high = _quantiles.quantiles(values, (0.01, 0.99))
    assert low.shape == (1,) and float(high) == pytest.approx(0.99 * (2**24 + 2**12), rel=1e-6) and float(low) > 1e5


@pytest.mark.parametrize("what", ["retinex", "percentile"])
def test_large_images_are_labelled_and_encoded_as_small_ones(what, request):
    def made():
        image = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
        if what == "retinex":
            return get_teacher("retinex", "shading").label(image * 2 - 1, "shading")
        return probes.get_intrinsic("depth").with_options(dict(encoding="percentile")).to_image(image[:, :1] + 1)

    expected = made()
    request.getfixturevalue("small_quantiles")
    torch.testing.assert_close(made(), expected, rtol=0, atol=1e-6)


def test_relative_depth_of_large_maps_is_scored(small_quantiles):
    rng = torch.Generator().manual_seed(0)
    t = torch.rand(1, 1, 40, 50, generator=rng)
    p = t + 0.1 * torch.rand(1, 1, 40, 50, generator=rng)
    a, b = np.polyfit(p.flatten().double(), t.flatten().double(), 1)
    low, high = np.quantile(t.double(), [0.02, 0.98])
    score = metrics.get_protocol("depth-relative").score(p, t)
    assert float(score["rms"]) == pytest.approx(float(((a * p + b - t) / (high - low)).square().mean().sqrt()), rel=1e-5)


def test_relative_depth_is_compared_between_its_ends():
    relative = probes.get_intrinsic("depth").with_options(dict(encoding="relative"))
    assert relative.protocol == "depth-minmax" and probes.get_intrinsic("depth").protocol == "depth-metric"
    metres = torch.tensor([[[[2.0, 4.0], [6.0, 3.0]]]])
    encoded = relative.to_image(metres)
    torch.testing.assert_close(relative.to_map(encoded), torch.tensor([[[[0.0, 0.5], [1.0, 0.25]]]]))
    scores = metrics.get_protocol("depth-minmax").score(torch.tensor([[[[0.1, 0.3], [0.5, 0.2]]]]), relative.to_map(encoded))
    torch.testing.assert_close(scores["rms"], torch.zeros(1))                                 # scale and shift are no error
    scores = metrics.get_protocol("depth-minmax").score(torch.tensor([[[[0.0, 0.5], [1.0, 0.75]]]]), relative.to_map(encoded))
    torch.testing.assert_close(scores["rms"], torch.tensor([0.25]))
    torch.testing.assert_close(scores["l1"], torch.tensor([0.125]))


def test_relative_depth_by_hand():
    """Any scale and shift is forgiven, and errors are shares of the truth's range."""
    t = torch.linspace(0, 1, 101).view(1, 1, 1, 101)
    score = metrics.get_protocol("depth-relative").score
    assert score(5 - 3 * t, t)["rms"].item() < 1e-6 and score(t * 7 + 2, t * 40 + 9)["l1"].item() < 1e-6
    wave = 0.1 * torch.cos(torch.arange(101) * torch.pi).view_as(t)         # nearly orthogonal to scale and shift
    left = (0.085 * 0.01 / 0.095) ** 0.5 / 0.96                              # var t = 0.085, var wave = 0.01, range 0.96
    assert score(t + wave, t)["rms"].item() == pytest.approx(left, rel=0.01)
    assert score((t + wave) * 2, t * 30 - 4)["rms"].item() == pytest.approx(left, rel=0.01)


def test_a_vector_without_a_direction_agrees_with_none():
    target = torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert metrics.get_protocol("normal-per-image").score(torch.zeros_like(target), target)["mean_angular_error"].item() == 90


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    p, t = torch.tensor([1.0, 2, 3, 10]).view(1, 1, 1, 4), torch.tensor([1.0, 2, 5, 10]).view(1, 1, 1, 4)
    expected = (p * 3.5 / 2.5 - t).square().mean().sqrt().item()
    assert metrics.get_protocol("depth-median").score(p, t)["rms"].item() == pytest.approx(expected)


def test_a_sample_without_pixels_is_nan_alone_too_where_that_is_allowed():
    empty = torch.full((1, 1, 4, 4), torch.nan)
    scores = metrics.get_protocol("depth-metric").score(torch.ones(1, 1, 4, 4), empty, allow_empty=True)
    assert scores["rms"].isnan().all()

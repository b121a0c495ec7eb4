"""Depth encodings by hand, their round trips, what suits which teacher, and maps with holes on every road."""
import math

import pytest
import torch
from families import FAMILIES
from tiny import SMALL

import adapters
import probes
from probes import BankError, _depth
from probes._bank import Request, open_bank
from probes._processes import ALONE
from probes._train import Schedule, _learn
from probes.data import Data, resize_map
from probes.teachers import Teacher

STYLEGAN2 = FAMILIES["stylegan2"][0]
DEPTH = probes.get_intrinsic("depth")
METRES = torch.linspace(1, 8, 64).view(1, 1, 8, 8)


def options(encoding, **others):
    return {**_depth.OPTIONS, "near": 1.0, "far": 8.0, "encoding": encoding, **others}


@pytest.mark.parametrize("encoding, half_way", [("log", math.sqrt(8)), ("linear", 4.5), ("disparity", 16 / 9)])
def test_metric_encodings_span_their_range_and_come_back(encoding, half_way):
    about = options(encoding)
    image = _depth.encode(METRES, about)
    assert image.min().item() == pytest.approx(-1, abs=1e-6) and image.max().item() == pytest.approx(1, abs=1e-6)
    assert _depth.decode(image.expand(-1, 3, -1, -1), about).sub(METRES).abs().max() < 1e-5
    middle = _depth.encode(torch.full((1, 1, 1, 1), half_way), about)
    assert middle.item() == pytest.approx(0, abs=1e-6)
    assert (image.flatten()[0] > image.flatten()[-1]) == (encoding == "disparity")      # what is near is bright there


def test_encodings_of_an_image_s_own_range():
    relative = _depth.encode(METRES * 3 + 1, options("relative"))
    assert torch.allclose(relative, (METRES - 1) / 7 * 2 - 1, atol=1e-6)                # whatever scale and shift
    percentile = _depth.encode(METRES, options("percentile")).flatten()
    low, high = 1 + 7 * 0.02, 1 + 7 * 0.98
    assert percentile[0] == -1 and percentile[-1] == 1                                  # clipped beyond the ends
    assert percentile[20].item() == pytest.approx((METRES.flatten()[20].item() - low) / (high - low) * 2 - 1, abs=1e-5)
    outlier = METRES.clone()
    outlier[..., 0, 0] = 1000.0
    assert _depth.encode(outlier, options("percentile")).flatten()[40] > 0
    assert _depth.encode(outlier, options("relative")).flatten()[40] < -0.98            # why percentiles are used


@pytest.mark.parametrize("encoding", _depth.MEANINGS)
def test_missing_pixels_stay_missing_and_do_not_move_the_others(encoding):
    holes = METRES.clone()
    holes[..., 3, :4] = torch.nan
    image = _depth.encode(holes, options(encoding))
    assert image.isnan().sum() == 4 and image.isnan()[..., 3, :4].all()
    if encoding != "percentile" and encoding != "inverse":
        kept = ~image.isnan()
        assert torch.allclose(image[kept], _depth.encode(METRES, options(encoding))[kept])


@pytest.mark.parametrize("meaning, suggested, wanted, own, expected", [
    ("metric", {}, None, "linear", "linear"), ("metric", {}, "percentile", "linear", "percentile"),
    ("metric", {}, None, "log", "log"), ("metric", dict(encoding="log"), None, "linear", "log"),
    ("relative", dict(encoding="percentile"), None, "linear", "percentile"),
    ("relative", dict(encoding="percentile"), None, "relative", "relative"),
    ("disparity", dict(encoding="inverse"), None, "linear", "inverse"),
])
def test_what_was_asked_for_comes_before_what_the_teacher_suggests(meaning, suggested, wanted, own, expected):
    assert _depth.chosen(options(own), suggested, wanted, meaning)["encoding"] == expected


@pytest.mark.parametrize("meaning, wanted, possible", [
    ("relative", "log", "relative, percentile"), ("disparity", "percentile", "inverse"), ("metric", "inverse", "log, linear")])
def test_an_encoding_that_cannot_hold_a_teacher_s_depth_is_refused(meaning, wanted, possible):
    with pytest.raises(ValueError, match=f"encoding: {wanted} cannot hold .* {meaning}; choose of {possible}"):
        _depth.chosen(options("log"), {}, wanted, meaning)


def test_bad_encodings():
    with pytest.raises(ValueError, match="did you mean 'percentile'"):
        DEPTH.with_options(dict(encoding="percentil"))
    with pytest.raises(ValueError, match="near=3 and far=2"):
        DEPTH.with_options(dict(near=3, far=2))
    with pytest.raises(ValueError, match="encoding: .* normal has one way only"):
        probes.fit(STYLEGAN2(), encoding="log", **{**SMALL, "intrinsic": "normal", "teacher": "scenes"})
    assert DEPTH.with_options(dict(encoding="inverse")).meaning == "disparity"


def test_resizing_takes_valid_pixels_only():
    values = torch.full((1, 8, 8), torch.nan)
    values[:, :, :4] = 2.0
    small = resize_map(values, (4, 4), "depth")
    assert torch.equal(small[0, :, 0], torch.full((4,), 2.0)) and small[0, :, 3].isnan().all()
    assert set(small[~small.isnan()].tolist()) == {2.0}             # never a mixture with what is not there
    normals = torch.nn.functional.normalize(torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)), dim=0)
    assert torch.allclose(resize_map(normals, (5, 7), "normal").norm(dim=0), torch.ones(5, 7), atol=1e-5)


class Half(Teacher):
    """Knows nothing of the left half."""

    name, version, licence, intrinsics, worlds, masked = "half", "1", "Apache-2.0", ("depth", "albedo"), ("scenes",), True

    def label(self, image, intrinsic):
        values = image.mean(1, keepdim=True).sigmoid() * 6 + 1 if intrinsic == "depth" else image.clamp(-1, 1) / 2 + 0.5
        values[..., :image.shape[3] // 2] = torch.nan
        return values


def test_a_bank_keeps_the_holes_and_its_mean_has_none(tmp_path):
    generator = STYLEGAN2()
    albedo = probes.get_intrinsic("albedo")
    request = Request(generator, Half(), albedo, 0, 12)
    bank = open_bank(request, tmp_path)
    half = generator.resolution // 2
    assert bank.targets[..., :half].dtype == "float16" and torch.isfinite(bank.mean).all()
    assert bank.target(slice(0, 4))[..., :half].isnan().all() and not bank.target(slice(0, 4))[..., half:].isnan().any()
    assert bank.filled(slice(0, 4)).isfinite().all()


def test_the_gradient_is_that_of_the_valid_half(tmp_path):
    generator, albedo = STYLEGAN2(), probes.get_intrinsic("albedo")
    bank = open_bank(Request(generator, Half(), albedo, 0, 12), tmp_path)
    adapter = adapters.attach(generator, "masked", seed=0)
    for name, value in adapter.parameters().items():
        if "lora_B" in name:
            torch.nn.init.normal_(value.data, std=0.1, generator=torch.Generator().manual_seed(1))
    values = list(adapter.parameters().values())
    shares = Schedule(1, 4, 0.01, 0).shares(0, len(bank))
    with adapter.active(train=True):
        loss = _learn(adapter, bank, albedo, shares, ALONE, values)
        got = [value.grad.clone() for value in values]
        for value in values:
            value.grad = None
        state, target = bank.lesson(shares[0][0])
        half = generator.resolution // 2
        error = (generator.forward(state) - target)[..., half:].square().mean() / 2     # half of all pixels
        error.backward()
    assert loss == pytest.approx(error.item(), rel=1e-5)
    assert all(torch.allclose(a, b.grad, rtol=1e-4, atol=1e-8) for a, b in zip(got, values, strict=True))


class Holes(Data):
    name, world, count, exact, masked, size = "holes", "scenes", 40, ("depth", "normal"), True, 32

    def images(self, indices, size):
        return torch.stack([torch.rand(3, size, size, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in indices])

    def truth(self, indices, size, intrinsic):
        values = self.images(indices, size).mean(1, keepdim=True) * 2 + 4
        if intrinsic == "normal":
            values = torch.nn.functional.normalize(self.images(indices, size), dim=1)
        values[:, :, :size // 4] = torch.nan
        return values

    @property
    def fingerprint(self):
        return "holes 1"


@pytest.mark.parametrize("intrinsic, encoding", [("depth", None), ("depth", "percentile"), ("normal", None)])
def test_exact_maps_with_holes_are_fitted_and_scored_in_latents(intrinsic, encoding, tmp_path):
    generator = FAMILIES["stable-diffusion"][0]()
    settings = {**SMALL, "intrinsic": intrinsic, "teacher": "exact", "samples": 12, "steps": 3, "evaluate": 4}
    probe = probes.fit(generator, data=Holes(), encoding=encoding, out=str(tmp_path / "run"), **settings)
    bank = probe.training_bank()
    assert torch.from_numpy(bank.latents.copy()).isnan().any() and torch.isfinite(bank.mean).all()
    rows = probe.last_evaluation.rows
    assert len(rows) == 4 and all(value == value for row in rows for key, value in row.items() if key != "seed")


def test_a_teacher_that_must_know_everything_may_not_say_nan(tmp_path):
    class Broken(Half):
        masked = False

    with pytest.raises(BankError, match="teacher: half returned values that are not finite"):
        open_bank(Request(STYLEGAN2(), Broken(), probes.get_intrinsic("albedo"), 0, 12), tmp_path)

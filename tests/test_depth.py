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
    kept = ~image.isnan()
    expected = _depth.encode(METRES[kept].view(1, 1, 6, 10), options(encoding))     # as if they had never been there
    assert torch.allclose(image[kept], expected.flatten(), atol=1e-6)


@pytest.mark.parametrize("meaning, suggested, wanted, own, expected", [
    ("metric", {}, None, {}, dict(encoding="linear", near=0.8, far=9.0)),
    ("metric", dict(encoding="log", far=80.0), None, {}, dict(encoding="log", near=0.8, far=80.0)),
    ("metric", dict(encoding="log", far=80.0), None, dict(encoding="linear", far=50.0), dict(encoding="linear", far=50.0)),
    ("metric", dict(far=80.0), "disparity,near=0.5", dict(near=0.1), dict(encoding="disparity", near=0.5, far=80.0)),
    ("metric", {}, "percentile", {}, dict(encoding="percentile")),
    ("relative", dict(encoding="percentile"), None, {}, dict(encoding="percentile")),
    ("relative", dict(encoding="percentile"), None, dict(encoding="relative"), dict(encoding="relative")),
    ("disparity", dict(encoding="inverse"), None, {}, dict(encoding="inverse")),
])
def test_what_was_asked_for_comes_before_what_the_teacher_suggests(meaning, suggested, wanted, own, expected):
    intrinsic = DEPTH.with_options(own)
    assert _depth.chosen(intrinsic.options, intrinsic.chosen, suggested, wanted, meaning).items() >= expected.items()


@pytest.mark.parametrize("meaning, wanted, possible", [
    ("relative", "log", "relative, percentile"), ("disparity", "percentile", "inverse"), ("metric", "inverse", "log, linear")])
def test_an_encoding_that_cannot_hold_a_teacher_s_depth_is_refused(meaning, wanted, possible):
    with pytest.raises(ValueError, match=f"encoding: {wanted} cannot hold .* {meaning}; choose of {possible}"):
        _depth.chosen(options("log"), (), {}, wanted, meaning)


def test_bad_encodings():
    with pytest.raises(ValueError, match="did you mean 'percentile'"):
        DEPTH.with_options(dict(encoding="percentil"))
    with pytest.raises(ValueError, match="near=3 and far=2"):
        DEPTH.with_options(dict(near=3, far=2))
    for text in ("linear,far=near", "linear,fra=3", "linear,far"):
        with pytest.raises(ValueError, match="encoding: expected NAME, or NAME,near=METRES,far=METRES"):
            _depth.parse(text)
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
    unknown = torch.from_numpy(bank.latents.copy()).isnan()             # two rows of eight show the hole, one is next to it
    assert unknown[:, :, :3].all() and not unknown[:, :, 3:].any() and torch.isfinite(bank.mean).all()
    rows = probe.last_evaluation.rows
    assert len(rows) == 4 and all(value == value for row in rows for key, value in row.items() if key != "seed")


class Far(Holes):
    """Depths of 5 to 220 m, known exactly."""

    masked, exact = False, ("depth",)

    def truth(self, indices, size, intrinsic):
        return (self.images(indices, size).mean(1, keepdim=True) + 1) * 107.5 + 5

    @property
    def fingerprint(self):
        return "far 1"


def test_truth_that_an_encoding_cannot_hold_is_scored_as_it_is(tmp_path, capsys):
    settings = {**SMALL, "intrinsic": "depth", "teacher": "exact", "samples": 12, "steps": 2, "evaluate": 4, "quiet": False}
    probe = probes.fit(FAMILIES["stable-diffusion"][0](), data=Far(), out=str(tmp_path / "near"), **settings)
    assert probe.last_evaluation.metrics["metrics"]["rms"]["trivial"]["value"] > 50      # everything encodes to 9 m
    assert "of the depth is nearer than 0.8 or farther than 9 m" in " ".join(capsys.readouterr().out.split())
    settings["encoding"] = "linear,near=1,far=250"
    probe = probes.fit(FAMILIES["stable-diffusion"][0](), data=Far(), out=str(tmp_path / "far"), **settings)
    assert probe.intrinsic.options["far"] == 250 and probe.last_evaluation.metrics["metrics"]["rms"]["trivial"]["value"] < 50
    assert "of the depth is nearer" not in " ".join(capsys.readouterr().out.split())


class Disparity(Half):
    name, masked = "disparity", False

    def label(self, image, intrinsic):
        return 1 / (image.mean(1, keepdim=True).sigmoid() * 6 + 1)

    def meaning(self, intrinsic):
        return "disparity"

    def options(self, intrinsic):
        return dict(encoding="inverse")


@pytest.mark.parametrize("encoding, teacher, judge, protocol", [
    (None, Disparity(), "exact", "depth-affine-disparity"), ("percentile", "exact", "exact", "depth-relative"),
    ("relative", "exact", "exact", "depth-minmax"),
    (None, Disparity(), Disparity(), "depth-relative"), (None, "exact", "exact", "depth-metric")])
def test_depths_that_mean_different_things_are_compared_by_a_protocol_that_can(encoding, teacher, judge, protocol, tmp_path):
    settings = {**SMALL, "intrinsic": "depth", "teacher": teacher, "samples": 12, "steps": 2, "evaluate": 0}
    probe = probes.fit(FAMILIES["stable-diffusion"][0](), data=Holes(), encoding=encoding, out=str(tmp_path), **settings)
    result = probe.evaluate(4, controls=["rgb"], against=judge)
    assert result.metrics["protocol"].startswith(protocol)
    judge = probe.judge(judge)
    truths = probe.truths(range(4), judge)
    # Whoever says exactly what the judge says, in the probe's own terms, makes no error beyond what the encoding cuts off.
    perfect = probe.intrinsic.encode(teacher.label(Holes().images(range(4), 32), "depth") if teacher != "exact"
                                     else Holes().truth(range(4), 32, "depth"), probe.intrinsic.options)
    scores = probe.scores(truths, lambda state: perfect.nan_to_num(0.0).expand(-1, 3, -1, -1), judge)
    if (encoding, judge.name) != (None, "exact") or teacher == "exact":
        assert scores[probe.protocol(judge).primary].max() < 0.03


def test_a_regression_learns_from_the_pixels_that_are_there():
    from probes._controls import LatentRegression, RGBRegression

    generator = STYLEGAN2()
    state = generator.prepare(generator.sample(range(200)))
    image = generator.image(state).cpu()
    rng = torch.Generator().manual_seed(0)

    class Kept:
        def __init__(self, targets):
            self.targets, self.mean = targets.numpy(), torch.nanmean(targets, 0)

        def __len__(self):
            return len(self.targets)

        def state(self, rows):
            return {name: value[rows] for name, value in state.items()}

        filled = __import__("probes").Bank.filled

    holes = image.clone()
    masked = torch.nn.functional.interpolate(torch.rand(200, 1, 8, 8, generator=rng), 32) < 0.5
    holes[masked.expand(-1, 3, -1, -1)] = torch.nan
    few = {name: value[:50] for name, value in state.items()}
    trivial = (image[:50] - image.mean(0)).square().mean().sqrt()
    rgb = RGBRegression(generator, Kept(holes)).predict(generator, few) - image[:50]
    assert rgb.square().mean().sqrt() < 0.01 * trivial
    errors = [(LatentRegression(generator, Kept(targets)).predict(generator, few) - image[:50]).square().mean().sqrt() / trivial
              for targets in (image, holes)]
    assert errors[1] < errors[0] + 0.1


@pytest.mark.parametrize("length, noise, most", [(1000, 0.1, 0.5), (80, 1.0, 0.85)])
def test_a_long_code_of_few_images_says_no_less_than_nothing(length, noise, most):
    """More numbers a code than images, or nearly as many: what its many small directions say of the bank is noise on other
    images, and the smallest penalty, which is best on the images that it is fitted on, says less than nothing of those."""
    from types import SimpleNamespace

    from probes._controls import LatentRegression

    rng = torch.Generator().manual_seed(0)
    scales = 1 / torch.arange(1, 1001.0) if length == 1000 else 1.0         # as an image's latents: few directions say most
    codes = torch.randn(500, length, generator=rng) * scales
    target = (codes[:, :2].sum(1) + noise * torch.randn(500, generator=rng)).view(-1, 1, 1, 1)

    class Kept:
        targets = target[:100].numpy()

        def __len__(self):
            return 100

        def state(self, rows):
            return {"code": codes[:100][rows]}

        def filled(self, rows, block):
            return target[:100].flatten(1)[rows, block]

    generator = SimpleNamespace(latent=lambda state: state["code"])
    said = LatentRegression(generator, Kept()).predict(generator, {"code": codes[100:]})[:, :1]
    error, trivial = ((a - target[100:]).square().mean().sqrt() for a in (said, target[:100].mean()))
    assert error < most * trivial


def test_a_teacher_that_must_know_everything_may_not_say_nan(tmp_path):
    class Broken(Half):
        masked = False

    with pytest.raises(BankError, match="teacher: half returned values that are not finite"):
        open_bank(Request(STYLEGAN2(), Broken(), probes.get_intrinsic("albedo"), 0, 12), tmp_path)

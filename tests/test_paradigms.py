"""Paradigms: what is sampled, the network that takes it apart, the recipe, and the embedded teacher against exact maps."""
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from probes.data.colour import linear_to_srgb, srgb_to_linear
from probes.teachers.paradigms import ParadigmsTeacher, sample_paradigms
from probes.teachers.paradigms._network import ParadigmsNet, integrate
from probes.teachers.paradigms._shapes import Draw, coordinates, layers, voronoi
from zoo import train_paradigms as recipe_of
from zoo.train_paradigms import Recipe, Trainer, answers, loss, scale_invariant_error, score

TINY = Recipe(batch=4, sizes=(16, 32), weights=(0.5, 0.5), seed=3)


def paradigms(n=24, size=48, seed=0):
    return sample_paradigms(n, size, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher():
    return ParadigmsTeacher()


def test_the_same_seed_gives_the_same_paradigms_and_another_others():
    first, second = paradigms(6), paradigms(6)
    assert torch.equal(first.image, second.image) and torch.equal(first.albedo, second.albedo)
    assert not torch.equal(first.shading, paradigms(6, seed=1).shading)


@pytest.mark.parametrize("size", [33, (24, 40)])
def test_sizes_and_odd_counts(size):
    made = paradigms(5, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert made.image.shape == made.albedo.shape == made.shading.shape == (5, 3, height, width)


def test_the_image_is_albedo_times_shading_up_to_what_the_camera_does():
    made = paradigms(64)
    assert 0.029 <= made.albedo.min() and made.albedo.max() <= 0.921
    assert made.shading.min() > 0 and 0 <= made.image.min() and made.image.max() <= 1
    off = (made.image - linear_to_srgb(made.product.clamp(0, 1))).abs()
    assert 0.001 < off.mean() < 0.02                                    # blurred and noisy, but slightly
    top = made.product.amax(1).flatten(1).quantile(0.98, dim=1)
    assert 0.35 < top.min() and top.max() < 1.45 and (top > 1).any()    # some clip


def test_albedo_is_piecewise_constant_and_shading_is_smooth_and_nearly_grey():
    made = paradigms(64)

    def gradients(x):
        return x.log().mean(1).diff(dim=-1).abs()

    assert (gradients(made.albedo) < 1e-4).float().mean() > 0.55
    smooth = gradients(made.shading)
    assert (smooth < 1e-4).float().mean() < 0.3                         # it does change nearly everywhere,
    assert (smooth < 0.05).float().mean() > 0.85                        # by little,
    assert smooth.max() > 0.3                                           # but for creases and shadows
    colour = (made.shading / made.shading.mean(1, keepdim=True) - 1).abs()
    assert colour.mean() < 0.05 and colour.max() < 0.5
    saturation = (made.albedo.amax(1) - made.albedo.amin(1)) / made.albedo.amax(1)
    assert saturation.mean() > 3 * colour.mean()


def test_distances_are_distances():
    """A signed distance changes by a pixel from pixel to pixel at most, and cells cover all of theirs but at the edges."""
    draw = Draw(16, (48, 48), torch.Generator().manual_seed(0))
    height, width = draw.size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = ((torch.stack((x, y)).flatten(1) + 0.5 - 24) * draw.pixel).expand(16, -1, -1)
    distance = layers(draw, grid, 6).distance.reshape(16, 6, 48, 48)
    assert (distance.diff(dim=3).abs() <= draw.pixel * 1.05).float().mean() > 0.97
    assert 0.02 < (distance < 0).float().mean() < 0.5
    cells = voronoi(draw, coordinates(draw), 8)
    assert cells.share.min() >= 0.49 and (cells.share == 1).float().mean() > 0.7
    flat = cells.paint(torch.ones(16, 8, 3))
    assert torch.allclose(flat, torch.ones_like(flat))


def test_the_loss_is_blind_to_scale_and_to_nothing_else():
    made = paradigms(4)
    truth = made.shading.mean(1, keepdim=True).log()
    assert loss(truth, made) < 1e-6 and loss(truth + 2, made) < 1e-5
    assert loss(truth * 0.5, made) > 0.02


def test_scale_invariant_error_by_hand():
    truth = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    assert scale_invariant_error(3 * truth, truth).item() == pytest.approx(0, abs=1e-6)
    # (1, 1) scaled by 3/2: off by a half on both
    assert scale_invariant_error(torch.ones(1, 1, 1, 2), truth).item() == pytest.approx(0.5)


def test_a_network_with_nothing_to_say_is_a_soft_retinex():
    """A coloured edge is the albedo's, a grey gradient the shading's, up to the share that the start gives it."""
    network = ParadigmsNet()
    torch.nn.init.zeros_(network.head.weight)
    albedo = torch.full((1, 3, 32, 32), 0.2)
    albedo[..., 16:] = torch.tensor([0.6, 0.3, 0.1])[:, None, None]
    ramp = torch.linspace(0.3, 1, 32)[None, None, :, None]
    with torch.no_grad():
        log_shading = network(linear_to_srgb(albedo * ramp))
    rows = log_shading[0, 0, -1] - log_shading[0, 0, 0]
    assert 0.5 * np.log(1 / 0.3) < rows.mean().item() < 0.9 * np.log(1 / 0.3)      # nearness to even light takes some
    assert (log_shading[0, 0, :, 16] - log_shading[0, 0, :, 15]).abs().max() < 0.02


def test_integration_finds_the_field_of_its_differences():
    field = torch.randn(2, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    field = field - field.mean((1, 2, 3), keepdim=True)
    d = field.diff(dim=2), field.diff(dim=3)
    assert torch.allclose(integrate(*d, 1e-7), field, atol=1e-4)
    # pulled to nothing, the slowest wave of 17 columns keeps e / (e + nearness), e its eigenvalue
    wave = torch.cos(torch.pi * (torch.arange(17) + 0.5) / 17).expand(1, 1, 13, 17)
    e = 2 - 2 * np.cos(np.pi / 17)
    assert torch.allclose(integrate(wave.diff(dim=2), wave.diff(dim=3), e), wave / 2, atol=1e-4)


def test_the_recipe_goes_on_exactly_where_it_stopped(tmp_path):
    settings = dict(steps=6, recipe=TINY, device="cpu", exact_scenes=2)
    recipe_of.main(str(tmp_path / "whole"), **settings)
    recipe_of.main(str(tmp_path / "halves"), **settings, until=3)
    assert not (tmp_path / "halves" / "paradigms.json").exists()
    recipe_of.main(str(tmp_path / "halves"), **settings)
    whole, halves = (load_file(tmp_path / name / "paradigms.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[k], halves[k]) for k in whole)
    card = json.loads((tmp_path / "halves" / "paradigms.json").read_text())
    assert card["steps"] == 6 and card["recipe"]["seed"] == 3 and card["images"] > 0
    assert set(card["comparison"]["albedo"]) == {"paradigms", "untrained", "Retinex", "constant", "the image itself"}
    with pytest.raises(ValueError, match="steps: .* has 6, .*got 7; give --steps 6"):
        recipe_of.main(str(tmp_path / "whole"), steps=7, recipe=TINY, device="cpu")
    with pytest.raises(ValueError, match="another seed; choose another --out"):
        recipe_of.main(str(tmp_path / "whole"), steps=6, recipe=Recipe(batch=4, sizes=(16, 32), weights=(0.5, 0.5)),
                       device="cpu")


def test_a_network_can_learn_a_batch_by_heart():
    trainer = Trainer(Recipe(batch=4, sizes=(16,), weights=(1.0,), learning_rate=3e-3, ema_steps=5), 40, torch.device("cpu"))
    start = trainer.rng.get_state()
    losses = []
    for _ in range(40):
        trainer.rng.set_state(start)
        losses.append(trainer.train_step())
    assert losses[-1] < 0.6 * losses[0]


def test_it_is_nearer_to_exact_maps_than_retinex_and_than_looking_at_nothing(teacher):
    errors = {name: {k: np.mean(v) for k, v in score(answer, range(32)).items()}
              for name, answer in answers(teacher.network, teacher.averaging).items()}
    for intrinsic in ("albedo", "shading"):
        assert errors["paradigms"][intrinsic] < 0.95 * errors["Retinex"][intrinsic]
        assert errors["paradigms"][intrinsic] < 0.9 * min(errors["constant"][intrinsic], errors["the image itself"][intrinsic])


def test_its_card_holds_what_it_says_elsewhere(teacher):
    for intrinsic in ("albedo", "shading"):
        row = teacher.card["comparison"][intrinsic]
        own = row["paradigms"]
        assert own["ci95"][0] < own["value"] < own["ci95"][1] < row["Retinex"]["value"]
        assert {k: v for k, v in teacher.exact_errors(intrinsic).items() if k != "scenes"} == {
            f"{intrinsic} scale-invariant RMS": own["value"]} and "64 px" in teacher.exact_errors(intrinsic)["scenes"]
    assert "scenes 0-499" in teacher.card["comparison"]["data"]
    assert teacher.options("albedo") == {} and teacher.meaning("albedo") == ""


@pytest.mark.parametrize("size", [(37, 50), (16, 16), (300, 512)])
def test_any_size_and_the_product_is_the_image(teacher, size):
    image = torch.nn.functional.interpolate(paradigms(2, 64).image, size, mode="bilinear") * 2 - 1
    albedo, shading = teacher.label(image, "albedo"), teacher.label(image, "shading")
    assert albedo.shape == (2, 3, *size) and shading.shape == (2, 1, *size)
    for x in (albedo, shading):
        assert 0 <= x.min() and x.max() <= 1 and x.dtype == torch.float32 and not x.isnan().any()
    product = linear_to_srgb(srgb_to_linear(albedo) * srgb_to_linear(shading))
    open_ = (albedo.amax(1, keepdim=True) < 0.999) & (image.amin(1, keepdim=True) > -0.8)
    assert ((product - (image + 1) / 2).abs() * open_).max() < 0.01
    assert srgb_to_linear(shading).flatten(1).quantile(0.99, dim=1).min() > 0.98


def test_a_shadow_keeps_its_edge_on_a_large_picture(teacher):
    """Worked on small and enlarged, what of a grey edge is taken for shadow falls within three pixels of 400."""
    image = torch.full((1, 3, 400, 400), 0.7)
    image[..., 200:] = 0.45
    shading = srgb_to_linear(teacher.label(image * 2 - 1, "shading"))[0, 0, 200].log()
    step = shading[196] - shading[203]
    assert step > 0.05 and shading[190] - shading[196] < 0.1 * step and shading[203] - shading[210] < 0.1 * step


def test_turned_copies_are_averaged(teacher):
    image = paradigms(2, 32).image * 2 - 1
    full = ParadigmsTeacher(averaging=8)
    one = ParadigmsTeacher(averaging=1)
    turned = torch.rot90(full.label(torch.rot90(image, 1, (2, 3)), "shading"), -1, (2, 3))
    assert (turned - full.label(image, "shading")).abs().max() < 2e-3
    apart = torch.rot90(one.label(torch.rot90(image, 1, (2, 3)), "shading"), -1, (2, 3)) - one.label(image, "shading")
    assert apart.abs().max() > 1e-3 and full.fingerprint != one.fingerprint


@pytest.mark.parametrize("call, message", [
    (lambda t: t.label(torch.zeros(1, 3, 15, 40), "albedo"), "16x16 pixels or more, got 15x40; enlarge"),
    (lambda t: ParadigmsTeacher(averaging=9), "averaging: .* got 9; give 1 to 8"),
])
def test_refusals(teacher, call, message):
    with pytest.raises(ValueError, match=message):
        call(teacher)

"""StyleGAN3 and StyleGAN-XL against the reference's numbers, the papers' promises, and the plain formulation."""
import dataclasses
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generators.stylegan_xl import (
    InputGeometry,
    LayerGeometry,
    StyleGANXLConfig,
    StyleGANXLNetwork,
    fold_gains,
    learning_rate_scales,
    lowpass,
    schedule,
)
from generators.stylegan_xl._layers import FourierInput, SynthesisLayer

GOLDEN = Path(__file__).parent / "golden"
GOLDENS = ("stylegan-xl-tiny", "stylegan-xl-tiny-conditional")
WIDTHS = dict(channel_base=256, channel_max=12)


def golden(name):
    """(configuration, raw state, specification, arrays) of a golden file."""
    fill = runpy.run_path(str(GOLDEN / "fill.py"))["fill"]
    spec, arrays = json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")
    layers = tuple(LayerGeometry(name=key, **geometry) for key, geometry in spec["layers"].items())
    config = StyleGANXLConfig(
        layers[-1].out_size[0], InputGeometry(**spec["input"]), layers, z_dim=spec["z_dim"], c_dim=spec["c_dim"],
        w_dim=spec["w_dim"], embedding="pretrained" if spec["c_dim"] else "none", output_scale=spec["output_scale"])
    state = {key: torch.as_tensor(fill(key, shape)) for key, shape in spec["state"].items()}
    state |= {f"synthesis.{key}": torch.from_numpy(arrays[key]) for key in arrays if key.endswith("_filter")}
    return config, state, spec, arrays


def small(seed=0, radial=False, calibrated=True, **options):
    kind = dict(conv_kernel=1, use_radial_filters=True) if radial else {}
    entry, layers = schedule(32, 6, **WIDTHS, **kind)
    network = StyleGANXLNetwork(StyleGANXLConfig(32, entry, layers, **{**dict(z_dim=8, w_dim=12), **options}), seed)
    if calibrated:
        network.synthesis.calibrate([latents(network, 4)])
    return network


def normals(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def latents(network, count, seed=5):
    c_dim = network.config.c_dim
    return network.mapping(normals(count, network.config.z_dim, seed=seed), torch.arange(count) % c_dim if c_dim else None)


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    config, state, spec, arrays = golden(name)
    network = StyleGANXLNetwork(config, seed=0)
    network.load_state_dict(fold_gains(state, config), strict=True)
    z = torch.from_numpy(arrays["z"])
    c = torch.from_numpy(arrays["c"]) if spec["c_dim"] else None
    expected = {key: torch.from_numpy(arrays[key]) for key in ("ws", "image", "ws_grad")}
    ws = network.mapping(z, c, truncation_psi=spec["truncation_psi"])
    assert (ws - expected["ws"]).abs().max() < 1e-7
    rng = np.random.RandomState(spec["seed"])
    rng.standard_normal(z.shape)
    if c is not None:
        assert rng.randint(0, spec["c_dim"], len(z)).tolist() == c.argmax(1).tolist()
    ws = expected["ws"].requires_grad_()
    image = network.synthesis(ws)
    assert (image - expected["image"]).abs().max() < 2e-6 and expected["image"].std() > 0.03
    probe = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    (gradient,) = torch.autograd.grad((image * probe).mean(), ws)
    for i in range(config.num_ws):          # layer by layer, since the largest gradients would hide the others
        scale = expected["ws_grad"][:, i].abs().max()
        assert (gradient[:, i] - expected["ws_grad"][:, i]).abs().max() < 1e-4 * scale, i


@pytest.mark.parametrize("name", GOLDENS)
def test_schedule_and_filters_are_the_references(name):
    config, _, spec, arrays = golden(name)
    build = spec["build"]
    widths = dict(channel_base=build["cbase"], channel_max=build["cmax"])
    resolution = build["stem_res"]
    entry, layers = schedule(resolution, build["syn"], **widths)
    for factor in build["ups"]:
        stem = StyleGANXLConfig(resolution, entry, layers)
        resolution *= factor
        entry, layers = schedule(resolution, build["head"], stem=stem, **widths)
    assert entry == config.input and [layer.name for layer in layers] == list(spec["layers"])
    for layer in layers:
        for key, value in spec["layers"][layer.name].items():
            ours = getattr(layer, key)
            assert (list(ours) if isinstance(ours, tuple) else ours) == pytest.approx(value), (layer.name, key)
        if not layer.is_torgb:
            up = lowpass(layer.up_taps, layer.in_cutoff, layer.in_half_width, layer.activation_rate)
            down = lowpass(layer.down_taps, layer.out_cutoff, layer.out_half_width, layer.activation_rate)
            assert np.abs(up.numpy() - arrays[f"{layer.name}.up_filter"]).max() < 1e-7
            assert np.abs(down.numpy() - arrays[f"{layer.name}.down_filter"]).max() < 1e-7


def test_configuration_survives_json():
    for config in (golden(GOLDENS[1])[0], small(radial=True).config):
        assert StyleGANXLConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert hash(config) == hash(StyleGANXLConfig.from_dict(config.to_dict()))


def test_stylegan3_t_has_its_published_geometry():
    entry, layers = schedule(256)
    assert (len(layers), entry.size, layers[0].in_channels) == (15, (36, 36), 512)
    assert [layer.out_sampling_rate for layer in layers][::5] == [16, 64, 256] and layers[-1].out_size == (256, 256)
    assert sum(layer.is_critically_sampled for layer in layers) == 3            # two layers and ToRGB
    for layer in layers[:-3]:       # the transition band begins within the signal and ends where aliases would begin
        assert layer.out_cutoff + layer.out_half_width >= layer.out_sampling_rate / 2
    for layer in schedule(256, conv_kernel=1, use_radial_filters=True)[1]:
        assert layer.conv_kernel == 1 and layer.down_radial == (not layer.is_critically_sampled)


@pytest.mark.parametrize("radial", [False, True])
def test_filters_pass_what_they_should_and_stop_what_they_should(radial):
    cutoff, half_width, rate, taps = 4.0, 2.0, 32.0, 24
    taps_1d = lowpass(taps, cutoff, half_width, rate, radial)
    kernel = taps_1d.double() if radial else torch.outer(taps_1d, taps_1d).double()
    assert kernel.sum() == pytest.approx(1, abs=1e-6) and torch.equal(kernel, kernel.flip(0, 1))
    positions = (torch.arange(taps) - (taps - 1) / 2).double() / rate

    def response(fx, fy):
        waves = torch.exp(-2j * math.pi * (fx * positions[:, None] + fy * positions[None, :]))
        return (kernel * waves).sum().abs().item()

    assert abs(response(1.0, 0.0) - 1) < 0.02 and response(cutoff + half_width, 0.0) < 0.05 and response(12, 0) < 0.01
    assert 0.4 < response(cutoff, 0.0) < 0.6
    diagonal = response(cutoff / math.sqrt(2), cutoff / math.sqrt(2))
    assert (abs(diagonal - response(cutoff, 0.0)) < 0.02) == radial          # only the radial one is round


def plain_filter(x, taps, up, down, padding):
    """Zero insertion, padding or cropping, correlation with a symmetric filter, decimation; written out."""
    n, channels, height, width = x.shape
    y = x.new_zeros(n, channels, height, up, width, up)
    y[:, :, :, 0, :, 0] = x
    y = F.pad(y.view(n, channels, height * up, width * up), padding)
    kernel = torch.ones(1, 1) if taps is None else taps if taps.ndim == 2 else torch.outer(taps, taps)
    y = F.conv2d(y, kernel.to(x).expand(channels, 1, *kernel.shape), groups=channels)
    return y[:, :, ::down, ::down] * up**2


@pytest.mark.parametrize("radial", [False, True])
def test_layer_is_the_papers_formula(radial):
    """Weights built per sample, demodulated; bias, upsampling, leaky ReLU, clamp, downsampling (figure 4b)."""
    kind = dict(conv_kernel=1, use_radial_filters=True) if radial else {}
    geometry = dataclasses.replace(schedule(64, 6, **WIDTHS, **kind)[1][2], conv_clamp=1.5)
    layer = SynthesisLayer(geometry, 10, 0.999)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    layer.magnitude_ema.fill_(2.5)
    x, w = normals(2, geometry.in_channels, *geometry.in_size), normals(2, 10, seed=3)
    with torch.no_grad():
        ours = layer(x, w)
        images = []
        for image, styles in zip(x, layer.affine(w), strict=True):
            weight = layer.weight * styles[None, :, None, None]
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True))
            images.append(F.conv2d(image[None], weight / math.sqrt(2.5), padding=geometry.conv_kernel - 1))
        y = torch.cat(images) + layer.bias[:, None, None]
        y = plain_filter(y, layer.up_filter, geometry.up_factor, 1, geometry.padding)
        y = (math.sqrt(2) * F.leaky_relu(y, 0.2)).clamp(-1.5, 1.5)
        y = plain_filter(y, layer.down_filter, 1, geometry.down_factor, (0, 0, 0, 0))
    assert ours.shape == (2, geometry.out_channels, *geometry.out_size)
    torch.testing.assert_close(ours, y, atol=2e-5, rtol=1e-4)
    assert (y.abs() > 1).any()              # the clamp acts


def test_fourier_features_are_sines_over_the_image_plane():
    geometry = InputGeometry(channels=6, size=(7, 5), sampling_rate=4.0, bandwidth=1.0)
    entry = FourierInput(geometry, 3)
    entry.freqs.copy_(torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.6, -0.8], [1.5, 0.0], [0.0, 2.5], [0.1, 0.2]]))
    entry.phases.copy_(torch.arange(6) / 7)
    torch.nn.init.eye_(entry.weight)
    torch.nn.init.zeros_(entry.affine.weight)
    with torch.no_grad():
        entry.affine.bias.copy_(torch.tensor([2.0, 0.0, 0.25, 0.0]))        # no rotation, a quarter to the right
        x = entry(torch.zeros(1, 3))[0]
    columns, rows = (torch.arange(7) - 3) / 4 - 0.125, (torch.arange(5) - 2) / 4
    assert x.shape == (6, 5, 7)
    for channel, (fx, fy) in enumerate(entry.freqs.tolist()):
        wave = torch.sin(2 * math.pi * (fx * columns[None] + fy * rows[:, None] + channel / 7))
        fading = min(max(2 - math.hypot(fx, fy), 0), 1)                     # 1 within the band, 0 from the Nyquist rate on
        torch.testing.assert_close(x[channel], fading * wave, atol=1e-5, rtol=0)


def psnr(a, b):
    return 10 * math.log10(a.square().mean() / (a - b).square().mean().clamp_min(1e-20))


def test_a_shifted_input_shifts_the_picture():
    """The promise of the alias-free generator (section 2): a translated input gives the translated picture."""
    network = small(seed=1)
    ws = latents(network, 2)
    with torch.no_grad():
        still = network.synthesis(ws)
        network.synthesis.input.affine.bias[2] = 4 / 32                 # four pixels to the right
        moved = network.synthesis(ws)
        network.synthesis.input.affine.bias[2] = 4.5 / 32
        half_more = network.synthesis(ws)
    assert psnr(still[..., :-4], moved[..., 4:]) > 20                   # aliasing is what is left
    assert psnr(still[..., :-4], half_more[..., 4:]) < psnr(still[..., :-4], moved[..., 4:]) - 6
    assert psnr(still, moved) < 10


def test_a_turned_input_turns_the_picture():
    """Config R (section 3.3): 1x1 convolutions and radial filters, so that nothing depends on direction."""
    network = small(seed=1, radial=True)
    ws = latents(network, 2)
    with torch.no_grad():
        still = network.synthesis(ws)
        network.synthesis.input.affine.bias[:2] = torch.tensor([0.0, 1.0])
        turned = network.synthesis(ws)
    assert max(psnr(still.rot90(k, (2, 3)), turned) for k in (1, 3)) > 60
    assert psnr(still, turned) < 10


def test_calibration_measures_every_layers_input():
    network = small(calibrated=False)
    ws = latents(network, 6)
    seen = {}
    for layer in network.synthesis.layers():
        layer.register_forward_hook(lambda m, args, _: seen.__setitem__(m.geometry.name, args[0].square().mean().item()))
    before = network.synthesis(ws).std()
    network.synthesis.calibrate([ws])
    after = network.synthesis(ws)
    for layer in network.synthesis.layers():
        assert layer.magnitude_ema.item() == pytest.approx(seen[layer.geometry.name], rel=1e-4)
    assert 0.1 < after.std() < 0.5 and abs(after.std() - before) > 0.02
    halves = small(calibrated=False)
    halves.synthesis.calibrate([ws[:4], ws[4:]])
    for one, both in zip(network.synthesis.layers(), halves.synthesis.layers(), strict=True):
        assert one.magnitude_ema.item() == pytest.approx(both.magnitude_ema.item(), rel=1e-4)


def test_magnitudes_and_means_move_only_when_asked():
    network = small(c_dim=3, embedding="pretrained", embed_rows=4, embed_dim=5)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    ws = latents(network, 5)
    network.synthesis(ws)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    network.synthesis(2 * ws, update_emas=True)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {f"synthesis.{layer.name}.magnitude_ema" for layer in network.config.layers[1:]}
    network.mapping.w_avg.fill_(0.5)
    network.mapping.update_w_avg(torch.ones(4, 12), torch.tensor([0, 2, 2, 0]))
    rate = 1 - network.config.w_avg_beta
    torch.testing.assert_close(network.mapping.w_avg[:, 0], 0.5 + torch.tensor([rate, 0.0, rate]) / 2)
    plain = small()
    plain.mapping.update_w_avg(torch.tensor([[1.0] * 12, [3.0] * 12]))
    torch.testing.assert_close(plain.mapping.w_avg, torch.full((12,), 2 * rate))


@pytest.mark.parametrize("embedding", ["linear", "pretrained"])
def test_classes_and_truncation(embedding):
    network = small(c_dim=3, embedding=embedding, embed_rows=4, embed_dim=5)
    z, c = normals(3, 8), torch.tensor([0, 2, 1])
    ws = network.mapping(z, c)
    torch.testing.assert_close(ws, network.mapping(z, F.one_hot(c, 3).float()), rtol=0, atol=0)
    assert not torch.allclose(ws[0], network.mapping(z, torch.tensor([1, 2, 1]))[0], atol=1e-3)
    network.mapping.w_avg.copy_(normals(*network.mapping.w_avg.shape, seed=9))
    averages = network.mapping.w_avg
    own = averages[c] if embedding == "pretrained" else averages.expand(3, -1)
    shared = averages.mean(0) if embedding == "pretrained" else averages
    torch.testing.assert_close(network.mapping(z, c, truncation_psi=0)[:, 3], own)
    half = network.mapping(z, c, truncation_psi=0.5, truncate_to="global", truncation_cutoff=2)
    torch.testing.assert_close(half[:, 1], (ws[:, 1] + shared) / 2)
    torch.testing.assert_close(half[:, 2:], ws[:, 2:])
    with pytest.raises(ValueError, match="c is missing.*class numbers or one-hot"):
        network.mapping(z)
    with pytest.raises(ValueError, match=r"c has shape \[3, 4\], expected \[N, 3\]"):
        network.mapping(z, torch.eye(4)[:3])
    with pytest.raises(ValueError, match="truncate_to='nearest'.*'class', 'global'"):
        network.mapping(z, c, truncate_to="nearest")


def test_every_parameter_trains_with_its_learning_rate():
    network = small(c_dim=3, embedding="pretrained", embed_rows=3, embed_dim=5)
    ws = network.mapping(normals(4, 8), torch.arange(4) % 3)
    network.synthesis(ws, update_emas=True).square().mean().backward()
    scales = learning_rate_scales(network)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert scales.keys() == dict(network.named_parameters()).keys()
    last = network.config.layers[-1]
    expected = {
        "mapping.fc0.weight": 0.01 / 16**0.5, "mapping.fc1.bias": 0.01, "mapping.embed_proj.weight": 5**-0.5,
        "mapping.embed.weight": 1, "synthesis.input.weight": network.config.input.channels**-0.5,
        "synthesis.input.affine.weight": 12**-0.5, "synthesis.L0_36_12.affine.weight": 12**-0.5,
        "synthesis.L0_36_12.weight": 1, f"synthesis.{last.name}.affine.bias": last.in_channels**-0.5,
        f"synthesis.{last.name}.affine.weight": (12 * last.in_channels) ** -0.5}
    assert {name: scales[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(KeyError, match="L9_99_9.weight.*no entry of a 32 px"):
        fold_gains({"synthesis.L9_99_9.weight": torch.ones(1)}, network.config)


def test_double_precision_gradients_are_finite_differences():
    network = small(seed=2).double()
    ws = latents(network, 1).double()
    probe = normals(1, 3, 32, 32, seed=4).double()

    def value(ws, weight):
        return (torch.func.functional_call(network.synthesis, {"L1_36_12.weight": weight}, (ws,)) * probe).sum()

    weight = network.synthesis.L1_36_12.weight.detach()
    direction, direction_w = normals(*ws.shape, seed=6).double(), normals(*weight.shape, seed=7).double()
    inputs = ws.clone().requires_grad_(), weight.clone().requires_grad_()
    gradients = torch.autograd.grad(value(*inputs), inputs)
    step = 1e-6
    with torch.no_grad():
        for moved, gradient, d in ((0, gradients[0], direction), (1, gradients[1], direction_w)):
            plus, minus = [list(map(torch.Tensor.detach, inputs)) for _ in range(2)]
            plus[moved], minus[moved] = plus[moved] + step * d, minus[moved] - step * d
            slope = (value(*plus) - value(*minus)) / (2 * step)
            assert slope.item() == pytest.approx((gradient * d).sum().item(), rel=1e-4)


@pytest.mark.parametrize(("change", "message"), [
    (dict(z_dim=0), "z_dim=0: expected a whole number >= 1"),
    (dict(c_dim=3), "embedding='none' with c_dim=3"),
    (dict(c_dim=3, embedding="clip"), "embedding='clip': expected one of 'none', 'linear', 'pretrained'"),
    (dict(c_dim=3, embedding="pretrained", embed_rows=2), "embed_rows=2.*each of 3 classes"),
    (dict(w_avg_beta=1.5), r"w_avg_beta=1.5: expected a decay in \[0, 1\)"),
    (dict(img_resolution=64), r"draws 3 channels of \(32, 32\), expected 3 of \(64, 64\)"),
    (dict(layers=()), "expected one ToRGB layer, the last"),
])
def test_nonsense_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small(calibrated=False).config, **change)


def test_nonsense_geometry_is_named():
    entry, layers = schedule(32, 6, **WIDTHS)
    for change, message in [
        (dict(padding=(10, 9, 9, 8)), "L1_36_12: its kernel, filters and padding make 37 samples of 36, its out_size says 36"),
        (dict(up_factor=4), "L1_36_12"),
        (dict(in_cutoff=-1.0), "L1_36_12.in_cutoff=-1.0: expected a positive"),
        (dict(name="../evil"), "layer name '../evil'"),
        (dict(padding=(9, 8)), "padding=.*expected 4 whole numbers"),
        (dict(is_torgb="no"), "is_torgb='no': expected True or False"),
        (dict(in_channels=True), "in_channels=True: expected a whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(layers[1], **change)
    with pytest.raises(ValueError, match=r"L2_52_12 takes 12 channels .* but the input gives 11 of \(36, 36\)"):
        StyleGANXLConfig(32, dataclasses.replace(entry, channels=11), layers[2:])
    with pytest.raises(ValueError, match="L0_36_12 appears twice"):
        StyleGANXLConfig(32, entry, (layers[0], *layers))
    with pytest.raises(ValueError, match="unknown option 'noise'"):
        StyleGANXLConfig.from_dict({**small(calibrated=False).config.to_dict(), "noise": 1})
    with pytest.raises(ValueError, match="input, layers missing"):
        StyleGANXLConfig.from_dict({"img_resolution": 32})
    with pytest.raises(ValueError, match="num_critical"):
        schedule(32, 2, 2)
    with pytest.raises(ValueError, match="img_resolution=48: expected a power of two"):
        schedule(48)
    with pytest.raises(ValueError, match="stem: it draws 32 px"):
        schedule(32, 4, stem=small(calibrated=False).config)
